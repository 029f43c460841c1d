package dev.loran.peft.cli;

import dev.loran.peft.data.Catalogue;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.tuner.AdapterFiles;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// The options of the commands that use a trained adapter: which one, and how it generates texts.
final class AdapterOptions {
    @Option(
            names = "--adapter",
            paramLabel = "DIR",
            description = "an adapter's folder, or a run's (its best adapter); without it the model as it is")
    @Nullable
    Path adapter;

    @Option(
            names = "--max-chars",
            paramLabel = "N",
            description = "generate: most characters (Unicode code points) of a text, such as 155 for a meta "
                    + "description; a longer one is not generated to its end, and is cut behind a sentence or a word "
                    + "(no limit)")
    private @Nullable Integer maxChars;

    @Option(
            names = "--encoder-repetition-penalty",
            paramLabel = "X",
            description =
                    "generate: above 1, tokens of the prompt become more likely, so that a text keeps to its words, "
                            + "such as 1.15 (${DEFAULT-VALUE})")
    private double encoderRepetitionPenalty = 1;

    @Option(
            names = "--frequency-penalty",
            paramLabel = "X",
            description = "generate: taken from a token's logit for each time that it is in the text so far, without "
                    + "the prompt (${DEFAULT-VALUE})")
    private double frequencyPenalty;

    /// How texts are generated: the likeliest token each time, at most `tokens`, and as these options say.
    GenerationConfig generation(int tokens) {
        if (maxChars != null && maxChars < 1) {
            throw new InputException("--max-chars " + maxChars + " must be at least 1");
        }
        return GenerationConfig.greedy(tokens)
                .withMaxChars(maxChars == null ? 0 : maxChars)
                .withEncoderRepetitionPenalty(encoderRepetitionPenalty)
                .withFrequencyPenalty(frequencyPenalty);
    }

    /// The name of the adapter or model for messages.
    String title(ModelOptions model) {
        return adapter == null ? model.requireModel() : adapter.toString();
    }

    /// The folder of the adapter; or of the whole model, if all of it was trained, to which `model` is then set; or of
    /// a model that itself says what it was trained for. Unless the user gave an end token, the one used in training is
    /// taken.
    ///
    /// @return null if there is none
    @Nullable
    Path folder(ModelOptions model) {
        if (adapter == null) {
            Path itself = model.model == null || Catalogue.find(model.model).isPresent() ? null : Path.of(model.model);
            if (itself == null || !TaskCard.isIn(itself)) {
                return null;
            }
            readEnd(model, itself);
            return itself;
        }
        Path folder = RunFolder.adapter(adapter);
        if (!Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))) {
            model.model = folder.toString();
        }
        readEnd(model, folder);
        return folder;
    }

    private static void readEnd(ModelOptions model, Path folder) {
        if (TaskCard.isIn(folder)) {
            TaskCard card = TaskCard.read(folder);
            model.eosToken = model.eosToken == null ? card.eosToken() : model.eosToken;
            model.trainedFormat = card.chat();
        }
    }
}
