package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Rows;
import dev.loran.peft.data.Task;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.train.Evaluation;
import dev.loran.peft.train.Generation;
import dev.loran.peft.train.GenerationConfig;
import dev.loran.peft.train.RougeL;
import dev.loran.peft.train.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.IntStream;
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
    private final Output output;

    @Mixin
    private AdapterOptions trained;

    @Option(
            names = "--task",
            paramLabel = "T",
            description = "classify, generate or lm (what the adapter was trained for)")
    private @Nullable String task;

    @Option(names = "--data", required = true, paramLabel = "FILE", description = "the rows")
    private Path data;

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            description = "generate: most tokens of an answer (as many as the longest target has)")
    private @Nullable Integer maxNewTokens;

    @Mixin
    private ModelOptions model;

    @Mixin
    private CommonOptions common;

    EvalCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        Path folder = trained.folder(model);
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed)) {
            TaskCard known = folder == null ? null : open.load(peft, folder);
            TaskCard card = known == null ? card(open) : known;
            if (task != null && card.task() != Task.named(task)) {
                throw new InputException(
                        trained.title(model) + ": was trained for task " + card.task() + ", not " + task);
            }
            int virtualTokens = peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
            int maxLength = model.maxLength(open, virtualTokens, card.maxLength());
            Examples.Options reading = Examples.Options.of(maxLength)
                    .withTextPrefix(card.textPrefix())
                    .withAnswerRoom(Math.min(card.answerRoom(), maxLength / 2));
            Examples rows = Examples.read(data, card.task(), open.tokenizer(), reading, card.labels());
            try (TaskModel learner =
                    folder == null ? TaskModel.of(peft, card, model.seed) : TaskModel.load(peft, card, folder)) {
                ObjectNode result = evaluate(open, learner, rows, virtualTokens);
                rows.notices(null).forEach(output::say);
                output.result(result, common.json);
            }
            return Main.DONE;
        }
    }

    /// What a model without `loran.json` can be evaluated for: the task that was asked for, if it has a head for it.
    private TaskCard card(OpenModel open) {
        boolean hasClasses = open.model().task() == TaskType.SEQ_CLS;
        if (task == null && !hasClasses) {
            throw new InputException("--task is missing: classify, generate or lm");
        }
        Task asked = task == null ? Task.CLASSIFY : Task.named(task);
        if (asked != Task.CLASSIFY) {
            return TaskCard.of(asked, 0);
        }
        return classes(open, trained);
    }

    /// The classes that a model without `loran.json` tells apart, as its config names or numbers them.
    static TaskCard classes(OpenModel open, AdapterOptions trained) {
        if (open.model().task() != TaskType.SEQ_CLS) {
            throw new InputException("--task classify: nothing says which classes " + open.name()
                    + " tells apart; give "
                    + (trained.adapter == null
                            ? "--adapter with the folder of a run"
                            : "an adapter with its " + TaskCard.FILE)
                    + ", or a model with a head");
        }
        return TaskCard.classify(new Labels(open.model().labels()), 0);
    }

    private ObjectNode evaluate(OpenModel open, TaskModel learner, Examples rows, int virtualTokens) {
        Evaluation e = Evaluation.of(learner, rows, model.batchSize());
        if (Double.isNaN(e.loss())) {
            throw new InputException(trained.title(model)
                    + ": answers with what is no number (NaN); its weights are damaged, or its training diverged");
        }
        ObjectNode result =
                new ObjectMapper().createObjectNode().put("rows", e.rows()).put("loss", e.loss());
        switch (e.task()) {
            case CLASSIFY -> result.put("accuracy", e.accuracy()).put("macro_f1", e.macroF1());
            case LM -> result.put("perplexity", e.perplexity());
            case GENERATE -> result.put("perplexity", e.perplexity()).put("rouge_l", rougeL(open, rows, virtualTokens));
        }
        Output.put(result.put("truncated", rows.truncated()), rows.notices(null));
        return result;
    }

    /// The mean over the rows of the score of the answer to the prompt, as the loss saw it, against the whole target.
    private double rougeL(OpenModel open, Examples rows, int virtualTokens) {
        if (maxNewTokens != null && maxNewTokens < 1) {
            throw new InputException("--max-new-tokens " + maxNewTokens + " must be at least 1");
        }
        int positions = open.model().facts().maxPositions() - virtualTokens;
        int wanted = maxNewTokens == null ? rows.longestTarget() : maxNewTokens;
        List<String> targets = Rows.read(data, Task.GENERATE).stream()
                .map(row -> ((Row.Generate) row).target())
                .toList();
        // Prompts of like length answer together, or the longest would leave too little room to the others' answers.
        List<Integer> order = IntStream.range(0, rows.size())
                .boxed()
                .sorted(Comparator.comparingInt(rows::promptLength))
                .toList();
        double sum = 0;
        for (int from = 0, to; from < order.size(); from = to) {
            int most = Math.min(wanted, positions - rows.promptLength(order.get(from)));
            for (to = from + 1; to < Math.min(order.size(), from + model.batchSize()); to++) {
                if (rows.promptLength(order.get(to)) + most > positions) {
                    break;
                }
            }
            List<Integer> batch = order.subList(from, to);
            int[][] prompts = batch.stream()
                    .map(row -> Arrays.copyOf(rows.ids(row), rows.promptLength(row)))
                    .toArray(int[][]::new);
            List<Generation.Answer> answers =
                    Generation.answers(open.model(), open.tokenizer(), prompts, GenerationConfig.greedy(most));
            for (int i = 0; i < batch.size(); i++) {
                sum += RougeL.score(answers.get(i).text(), targets.get(batch.get(i)));
            }
        }
        return sum / rows.size();
    }
}
