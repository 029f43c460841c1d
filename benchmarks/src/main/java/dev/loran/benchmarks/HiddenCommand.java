package dev.loran.benchmarks;

import dev.loran.engine.Autograd;
import dev.loran.engine.Backend;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.io.SafeTensors;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Parameters;

/// `loran bench hidden`: what a model with an adapter makes of some texts, for `peers/hidden_states.py`, which asks the real
/// peft for the same.
@Command(
        name = "hidden",
        mixinStandardHelpOptions = true,
        description = "Writes input_ids, attention_mask (B, T) and hidden (B, T, C) to a safetensors file.")
final class HiddenCommand implements Callable<Integer> {
    private static final int MAX_LENGTH = 64;

    @Parameters(index = "0", paramLabel = "MODEL", description = "a Hugging Face model folder")
    private Path modelFolder;

    @Parameters(index = "1", paramLabel = "ADAPTER", description = "an adapter's folder")
    private Path adapter;

    @Parameters(index = "2", paramLabel = "OUT", description = "the file to write")
    private Path out;

    @Parameters(index = "3..*", paramLabel = "TEXT", arity = "1..*", description = "texts")
    private List<String> texts;

    @Override
    public Integer call() {
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(modelFolder);
                Model model = HfModels.load(modelFolder, backend);
                PeftModel peft = new PeftModel(model, 0);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, adapter);
            model.prepare();
            int[][] rows = texts.stream()
                    .map(t -> tokenizer.encode(t, MAX_LENGTH).ids())
                    .toArray(int[][]::new);
            int length = Arrays.stream(rows).mapToInt(r -> r.length).max().orElseThrow();
            int[] ids = new int[rows.length * length];
            int[] mask = new int[ids.length];
            for (int row = 0; row < rows.length; row++) {
                System.arraycopy(rows[row], 0, ids, row * length, rows[row].length);
                Arrays.fill(mask, row * length, row * length + rows[row].length, 1);
            }
            Tensor inputIds = Tensor.ofInts(backend, ids, rows.length, length);
            Tensor attentionMask = Tensor.ofInts(backend, mask, rows.length, length);
            Tensor hidden = model.hidden(inputIds, attentionMask);
            SafeTensors.write(out, Map.of("input_ids", inputIds, "attention_mask", attentionMask, "hidden", hidden));
            return 0;
        }
    }
}
