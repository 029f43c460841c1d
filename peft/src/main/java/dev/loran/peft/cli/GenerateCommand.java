package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.ChatTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;

/// `loran generate`.
@Command(
        name = "generate",
        description = "Goes on from a text: the likeliest token each time, or drawn ones.",
        sortOptions = false,
        footer = {"", "Example: loran generate --model base --adapter run --prompt \"Running shoes, red, size 42\""})
final class GenerateCommand implements Callable<Integer> {
    private final Output output;

    @Mixin
    private AdapterOptions trained;

    @Option(
            names = "--prompt",
            required = true,
            paramLabel = "TEXT",
            description = "the text to go on from; a source, where the adapter was trained for task generate")
    private String prompt;

    @Option(
            names = "--chat",
            description = "answer the text as a user's message, by the model's chat template (for an adapter of task "
                    + "chat that is so anyway)")
    private boolean chat;

    @Option(names = "--max-new-tokens", paramLabel = "N", description = "most tokens of the answer (${DEFAULT-VALUE})")
    private int maxNewTokens = 64;

    @Option(
            names = "--temperature",
            paramLabel = "T",
            description =
                    "draw tokens, the likely ones likelier below 1 (1 where --top-k or --top-p is given; 0: do not)")
    private @Nullable Double temperature;

    @Option(
            names = "--top-k",
            paramLabel = "N",
            description = "draw from so many of the likeliest tokens; 0: from all (50 where tokens are drawn)")
    private @Nullable Integer topK;

    @Option(
            names = "--top-p",
            paramLabel = "P",
            description = "draw from the fewest tokens whose probabilities reach this sum (1 where tokens are drawn)")
    private @Nullable Double topP;

    @Option(
            names = "--repetition-penalty",
            paramLabel = "X",
            description = "above 1: tokens of the text so far become less likely (${DEFAULT-VALUE})")
    private double repetitionPenalty = 1;

    @Option(names = "--stop", paramLabel = "TEXT", description = "ends the answer before this text; may be repeated")
    private List<String> stop = List.of();

    @Mixin
    private ModelOptions model;

    @Mixin
    private CommonOptions common;

    GenerateCommand(Output output) {
        this.output = output;
    }

    static CommandSpec spec(Output output) {
        return CommonOptions.adapt(
                CommandSpec.forAnnotatedObject(new GenerateCommand(output)),
                Map.of(
                        "--max-length",
                        "most tokens of the prompt; a longer one is cut (what the adapter was trained with, or as many"
                                + " as the model has room for)"),
                List.of("--batch-size"));
    }

    @Override
    public Integer call() {
        Path folder = trained.folder(model);
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed)) {
            output.detail(open.describe());
            output.detail(open.backendChoice());
            TaskCard card = folder == null ? null : open.load(peft, folder);
            if (open.model().task() != TaskType.CAUSAL_LM) {
                throw new InputException("generate needs a causal language model, and " + trained.title(model)
                        + " is none; choose another --model, or classify with loran predict");
            }
            int virtualTokens = peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
            int room = open.model().facts().maxPositions() - virtualTokens;
            TaskCard trainedOn = card != null && card.task().prompts() != null ? card : null;
            if (chat) {
                trainedOn = TaskCard.of(new ChatTask(), room);
            }
            int maxLength = model.maxLength(open, virtualTokens, trainedOn == null ? room : trainedOn.maxLength());
            if (maxNewTokens < 1 || maxNewTokens >= room) {
                throw new InputException("--max-new-tokens " + maxNewTokens + " must be from 1 to " + (room - 1)
                        + ": text and answer together have " + room + " positions");
            }
            Tokenizer.Encoded start = start(open.tokenizer(), trainedOn, maxLength);
            int length = start.ids().length;
            if (length >= room) {
                throw new InputException("--prompt has %d tokens, and %s has room for %d with the answer; shorten it"
                        .formatted(length, open.name(), room));
            }
            if (start.truncated()) {
                output.say("the text is longer than %d tokens and was cut".formatted(length));
            }
            int most = Math.min(maxNewTokens, room - length);
            GenerationConfig config = config(most);
            if (trainedOn != null) {
                config = trainedOn.task().ending(config, open.tokenizer());
            }
            open.model().prepare();
            open.model().train(false);
            Generation.Answer answer = Generation.answers(
                            open.model(), open.tokenizer(), new int[][] {start.ids()}, config)
                    .getFirst();
            if (most < maxNewTokens && answer.end() == Generation.End.TOKENS) {
                output.say("the answer ends after %d tokens: %s has room for no more".formatted(most, open.name()));
            }
            output.out().println(answer.text());
            if (common.json) {
                output.out()
                        .println(new ObjectMapper()
                                .createObjectNode()
                                .put("text", answer.text())
                                .put("tokens", answer.ids().length)
                                .put("ended", answer.end() == Generation.End.TOKEN)
                                .put("truncated", start.truncated() ? 1 : 0));
            }
            return Main.DONE;
        }
    }

    /// The ids to go on from. A prompt is cut as in training; other text only if it and the answer do not fit together.
    private Tokenizer.Encoded start(Tokenizer tokenizer, @Nullable TaskCard trainedOn, int maxLength) {
        RowForm prompts = trainedOn == null ? null : trainedOn.task().prompts();
        if (trainedOn == null || prompts == null) {
            return tokenizer.encodeStart(prompt, maxLength - maxNewTokens);
        }
        Examples one = Examples.read(
                RowSource.of(List.of(new Row.Unlabelled(prompt, null)), "--prompt"),
                prompts,
                tokenizer,
                Examples.Options.of(maxLength).withAnswerRoom(trainedOn.answerRoom()),
                null);
        return new Tokenizer.Encoded(one.ids(0), one.ids(0).length, one.truncated() > 0, null);
    }

    private GenerationConfig config(int most) {
        GenerationConfig config = trained.generation(most)
                .withRepetitionPenalty(repetitionPenalty)
                .withStopStrings(stop);
        boolean said = temperature != null || topK != null || topP != null;
        if (!said || temperature != null && temperature == 0) {
            return config;
        }
        return config.withSampling(
                temperature == null ? config.temperature() : temperature,
                topK == null ? config.topK() : topK,
                topP == null ? config.topP() : topP,
                model.seed);
    }
}
