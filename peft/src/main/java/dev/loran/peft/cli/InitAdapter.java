package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// The adapter whose weights a run begins with: the one that `--init-adapter` names, or for a resumed run the copy that
/// the run kept.
///
/// @param card what it was trained for; null if its files do not say, which peft's never do
record InitAdapter(Path folder, PeftConfig config, @Nullable TaskCard card) {
    /// The files that a run keeps of it.
    private static final List<String> FILES = List.of(
            AdapterFiles.CONFIG, AdapterFiles.WEIGHTS, AdapterFiles.TRAINING, TextClassifier.FILE, TaskCard.FILE);

    /// @param given the folder of an adapter or of a run
    /// @throws InputException if it contains no adapter
    static InitAdapter of(Path given) {
        Path folder = RunFolder.adapter(given);
        if (!Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))) {
            throw new InputException(
                    "--init-adapter " + given + ": holds a whole model, not an adapter; name it as --model");
        }
        return new InitAdapter(
                folder, AdapterFiles.config(folder), TaskCard.isIn(folder) ? TaskCard.read(folder) : null);
    }

    Method method() {
        return switch (config.peftType()) {
            case "LORA" -> config instanceof LoraConfig lora && lora.useDora() ? Method.DORA : Method.LORA;
            case "ADALORA" -> Method.ADALORA;
            case "P_TUNING" -> Method.P_TUNING;
            case "PROMPT_TUNING" -> Method.PROMPT;
            case "PREFIX_TUNING" -> Method.PREFIX;
            case "BOTTLENECK" -> Method.ADAPTER;
            case "IA3" -> Method.IA3;
            case "LN_TUNING" -> Method.LN_TUNING;
            case "BITFIT" -> Method.BITFIT;
            default ->
                throw new InputException(folder + ": --init-adapter cannot train " + config.peftType()
                        + "; leave it out, and begin with a new adapter");
        };
    }

    /// Takes the options of the method from the adapter.
    ///
    /// @param isTyped whether the user typed an option, which must then agree with the adapter
    /// @throws InputException that names both values if they differ
    void settle(TrainingOptions options, Predicate<String> isTyped) {
        ObjectNode json = config.toJson();
        JsonNode rank = json.path(json.has("target_r") ? "target_r" : "r");
        JsonNode dropout = json.path(json.has("lora_dropout") ? "lora_dropout" : "dropout");
        options.rank = (int) number("--rank", options.rank, rank, isTyped);
        options.alpha = number("--alpha", options.alpha, json.path("lora_alpha"), isTyped);
        options.dropout = number("--dropout", options.dropout, dropout, isTyped);
        options.virtualTokens =
                (int) number("--virtual-tokens", options.virtualTokens, json.path("num_virtual_tokens"), isTyped);
        String encoder = json.path("encoder_reparameterization_type").asText("");
        if (isTyped.test("--encoder") && !encoder.isEmpty() && !encoder.equalsIgnoreCase(options.encoder)) {
            throw conflict("--encoder", options.encoder, encoder);
        }
        if (!options.set.isEmpty()) {
            String field = options.set.keySet().iterator().next();
            throw conflict(
                    "--set",
                    field + "=" + options.set.get(field),
                    json.path(field).toString());
        }
        if (isTyped.test("--targets")) {
            JsonNode targets = json.path("target_modules");
            throw conflict(
                    "--targets",
                    String.valueOf(options.targets),
                    targets.isMissingNode() ? "none" : targets.toString());
        }
    }

    private double number(String option, double said, JsonNode own, Predicate<String> isTyped) {
        if (!own.isNumber()) {
            return said;
        }
        if (isTyped.test(option) && own.doubleValue() != said) {
            throw conflict(option, String.valueOf(said).replaceFirst("\\.0$", ""), own.asText());
        }
        return own.doubleValue();
    }

    /// The error for an option that was typed although the adapter already determines it.
    InputException conflict(String option, String typed, String own) {
        return new InputException("%s %s: the adapter in %s has %s; leave %s out, or begin without --init-adapter"
                .formatted(option, typed, folder, own, option));
    }

    /// The adapter's configuration, with or without its head.
    PeftConfig config(boolean head) {
        return head ? config : AdapterFiles.config(folder, false);
    }

    /// Prepares the model for the adapter.
    ///
    /// @throws InputException if the adapter was trained on another model
    void prepare(OpenModel open) {
        if (card != null) {
            card.requireBase(open.base(), folder);
        }
        open.model().resizeTokenEmbeddings(AdapterFiles.tokenEmbeddings(folder, open.model()));
    }

    /// The classes of its head; null if it has no head, or if the classes have no names.
    @Nullable
    Labels labels() {
        return card == null ? null : card.labels();
    }

    /// Why its head cannot be used for the task of `next`; null if it can, or if there is none.
    @Nullable
    String headlessFor(TaskCard next, OpenModel open) {
        int classes = AdapterFiles.classes(folder);
        boolean beside = TextClassifier.isIn(folder);
        if (next.task().labels(open.model()) != null || classes == 0 && !beside) {
            return null;
        }
        Labels labels = next.labels();
        Labels own = labels();
        boolean sameTask = card != null && card.task().name().equals(next.task().name());
        if (!sameTask && (labels == null || card != null)) {
            return "the task is " + next.task().name();
        }
        if (labels == null) {
            return samePooling(next, open);
        }
        if (own != null && own.several() != labels.several()) {
            return own.several()
                    ? "it gives several labels, the rows have one class"
                    : "it gives one class, the rows lists";
        }
        if (own != null ? !own.names().equals(labels.names()) : !beside && classes != labels.size()) {
            return "it tells %s apart, the rows %s".formatted(own == null ? classes + " classes" : own, labels);
        }
        return samePooling(next, open);
    }

    private @Nullable String samePooling(TaskCard next, OpenModel open) {
        Pooling pooling = card == null ? Pooling.of(open.model()) : card.pooling();
        boolean normalize = card != null && card.normalize();
        return pooling == next.pooling() && normalize == next.normalize()
                ? null
                : "it was trained with the pooling %s, not %s".formatted(pooling, next.pooling());
    }

    /// Copies its files into the folder `place`.
    void keep(Path place) {
        try {
            Files.createDirectories(place);
            for (String file : FILES) {
                if (Files.isRegularFile(folder.resolve(file))) {
                    Files.copy(folder.resolve(file), place.resolve(file));
                }
            }
        } catch (IOException e) {
            throw InputException.io(place, "the adapter cannot be kept there", e);
        }
    }
}
