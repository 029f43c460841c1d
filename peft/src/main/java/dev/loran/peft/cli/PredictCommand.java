package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Stop;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.Rows;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ChatTask;
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
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
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
            "Writes a JSON object a text, in the order of the texts, with the likeliest class (or a list of "
                    + "labels) and the probability of each, with the answer, or with the vector. Files of any "
                    + "length: what is in memory is 50 batches."
        },
        sortOptions = false,
        footer = {
            "",
            "Texts are lines of a .txt file, or rows with a field \"text\", and \"text_pair\" for pairs: JSON Lines, a "
                    + "JSON array or a table with a header, plain or .gz; to tag, rows with \"tokens\" too; to rerank, "
                    + "rows with \"query\" and \"passage\".",
            "Example: loran predict --model minilm --adapter run --data texts.txt --out predictions.jsonl"
        })
final class PredictCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

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
            if (card.task().hasPrompts()) {
                int positions = open.model().facts().maxPositions() - virtualTokens;
                open.model().train(false);
                output.result(answer(open, card, positions), common.json);
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

    /// Takes texts one by one, and passes on the line for each of them.
    ///
    /// @param own what reads the rows instead, if they are no texts; null if they are
    private record Reader(
            Consumer<Row.Unlabelled> add, @Nullable Runnable own, Runnable finish, IntSupplier truncated) {}

    private ObjectNode predict(OpenModel open, TaskModel classifier, Labels labels) {
        return write(classifier.card().maxLength(), each -> {
            Predictor predictor = new Predictor(
                    classifier, open.tokenizer(), model.batchSize(), answer -> each.accept(line(answer, labels)));
            return new Reader(predictor::add, null, predictor::finish, predictor::truncated);
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
            Runnable rows = () -> files.rows(data, Part.TEST, Part.VALIDATION)
                    .forEach(task.unlabelled(), (row, line) -> predictor.add(row));
            return new Reader(predictor::add, rows, predictor::finish, predictor::truncated);
        });
    }

    private ObjectNode answer(OpenModel open, TaskCard card, int positions) {
        int most = maxNewTokens == null ? positions : maxNewTokens;
        GenerationConfig config = card.task().ending(trained.generation(most), open.tokenizer());
        return write(card.maxLength(), each -> {
            Prompts prompts = new Prompts(open, card, config, positions, each);
            Runnable chats = () -> files.rows(data, Part.TEST, Part.VALIDATION)
                    .forEach(new ChatTask.Prompts(), (row, line) -> prompts.add((Row.Chat) row, line));
            return new Reader(
                    prompts::add, card.task().chats() ? chats : null, prompts::finish, () -> prompts.truncated);
        });
    }

    /// The prompts that wait for their answers, up to 50 batches.
    private final class Prompts {
        private final List<ObjectNode> rows = new ArrayList<>();
        private final List<int[]> ids = new ArrayList<>();
        private final OpenModel open;
        private final TaskCard card;
        private final GenerationConfig config;
        private final int positions;
        private final Consumer<ObjectNode> each;
        private int truncated;

        Prompts(OpenModel open, TaskCard card, GenerationConfig config, int positions, Consumer<ObjectNode> each) {
            this.open = open;
            this.card = card;
            this.config = config;
            this.positions = positions;
            this.each = each;
        }

        void add(Row.Unlabelled text) {
            int room = card.answerRoom() == 0 ? card.maxLength() / 2 : card.answerRoom();
            Tokenizer.Encoded prompt = card.task()
                    .prompt(open.tokenizer(), text.text(), card.maxLength(), Math.min(room, card.maxLength() / 2));
            truncated += prompt.truncated() ? 1 : 0;
            add(JSON.createObjectNode().put("text", text.text()), prompt.ids());
        }

        void add(Row.Chat chat, long line) {
            int[] prompt = ChatTask.prompt(open.tokenizer(), chat.chat());
            if (prompt.length >= positions) {
                throw InputException.at(
                        data.toString(),
                        line,
                        "the chat has %d tokens, and the model has room for %d with the answer; shorten it"
                                .formatted(prompt.length, positions));
            }
            add(chat.fields(), prompt);
        }

        private void add(ObjectNode row, int[] prompt) {
            rows.add(row);
            ids.add(prompt);
            if (rows.size() == 50 * model.batchSize()) {
                finish();
            }
        }

        void finish() {
            List<Generation.Answer> answers =
                    Generation.answers(open.model(), open.tokenizer(), ids, config, positions, model.batchSize());
            for (int i = 0; i < answers.size(); i++) {
                each.accept(rows.get(i)
                        .put("answer", answers.get(i).text())
                        .put("ended", answers.get(i).end() == Generation.End.TOKEN));
            }
            rows.clear();
            ids.clear();
        }
    }

    /// Writes the answers to a file that gets its name only once it is complete.
    private ObjectNode write(int maxLength, Function<Consumer<ObjectNode>, Reader> by) {
        long started = System.nanoTime();
        Path draft = out.resolveSibling(out.getFileName() + ".part");
        long[] answered = {0};
        boolean stopped = false;
        output.stop().listen(true);
        try {
            Reader reader;
            try (BufferedWriter lines = Files.newBufferedWriter(draft)) {
                reader = by.apply(line -> {
                    output.stop().check();
                    write(lines, line);
                    answered[0]++;
                });
                read(reader);
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

    private void read(Reader reader) throws IOException {
        if (reader.own != null) {
            reader.own.run();
            return;
        }
        if (data.equals(DataOptions.STANDARD_INPUT)) {
            Rows.texts(System.in, "standard input", files.options(), reader.add);
            return;
        }
        for (Path file : DataOptions.files(data, Part.TEST, Part.VALIDATION)) {
            Rows.texts(file, files.options(), reader.add);
        }
    }

    private ObjectNode line(Predictor.Answer answer, Labels labels) {
        ObjectNode line = JSON.createObjectNode().put("text", answer.text());
        if (answer.textPair() != null) {
            line.put("text_pair", answer.textPair());
        }
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
