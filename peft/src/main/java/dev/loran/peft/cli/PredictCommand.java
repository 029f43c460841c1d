package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Stop;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.Predicts;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.train.Predictor;
import dev.loran.peft.train.RowPredictor;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.IntSupplier;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran predict`.
@Command(
        name = "predict",
        description = {
            "Says the classes of texts that nobody has labelled, their score or the tags of their words, by a "
                    + "model that was trained for that; answers prompts, by one that was trained to generate; or "
                    + "writes vectors, by one that was trained to embed.",
            "Writes each row as a JSON object, in their order, with all of its fields and the answer: the likeliest "
                    + "class (or a list of labels) and the probability of each, the text, or the vector. A field of "
                    + "the row that the answer has, too, is replaced. Files of any length: what is in memory is 50 "
                    + "batches."
        },
        sortOptions = false,
        footer = {
            "",
            "Texts are lines of a .txt file, or rows with a field \"text\", and \"text_pair\" for pairs: JSON Lines, a "
                    + "JSON array or a table with a header, plain or .gz; to tag, rows with \"tokens\" too; to rerank, "
                    + "rows with \"query\" and \"passage\"; to generate, rows as in training, whose answers are not "
                    + "read.",
            "Example: loran predict --model minilm --adapter run --data texts.txt --out predictions.jsonl"
        })
final class PredictCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static final long PROGRESS_NANOS = 10_000_000_000L;

    private final Output output;

    @Mixin
    private AdapterOptions trained;

    @Option(names = "--data", required = true, paramLabel = "FILE", description = "the texts: " + DataOptions.FILES)
    private Path data;

    @Mixin
    private DataOptions files;

    @Option(names = "--out", required = true, paramLabel = "FILE", description = "where the answers go")
    private Path out;

    @Option(
            names = "--embeddings",
            description =
                    "write each text's vector too: the pooled one that the classifier's head sees; for a model without "
                            + "classes, only the vectors")
    private boolean embeddings;

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            description = "generate: most tokens of an answer (as many as there is room for)")
    private @Nullable Integer maxNewTokens;

    @Mixin
    private PrefixOptions prefixes;

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
            output.detail(open.describe());
            output.detail(open.backendChoice());
            TaskCard known = folder == null ? null : open.load(peft, folder);
            TaskCard card = known == null ? EvalCommand.untrained(open, trained, untrained(open.model())) : known;
            card = prefixes.of(card, known != null, open);
            int virtualTokens = peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
            card = card.withMaxLength(model.maxLength(open, virtualTokens, card.maxLength()));
            RowForm prompts = card.task().prompts();
            if (prompts != null) {
                int positions = open.model().facts().maxPositions() - virtualTokens;
                open.model().train(false);
                output.result(answer(open, card, prompts, positions), common.json);
                return Main.DONE;
            }
            if (card.task() instanceof Predicts task) {
                try (TaskModel learner =
                        folder == null ? TaskModel.of(peft, card, model.seed) : TaskModel.load(peft, card, folder)) {
                    output.result(predict(open, learner, task), common.json);
                }
                return Main.DONE;
            }
            if (card.labels() == null) {
                throw new InputException(trained.title(model) + ": was trained for task "
                        + card.task().name() + "; loran generate goes on with texts");
            }
            try (TaskModel classifier =
                    folder == null ? TaskModel.of(peft, card, model.seed) : TaskModel.load(peft, card, folder)) {
                if (!(classifier.head() instanceof TextClassifier)) {
                    throw new InputException(trained.title(model) + ": was trained for task "
                            + card.task().name()
                            + ", which does not say the class of a text; measure it with loran eval");
                }
                output.result(predict(open, classifier, Objects.requireNonNull(card.labels())), common.json);
            }
            return Main.DONE;
        }
    }

    /// Takes rows one by one, and passes on the answer to each, in order.
    ///
    /// @param form what a row is
    private record Reader(RowForm form, RowSource.Visitor rows, Runnable finish, IntSupplier truncated) {}

    private ObjectNode predict(OpenModel open, TaskModel classifier, Labels labels) {
        return write(classifier.card().maxLength(), each -> {
            Predictor predictor = new Predictor(
                    classifier, open.tokenizer(), model.batchSize(), answer -> each.accept(answer(answer, labels)));
            return new Reader(
                    new Predicts.Texts(classifier.card().task().name(), true),
                    (row, line) -> predictor.add((Row.Unlabelled) row),
                    predictor::finish,
                    predictor::truncated);
        });
    }

    /// The task of a model that does not say one: with --embeddings and without classes, only vectors are asked for.
    private Task untrained(Model of) {
        return embeddings && of.classifier() == null ? new EmbedTask() : Task.of(of);
    }

    private ObjectNode predict(OpenModel open, TaskModel learner, Predicts task) {
        if (embeddings && !(task instanceof EmbedTask)) {
            throw new InputException("--embeddings is for classifiers; leave it out for task " + task.name());
        }
        return write(learner.card().maxLength(), each -> {
            RowPredictor predictor = new RowPredictor(learner, open.tokenizer(), model.batchSize(), each);
            return new Reader(
                    task.unlabelled(), (row, line) -> predictor.add(row), predictor::finish, predictor::truncated);
        });
    }

    private ObjectNode answer(OpenModel open, TaskCard card, RowForm form, int positions) {
        int most = maxNewTokens == null ? positions : maxNewTokens;
        GenerationConfig config = card.task().ending(trained.generation(most), open.tokenizer());
        return write(card.maxLength(), each -> {
            Prompts prompts = new Prompts(open, card, form, config, positions, each);
            return new Reader(form, prompts, prompts::finish, () -> prompts.truncated);
        });
    }

    /// The prompts that wait for their answers, up to 50 batches.
    private final class Prompts implements RowSource.Visitor {
        private record Prompt(String file, long line, Row row) {}

        private final List<Prompt> waiting = new ArrayList<>();
        private final OpenModel open;
        private final RowForm form;
        private final Examples.Options reading;
        private final GenerationConfig config;
        private final int positions;
        private final Consumer<ObjectNode> each;
        private String file = data.toString();
        private int truncated;

        Prompts(
                OpenModel open,
                TaskCard card,
                RowForm form,
                GenerationConfig config,
                int positions,
                Consumer<ObjectNode> each) {
            this.open = open;
            this.form = form;
            this.reading = Examples.Options.of(card.maxLength()).withAnswerRoom(card.answerRoom());
            this.config = config;
            this.positions = positions;
            this.each = each;
        }

        @Override
        public void file(String name) {
            file = name;
        }

        @Override
        public void row(Row row, long line) {
            waiting.add(new Prompt(file, line, row));
            if (waiting.size() == 50 * model.batchSize()) {
                finish();
            }
        }

        void finish() {
            if (waiting.isEmpty()) {
                return;
            }
            List<int[]> ids = ids();
            Generation.answers(open.model(), open.tokenizer(), ids, config, positions, model.batchSize())
                    .forEach(answer -> each.accept(JSON.createObjectNode()
                            .put("answer", answer.text())
                            .put("ended", answer.end() == Generation.End.TOKEN)));
            waiting.clear();
        }

        private List<int[]> ids() {
            RowSource rows = new RowSource() {
                @Override
                public String name() {
                    return file;
                }

                @Override
                public void forEach(RowForm form, Visitor visitor) {
                    for (Prompt prompt : waiting) {
                        visitor.file(prompt.file);
                        visitor.row(prompt.row, prompt.line);
                    }
                }
            };
            Examples examples = Examples.read(rows, form, open.tokenizer(), reading, null);
            truncated += examples.truncated();
            List<int[]> all = new ArrayList<>();
            for (Prompt prompt : waiting) {
                int[] ids = examples.ids(all.size());
                if (ids.length >= positions) {
                    throw InputException.at(
                            prompt.file,
                            prompt.line,
                            "the prompt has %d tokens, and the model has room for %d with the answer; shorten it"
                                    .formatted(ids.length, positions));
                }
                all.add(ids);
            }
            return all;
        }
    }

    /// Writes the answers to a file that gets its name only once it is complete.
    private ObjectNode write(int maxLength, Function<Consumer<ObjectNode>, Reader> by) {
        long started = System.nanoTime();
        Path draft = out.resolveSibling(out.getFileName() + ".part");
        Deque<ObjectNode> waiting = new ArrayDeque<>();
        long[] answered = {0};
        long[] said = {started};
        boolean stopped = false;
        output.stop().listen(true);
        try {
            Reader reader;
            try (BufferedWriter lines = Files.newBufferedWriter(draft)) {
                reader = by.apply(answer -> {
                    output.stop().check();
                    write(lines, waiting.remove().setAll(answer));
                    answered[0]++;
                    if (System.nanoTime() - said[0] > PROGRESS_NANOS) {
                        said[0] = System.nanoTime();
                        output.say("%,d texts after %.0f s".formatted(answered[0], (said[0] - started) / 1e9));
                    }
                });
                read(reader, waiting);
                reader.finish.run();
            }
            Files.move(draft, out, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
            int truncated = reader.truncated.getAsInt();
            if (truncated > 0) {
                output.say(
                        "%s: %,d texts are longer than %d tokens and were cut".formatted(data, truncated, maxLength));
            }
            double seconds = (System.nanoTime() - started) / 1e9;
            return JSON.createObjectNode()
                    .put("texts", answered[0])
                    .put("seconds", seconds)
                    .put("texts_per_second", answered[0] / seconds)
                    .put("truncated", truncated)
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

    /// @param waiting receives the fields of each row
    private void read(Reader reader, Deque<ObjectNode> waiting) {
        files.rows(data, Part.TEST, Part.VALIDATION).forEach(reader.form, new RowSource.Visitor() {
            @Override
            public void file(String name) {
                reader.rows.file(name);
            }

            @Override
            public void row(Row row, Fields fields) {
                waiting.add(fields.all());
                row(row, fields.line());
            }

            @Override
            public void row(Row row, long line) {
                reader.rows.row(row, line);
            }
        });
    }

    private ObjectNode answer(Predictor.Answer answer, Labels labels) {
        ObjectNode line = JSON.createObjectNode();
        if (labels.several()) {
            answer.labels().forEach(line.putArray("label")::add);
        } else {
            line.put("label", answer.label()).put("probability", answer.probability());
        }
        ObjectNode all = line.putObject("probabilities");
        for (int c = 0; c < labels.size(); c++) {
            all.put(labels.names().get(c), answer.probabilities()[c]);
        }
        if (embeddings) {
            line.set("embedding", JSON.valueToTree(answer.embedding()));
        }
        return line;
    }

    private void write(Writer to, JsonNode line) {
        try {
            to.write(line + "\n");
        } catch (IOException e) {
            throw InputException.io(out, "cannot be written", e);
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
