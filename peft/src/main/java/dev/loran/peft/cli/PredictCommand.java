package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Rows;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.train.Predictor;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Objects;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran predict`.
@Command(
        name = "predict",
        description = {
            "Says the classes of texts that nobody has labelled, by a classifier that was trained.",
            "Writes a JSON object a text, in the order of the texts, with the likeliest class and the "
                    + "probability of each. Files of any length: what is in memory is 50 batches."
        },
        sortOptions = false,
        footer = {
            "",
            "Texts are lines of a .txt file, or JSON Lines with a field \"text\", and \"text_pair\" for pairs.",
            "Example: loran predict --model minilm --adapter run --data texts.txt --out predictions.jsonl"
        })
final class PredictCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Output output;

    @Mixin
    private AdapterOptions trained;

    @Option(names = "--data", required = true, paramLabel = "FILE", description = "the texts")
    private Path data;

    @Option(names = "--out", required = true, paramLabel = "FILE", description = "where the answers go")
    private Path out;

    @Option(
            names = "--embeddings",
            description = "write each text's vector too: the pooled one that the classifier's head sees")
    private boolean embeddings;

    @Mixin
    private ModelOptions model;

    @Mixin
    private CommonOptions common;

    PredictCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        Path folder = trained.folder(model);
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed)) {
            TaskCard known = folder == null ? null : open.load(peft, folder);
            TaskCard card = known == null ? EvalCommand.untrained(open, trained, new ClassifyTask()) : known;
            if (card.labels() == null) {
                throw new InputException(trained.title(model) + ": was trained for task "
                        + card.task().name() + "; loran generate goes on with texts");
            }
            int virtualTokens = peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
            card = card.withMaxLength(model.maxLength(open, virtualTokens, card.maxLength()));
            try (TaskModel classifier =
                    folder == null ? TaskModel.of(peft, card, model.seed) : TaskModel.load(peft, card, folder)) {
                if (!(classifier.head() instanceof TextClassifier)) {
                    throw new InputException(trained.title(model) + ": was trained for task "
                            + card.task().name() + ", which does not say the class of a text");
                }
                output.result(predict(open, classifier, Objects.requireNonNull(card.labels())), common.json);
            }
            return Main.DONE;
        }
    }

    /// Writes the answers to a file that gets its name only once it is complete.
    private ObjectNode predict(OpenModel open, TaskModel classifier, Labels labels) {
        long started = System.nanoTime();
        Path draft = out.resolveSibling(out.getFileName() + ".part");
        long[] answered = {0};
        boolean stopped = false;
        output.stop().listen(true);
        try {
            Predictor predictor;
            try (BufferedWriter lines = Files.newBufferedWriter(draft)) {
                predictor = new Predictor(classifier, open.tokenizer(), model.batchSize(), answer -> {
                    output.stop().check();
                    write(lines, line(answer, labels));
                    answered[0]++;
                });
                Rows.texts(data, predictor::add);
                predictor.finish();
            }
            Files.move(draft, out, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
            if (predictor.truncated() > 0) {
                output.say("%s: %,d texts are longer than %d tokens and were cut"
                        .formatted(
                                data, predictor.truncated(), classifier.card().maxLength()));
            }
            double seconds = (System.nanoTime() - started) / 1e9;
            return JSON.createObjectNode()
                    .put("texts", answered[0])
                    .put("seconds", seconds)
                    .put("texts_per_second", answered[0] / seconds)
                    .put("truncated", predictor.truncated())
                    .put("out", out.toString());
        } catch (IOException e) {
            throw InputException.io(out, "cannot be written", e);
        } catch (Stop.Ended e) {
            stopped = true;
            output.say("stopped; the first %,d answers are in %s".formatted(answered[0], draft));
            throw e;
        } finally {
            output.stop().listen(false);
            if (!stopped) {
                discard(draft);
            }
        }
    }

    private ObjectNode line(Predictor.Answer answer, Labels labels) {
        if (Double.isNaN(answer.probability())) {
            throw new InputException(trained.title(model)
                    + ": answers with what is no number (NaN); its weights are damaged, or its training diverged");
        }
        ObjectNode line = JSON.createObjectNode().put("text", answer.text());
        if (answer.textPair() != null) {
            line.put("text_pair", answer.textPair());
        }
        line.put("label", answer.label()).put("probability", answer.probability());
        ObjectNode all = line.putObject("probabilities");
        for (int c = 0; c < labels.size(); c++) {
            all.put(labels.names().get(c), answer.probabilities()[c]);
        }
        if (embeddings) {
            line.set("embedding", JSON.valueToTree(answer.embedding()));
        }
        return line;
    }

    private static void write(Writer out, ObjectNode line) {
        try {
            out.write(line + "\n");
        } catch (IOException e) {
            throw new UncheckedIOException("the answers cannot be written", e);
        }
    }

    /// Removes what an error left; after the renaming, the file no longer exists.
    private static void discard(Path draft) {
        try {
            Files.deleteIfExists(draft);
        } catch (IOException e) {
            throw InputException.io(draft, "cannot be removed", e);
        }
    }
}
