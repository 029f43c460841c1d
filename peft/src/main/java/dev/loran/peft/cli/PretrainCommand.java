package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.backend.DType;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.tokenizer.BpeTrainer;
import dev.loran.peft.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;

/// `loran pretrain`: `loran train` of all parameters of a new Llama-shaped model for next-token prediction, on texts
/// joined to rows of equal length.
@Command(
        name = "pretrain",
        description = "Trains a new Llama-shaped language model, with random weights at first, on your texts.",
        sortOptions = false,
        footer = {
            "",
            "Rows are JSON Lines: {\"text\"}. All texts, each with an end token, are joined and cut into rows "
                    + "of --max-length tokens, the number of positions of the model. Without --tokenizer, a byte-level "
                    + "BPE of --vocab-size tokens is learned from the training texts first.",
            "",
            "Example: loran pretrain --train texts.jsonl --eval held-out.jsonl --out run; the model is " + "run/best.",
            "A run that was killed, or stopped by Ctrl-C, goes on: loran pretrain --resume run"
        })
final class PretrainCommand extends TrainCommand {
    private static final String END_OF_TEXT = "<|endoftext|>";
    private static final double LEARNING_RATE = 1e-3;
    private static final int POSITIONS = 256;

    /// Options of `train` that make no sense here: what is trained, and how, is fixed.
    private static final List<String> FIXED = List.of(
            "--model",
            "--task",
            "--method",
            "--init-adapter",
            "--pooling",
            "--pack",
            "--head-lr",
            "--loraplus-ratio",
            "--rank",
            "--alpha",
            "--dropout",
            "--targets",
            "--virtual-tokens",
            "--encoder",
            "--loss",
            "--beta",
            "--label-smoothing",
            "--desirable-weight",
            "--undesirable-weight",
            "--temperature",
            "--mini-batch",
            "--query-prefix",
            "--passage-prefix",
            "--set");

    /// What `train` says of options whose meaning or default is another one here.
    private static final Map<String, String> OTHER_WORDS = Map.of(
            "--hidden", "width (${DEFAULT-VALUE})",
            "--layers", "blocks (${DEFAULT-VALUE})",
            "--heads", "attention heads (${DEFAULT-VALUE})",
            "--max-length", "tokens of a row, and positions of the model (" + POSITIONS + ")",
            "--tokenizer", "a folder with tokenizer.json, the file, or a model of the catalogue (learned otherwise)",
            "--eos-token", "what ends a text (" + END_OF_TEXT + ", or what the tokenizer's files name)",
            "--lr", "highest learning rate (" + LEARNING_RATE + ")",
            "--epochs", "passes over the data (1)",
            "--overwrite", "replace the run that is in --out already");

    @Option(
            names = "--vocab-size",
            paramLabel = "N",
            description = "tokens of the BPE that is learned where no tokenizer is given (${DEFAULT-VALUE})")
    private int vocabSize = 8192;

    @Option(
            names = "--mlp",
            paramLabel = "N",
            description = "inner size of the feed-forward network (8/3 of --hidden, rounded up to 32)")
    private @Nullable Integer mlp;

    @Option(
            names = "--kv-heads",
            paramLabel = "N",
            description = "heads of keys and values, each shared by several of queries (as many as --heads)")
    private @Nullable Integer kvHeads;

    private PretrainCommand(Output output) {
        super(output);
        task = "lm";
        method = Method.FULL.toString();
    }

    /// The command without the options of `train` that are fixed here.
    static CommandSpec spec(Output output) {
        return CommonOptions.adapt(CommandSpec.forAnnotatedObject(new PretrainCommand(output)), OTHER_WORDS, FIXED);
    }

    @Override
    public Integer call() {
        model.model = LlamaModel.FAMILY.modelType();
        if (training.lr == null) {
            training.lr = LEARNING_RATE;
        }
        if (training.epochs == null && training.steps == null) {
            training.epochs = 1;
        }
        if (model.maxLength == null) {
            model.maxLength = POSITIONS;
        }
        return super.call();
    }

    @Override
    Examples.Options reading(int maxLength) {
        return Examples.Options.of(maxLength).withConcatenate(true);
    }

    @Override
    OpenModel open() {
        if (resume != null) {
            return OpenModel.kept(model, new RunFolder(resume).base());
        }
        Path given = model.tokenizer();
        if (given != null) {
            return fresh(given);
        }
        try {
            Path learned = Files.createTempDirectory("loran-bpe");
            try {
                learn(learned);
                return fresh(learned);
            } finally {
                Drafts.delete(learned);
            }
        } catch (IOException e) {
            throw new InputException("the tokenizer cannot be written (" + InputException.reason(e) + ")", e);
        }
    }

    /// Learns a tokenizer from the training texts, and writes it into `folder`.
    private void learn(Path folder) throws IOException {
        BpeTrainer trainer = new BpeTrainer();
        files.rows(train, Part.TRAIN, Part.TRAIN).forEach(new LmTask(), (row, line) -> {
            if (row instanceof Row.Text text) {
                trainer.add(text.text());
            }
        });
        byte[] file;
        try {
            file = trainer.train(vocabSize, List.of(END_OF_TEXT));
        } catch (IllegalArgumentException e) {
            throw new InputException("--vocab-size: " + e.getMessage(), e);
        }
        Files.write(folder.resolve("tokenizer.json"), file);
        JsonFile.write(
                folder.resolve("tokenizer_config.json"),
                new ObjectMapper()
                        .createObjectNode()
                        .put("tokenizer_class", "PreTrainedTokenizerFast")
                        .put("bos_token", END_OF_TEXT)
                        .put("eos_token", END_OF_TEXT)
                        .put("clean_up_tokenization_spaces", false)
                        .put("model_max_length", model.maxLength));
    }

    private OpenModel fresh(Path tokenizer) {
        return OpenModel.fresh(
                model,
                tokenizer,
                (words, backend) -> LlamaModel.random(sizes(words.vocabSize()), backend, DType.F32, model.seed));
    }

    private LlamaModel.Config sizes(int vocabulary) {
        int inner = mlp == null ? Math.ceilDiv(8 * model.hidden, 3 * 32) * 32 : mlp;
        int positions = model.maxLength == null ? POSITIONS : model.maxLength;
        try {
            return LlamaModel.Config.of(
                    vocabulary,
                    model.hidden,
                    inner,
                    model.layers,
                    model.heads,
                    kvHeads == null ? model.heads : kvHeads,
                    positions);
        } catch (IllegalArgumentException e) {
            throw new InputException("--hidden, --layers, --heads: " + e.getMessage(), e);
        }
    }
}
