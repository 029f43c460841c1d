package dev.loran.benchmarks;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.GradClip;
import dev.loran.kernels.Backends;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import picocli.CommandLine.Command;

/// `loran bench answers`: outputs of models with adapters, for `peers/exchange.py`, which compares them with those of
/// the real peft.
@Command(
        name = "answers",
        mixinStandardHelpOptions = true,
        description = {
            "Answers requests from standard input, one a line, its fields set apart by tabs: MODEL ADAPTER IN OUT",
            "loads an adapter, and writes the logits and hidden states of the texts IN (input_ids, attention_mask) to",
            "the safetensors file OUT. MODEL ADAPTER IN OUT SAVED trains a new adapter by ADAPTER's configuration for",
            "five steps on IN (labels too) first and saves it to SAVED; a sixth field \"plain\" saves it as plain",
            "LoRA. Says ok, or what went wrong, in one line for each."
        })
final class AnswersCommand implements Callable<Integer> {
    private static final int STEPS = 5;

    @Override
    public Integer call() throws IOException {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (Backend backend = Backends.best()) {
            for (String line = requests.readLine(); line != null; line = requests.readLine()) {
                System.out.println(answer(backend, line.split("\t", -1)));
            }
        }
        return 0;
    }

    /// Whatever is wrong with one request, the next one is still answered.
    private static String answer(Backend backend, String[] fields) {
        if (fields.length < 4 || fields.length > 6) {
            return "a request has 4 to 6 fields, not " + fields.length;
        }
        try {
            answer(backend, fields, Path.of(fields[0]), Path.of(fields[1]));
            return "ok";
        } catch (RuntimeException e) {
            return e.toString().lines().collect(Collectors.joining(" "));
        }
    }

    private static void answer(Backend backend, String[] fields, Path modelFolder, Path adapter) {
        try (SafeTensors texts = SafeTensors.open(Path.of(fields[2]));
                Model model = HfModels.load(modelFolder, backend);
                PeftModel peft = new PeftModel(model, 0);
                Scope scope = Scope.open()) {
            Tensor ids = texts.tensor(backend, "input_ids", DType.I32);
            Tensor mask = texts.tensor(backend, "attention_mask", DType.I32);
            if (fields.length == 4) {
                peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, adapter);
                model.prepare();
            } else {
                PeftConfig config = AdapterFiles.config(adapter);
                if (config.taskType() == TaskType.SEQ_CLS && model.classifier() == null) {
                    // Its files specify the number of classes of the new head.
                    peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, adapter);
                } else {
                    peft.addAdapter(PeftModel.DEFAULT_ADAPTER, config, true);
                }
                model.prepare();
                train(peft, ids, mask, texts.tensor(backend, "labels", DType.I32));
                Path saved = Path.of(fields[4]);
                if (fields.length == 6) {
                    peft.saveConverted(saved);
                } else {
                    peft.savePretrained(saved);
                }
            }
            try (Autograd.Mode mode = Autograd.noGrad()) {
                Map<String, Tensor> answers =
                        Map.of("logits", peft.logits(ids, mask), "hidden", model.hidden(ids, mask));
                SafeTensors.write(Path.of(fields[3]), answers);
            }
        }
    }

    private static void train(PeftModel peft, Tensor ids, Tensor mask, Tensor labels) {
        Model model = peft.model();
        Tuner tuner = peft.active();
        tuner.beginTraining(STEPS);
        model.train(true);
        try (AdamW adamW = new AdamW(model.backend(), DType.F32, AdamW.Config.of(0));
                GradClip clip = new GradClip(model.backend(), DType.F32, 1)) {
            for (int step = 1; step <= STEPS; step++) {
                peft.microStep(step);
                try (Scope scope = Scope.open()) {
                    peft.loss(ids, mask, labels).backward();
                }
                Map<String, Tensor> parameters = tuner.parameters();
                clip.norm(parameters.values());
                adamW.advance(0.05);
                adamW.step(parameters, clip.scale());
                tuner.afterStep(step, clip.scale(), adamW);
                adamW.zeroGrad(parameters);
            }
        }
        model.train(false);
    }
}
