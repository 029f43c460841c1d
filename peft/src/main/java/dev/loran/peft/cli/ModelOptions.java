package dev.loran.peft.cli;

import dev.loran.engine.backend.DType;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.format.DateTimeParseException;
import java.util.List;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// The options that choose a model and how it runs.
class ModelOptions {
    /// The default for the most tokens of a text.
    private static final int MAX_LENGTH = 128;

    @Option(
            names = "--model",
            paramLabel = "M",
            description = "a Hugging Face model folder; or minilm, bge-small, e5-small or loran-tiny")
    @Nullable
    String model;

    @Option(
            names = "--tokenizer",
            paramLabel = "PATH",
            description =
                    "a folder with tokenizer.json, the file, or a model of the catalogue; the model's own otherwise")
    @Nullable
    Path tokenizer;

    @Option(
            names = "--eos-token",
            paramLabel = "TOKEN",
            description =
                    "what ends a text (what the adapter was trained with, or the model's and tokenizer's files name)")
    @Nullable
    String eosToken;

    @Option(
            names = "--chat-template",
            paramLabel = "T",
            description =
                    "chatml, llama3, gemma, alpaca or a file: how chats become text (what the adapter was trained "
                            + "with, or the model's own)")
    @Nullable
    String chatTemplate;

    @Option(
            names = "--train-on",
            paramLabel = "A",
            description = "task chat: learn all answers of a chat or the last one (all)")
    @Nullable
    String trainOn;

    @Option(
            names = "--chat-day",
            paramLabel = "DAY",
            description = "task chat: the day that templates show, such as 2026-01-31 (today)")
    @Nullable
    String chatDay;

    /// The format that an adapter was trained with; null if there is none.
    @Nullable
    ChatFormat trainedFormat;

    @Option(names = "--batch-size", paramLabel = "N", description = "rows of a batch (16)")
    @Nullable
    Integer batchSize;

    @Option(
            names = "--max-length",
            paramLabel = "N",
            description =
                    "most tokens of a text; longer ones are cut (what the adapter was trained with; else 128, or as "
                            + "many as the model has room for)")
    @Nullable
    Integer maxLength;

    @Option(
            names = "--dtype",
            paramLabel = "T",
            description = "operands of the products of linear layers and attention, on a GPU all of the model but what "
                    + "trains: f32 or bf16; sums are f32 (${DEFAULT-VALUE})")
    String dtype = "f32";

    @Option(
            names = "--device",
            paramLabel = "D",
            description = "cpu, cuda, or auto: a GPU where there is one that can be used (${DEFAULT-VALUE})")
    String device = "auto";

    @Option(names = "--threads", paramLabel = "N", description = "threads of the CPU (all there are)")
    @Nullable
    Integer threads;

    @Option(names = "--seed", paramLabel = "N", description = "seed of all that is random (${DEFAULT-VALUE})")
    long seed = 42;

    /// As above, for commands that can also make a new model.
    static final class Fresh extends ModelOptions {
        @Option(
                names = "--hidden",
                paramLabel = "N",
                description = "with --model seo, a new small model: its width (${DEFAULT-VALUE})")
        int hidden = 256;

        @Option(names = "--layers", paramLabel = "N", description = "with --model seo: its blocks (${DEFAULT-VALUE})")
        int layers = 4;

        @Option(
                names = "--heads",
                paramLabel = "N",
                description = "with --model seo: its attention heads (${DEFAULT-VALUE})")
        int heads = 4;
    }

    /// The name of the model.
    ///
    /// @throws InputException if it was not given
    String requireModel() {
        if (model == null) {
            throw new InputException(
                    "--model is missing: a model folder, minilm, bge-small, e5-small, loran-tiny, or seo");
        }
        return model;
    }

    /// The file or folder of the tokenizer that was given, by its path or as a model of the catalogue; null if none
    /// was.
    @Nullable
    Path tokenizer() {
        if (tokenizer == null || Files.exists(tokenizer)) {
            return tokenizer;
        }
        return Catalogue.folder(tokenizer.toString()).orElse(tokenizer);
    }

    /// How chats become text: as the user asked, or as the adapter was trained, or as the tokenizer's files say; null
    /// if nothing says.
    ///
    /// @param folder of the model
    @Nullable
    ChatFormat chatFormat(Tokenizer words, Path folder) {
        Path given = tokenizer();
        Path files = given != null && Files.isDirectory(given) ? given : folder;
        ChatFormat format = chatTemplate != null
                ? ChatFormat.named(chatTemplate, files)
                : trainedFormat != null ? trainedFormat : words.chatFormat();
        if (format == null) {
            return null;
        }
        if (trainOn != null) {
            if (!List.of("all", "last").contains(trainOn)) {
                throw new InputException("--train-on " + trainOn + " is not known; choose all or last");
            }
            format = format.withLastOnly(trainOn.equals("last"));
        }
        try {
            return chatDay == null ? format : format.withDay(LocalDate.parse(chatDay));
        } catch (DateTimeParseException e) {
            throw new InputException("--chat-day " + chatDay + " is no day such as 2026-01-31", e);
        }
    }

    DType dtype() {
        return switch (dtype) {
            case "f32" -> DType.F32;
            case "bf16" -> DType.BF16;
            default -> throw new InputException("--dtype " + dtype + " is not known; choose f32 or bf16");
        };
    }

    int threads() {
        if (threads == null) {
            threads = Runtime.getRuntime().availableProcessors();
        }
        if (threads < 1) {
            throw new InputException("--threads " + threads + " must be at least 1");
        }
        return threads;
    }

    int batchSize() {
        if (batchSize == null) {
            batchSize = 16;
        }
        return batchSize;
    }

    /// The most tokens of a text: the number that the user gave, or else `usual` if that is positive, or else 128; for
    /// the defaults, at most what the model has room for.
    ///
    /// @param virtualTokens positions that the method takes from the text
    /// @throws InputException if the user asked for more than the model has
    int maxLength(OpenModel open, int virtualTokens, int usual) {
        int positions = open.model().facts().maxPositions();
        int room = positions - virtualTokens;
        if (room < 1) {
            throw new InputException("--virtual-tokens " + virtualTokens + " leave no room for a text: " + open.name()
                    + " has " + positions + " positions; choose fewer");
        }
        if (maxLength == null) {
            maxLength = Math.min(room, usual > 0 ? usual : MAX_LENGTH);
        }
        if (maxLength > room || maxLength < 1) {
            throw new InputException("--max-length " + maxLength + " must be from 1 to " + room + ": " + open.name()
                    + " has " + positions + " positions"
                    + (virtualTokens == 0 ? "" : ", of which virtual tokens take " + virtualTokens));
        }
        return maxLength;
    }
}
