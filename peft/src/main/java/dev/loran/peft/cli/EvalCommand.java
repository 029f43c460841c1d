package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Answering;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran eval`.
@Command(
        name = "eval",
        description = "Says how well a model does on rows that it was not trained on.",
        sortOptions = false,
        footer = {"", "Example: loran eval --model minilm --adapter run --task classify --data held-out.jsonl"})
final class EvalCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    /// The most classes whose confusion is printed.
    private static final int SHOWN = 20;

    private final Output output;

    /// The details of the evaluation.
    private List<Evaluation.Table> tables = List.of();

    @Mixin
    private AdapterOptions trained;

    @Option(names = "--task", paramLabel = "T", description = Task.SHIPPED + " (what the adapter was trained for)")
    private @Nullable String task;

    @Option(names = "--data", required = true, paramLabel = "FILE", description = "the rows: " + DataOptions.FILES)
    private Path data;

    @Mixin
    private DataOptions files;

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            description = "generate: most tokens of an answer (as many as the longest target has)")
    private @Nullable Integer maxNewTokens;

    @Option(
            names = "--answers",
            paramLabel = "FILE",
            description = "generate, chat: writes each prompt with its target and the answer, as JSON Lines")
    private @Nullable Path answers;

    @Mixin
    private PrefixOptions prefixes;

    @Mixin
    private ModelOptions model;

    @Mixin
    private CommonOptions common;

    EvalCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        ObjectNode result = evaluated();
        tables.forEach(this::print);
        output.result(result, tables(), common.json);
        return Main.DONE;
    }

    private void print(Evaluation.Table table) {
        boolean confusion = table.name().equals("confusion");
        if (confusion && table.rows().size() > SHOWN) {
            output.say("the confusion of more than %d classes is shown by --json only".formatted(SHOWN));
            return;
        }
        List<List<String>> lines = new ArrayList<>();
        List<String> head = new ArrayList<>(table.columns());
        head.addFirst(confusion ? "there \\ answered" : table.name());
        lines.add(head);
        table.rows().forEach((name, numbers) -> {
            List<String> line = new ArrayList<>(List.of(name));
            numbers.forEach(n -> line.add(Output.shown(JSON.valueToTree(n))));
            lines.add(line);
        });
        output.table(lines);
    }

    private ObjectNode tables() {
        ObjectNode all = JSON.createObjectNode();
        for (Evaluation.Table table : tables) {
            ObjectNode json = all.putObject(table.name());
            table.rows().forEach((name, numbers) -> {
                ObjectNode row = json.putObject(name);
                for (int c = 0; c < numbers.size(); c++) {
                    row.set(table.columns().get(c), JSON.valueToTree(numbers.get(c)));
                }
            });
        }
        return all;
    }

    /// Evaluates, and says what is unusual about the rows.
    ObjectNode evaluated() {
        Path folder = trained.folder(model);
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed)) {
            output.detail(open.describe());
            output.detail(open.backendChoice());
            TaskCard known = folder == null ? null : open.load(peft, folder);
            TaskCard card = prefixes.of(known == null ? card(open) : known, known != null, open);
            if (task != null && !card.task().name().equals(Task.named(task).name())) {
                throw new InputException(trained.title(model) + ": was trained for task "
                        + card.task().name() + ", not " + task + "; leave --task out");
            }
            int virtualTokens = peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
            int maxLength = model.maxLength(open, virtualTokens, card.maxLength());
            Examples.Options reading = Examples.Options.of(maxLength)
                    .withTextPrefix(card.textPrefix())
                    .withAnswerRoom(Math.min(card.answerRoom(), maxLength / 2));
            RowSource source = files.rows(data, Part.TEST, Part.VALIDATION);
            Examples rows = Examples.read(source, card.task(), open.tokenizer(), reading, card.labels());
            try (TaskModel learner =
                    folder == null ? TaskModel.of(peft, card, model.seed) : TaskModel.load(peft, card, folder)) {
                ObjectNode result = evaluate(open, learner, source, rows, virtualTokens);
                rows.notices(null).forEach(output::say);
                return result;
            }
        }
    }

    /// The card for a model without `loran.json`: for the task that was given, if the model has a head for it.
    private TaskCard card(OpenModel open) {
        if (task == null && open.model().classifier() == null) {
            throw new InputException("--task is missing; choose " + Task.SHIPPED);
        }
        return untrained(open, trained, task == null ? Task.of(open.model()) : Task.named(task));
    }

    /// The card for a task that a model without `loran.json` can do without training.
    static TaskCard untrained(OpenModel open, AdapterOptions trained, Task task) {
        TaskCard card = task.card(open.model());
        if (card == null) {
            throw new InputException("--task " + task.name() + ": nothing says which classes " + open.name()
                    + " tells apart; give "
                    + (trained.adapter == null
                            ? "--adapter with the folder of a run"
                            : "an adapter with its " + TaskCard.FILE)
                    + ", or a model with a head");
        }
        if (!task.pools() || card.labels() != null) {
            return card;
        }
        SentencePooling how = open.pooling(task, null);
        return card.withPooling(how.pooling(), how.normalize()).withTextPrefix(open.textPrefix());
    }

    private ObjectNode evaluate(OpenModel open, TaskModel learner, RowSource source, Examples rows, int virtualTokens) {
        Evaluation e = Evaluation.of(learner, rows, model.batchSize());
        learner.requireFinite(e.loss());
        ObjectNode result = JSON.createObjectNode().put("rows", e.rows()).put("loss", e.loss());
        e.metrics().forEach(result::put);
        tables = e.tables();
        answers(open, learner.task(), source, rows, virtualTokens).forEach(result::put);
        Output.put(result.put("truncated", rows.truncated()), rows.notices(null));
        return result;
    }

    private Map<String, Double> answers(OpenModel open, Task of, RowSource source, Examples rows, int virtualTokens) {
        StringBuilder lines = new StringBuilder();
        Map<String, Double> metrics =
                of.prompts() == null ? Map.of() : of.answers(answering(open, of, source, rows, virtualTokens, lines));
        if (answers != null) {
            if (metrics.isEmpty()) {
                throw new InputException(
                        "--answers is for tasks generate and chat; leave it out for task " + of.name());
            }
            JsonFile.write(answers, lines.toString().stripTrailing());
        }
        return metrics;
    }

    private Answering answering(
            OpenModel open, Task of, RowSource source, Examples rows, int virtualTokens, StringBuilder lines) {
        if (maxNewTokens != null && maxNewTokens < 1) {
            throw new InputException("--max-new-tokens " + maxNewTokens + " must be at least 1");
        }
        return new Answering(
                open.model(),
                open.tokenizer(),
                rows,
                source.toList(of),
                open.model().facts().maxPositions() - virtualTokens,
                model.batchSize(),
                maxNewTokens == null ? 0 : maxNewTokens,
                trained.generation(1),
                (row, answer) -> lines.append(JSON.createObjectNode()
                                .put("source", row.source())
                                .put("target", row.target())
                                .put("answer", answer.text())
                                .put("ended", answer.end() == Generation.End.TOKEN))
                        .append('\n'));
    }
}
