package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.watch.ProcessMemory;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// A model with its tokenizer, on a backend.
///
/// @param name the name that the user gave
/// @param folder the folder of its files
/// @param textPrefix the prefix that it needs before a text to classify; usually empty
/// @param given its tokenizer; null if none was needed
/// @param draft whether it is a new model, whose folder is deleted when it is closed
record OpenModel(
        String name,
        Path folder,
        String textPrefix,
        int threads,
        Backend backend,
        Model model,
        @Nullable Tokenizer given,
        boolean draft)
        implements AutoCloseable {
    static final String FRESH = "seo";
    private static final List<String> BUILT_IN = List.of("minilm", "bge-small", "e5-small", "loran-tiny", FRESH);

    /// All files that a tokenizer's folder may contain; Loran itself reads only the first three and the last.
    private static final List<String> TOKENIZER_FILES = List.of(
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.txt",
            "vocab.json",
            "merges.txt",
            "tokenizer.model",
            "chat_template.jinja",
            "generation_config.json");

    /// Opens the model that `options` name.
    ///
    /// @throws InputException if it is not a model, is not supported here, or does not fit its tokenizer
    static OpenModel of(ModelOptions options) {
        String name = options.requireModel();
        if (name.equals(FRESH)) {
            throw new InputException(
                    "--model seo makes a new model, which only training does; afterwards its folder is "
                            + "base/ in the run's folder");
        }
        String textPrefix =
                Catalogue.find(name).map(Catalogue.Entry::textPrefix).orElse("");
        return of(options, Catalogue.folder(name).orElse(Path.of(name)), textPrefix, false, true);
    }

    /// As [#of], for commands that read no text: the folder may lack a tokenizer.
    static OpenModel withoutTokenizer(ModelOptions options) {
        String name = options.requireModel();
        Path folder = Catalogue.folder(name).orElse(Path.of(name));
        return of(options, folder, "", false, false);
    }

    Tokenizer tokenizer() {
        return Objects.requireNonNull(given, "opened without a tokenizer");
    }

    /// Creates a new [dev.loran.peft.model.decoder.SeoTransformer] with random weights and opens it; see
    /// [#fresh(ModelOptions, Path, Maker)].
    static OpenModel fresh(ModelOptions.Fresh options) {
        Path given = options.tokenizer();
        if (given == null) {
            throw new InputException(
                    "--model seo needs --tokenizer: a folder with tokenizer.json, the file, or the name "
                            + "of a model of the catalogue, such as minilm");
        }
        return fresh(
                options,
                given,
                (tokenizer, scratch) ->
                        SeoTransformer.random(sizes(options, tokenizer), scratch, DType.F32, options.seed));
    }

    /// Creates a model with random weights that fits a tokenizer.
    interface Maker {
        Model make(Tokenizer tokenizer, Backend backend);
    }

    /// Creates a new model with random weights and opens it. Its files, and its tokenizer's, are deleted when it is
    /// closed, except for the copy that [#keep] makes.
    ///
    /// @param words its tokenizer: a folder, or a `tokenizer.json`
    static OpenModel fresh(ModelOptions options, Path words, Maker maker) {
        String name = options.requireModel();
        try (Backend scratch = new ReferenceBackend();
                Tokenizer tokenizer = Tokenizer.load(words, words, options.eosToken);
                Model model = maker.make(tokenizer, scratch)) {
            // The folder's name is written into adapters, so it already has its final name.
            Path draft = Files.createTempDirectory("loran-" + name).resolve("base");
            boolean done = false;
            try {
                deleteOnExit(draft);
                HfModels.save(model, draft);
                copyTokenizer(words, draft);
                options.tokenizer = null;
                OpenModel open = of(options, draft, "", true, true);
                done = true;
                return open;
            } finally {
                if (!done) {
                    delete(draft);
                }
            }
        } catch (IOException e) {
            throw new InputException("--model " + name + ": cannot be written (" + InputException.reason(e) + ")", e);
        }
    }

    /// Opens a model that [#fresh] created and [#keep] copied to `folder`, under the same name.
    static OpenModel kept(ModelOptions options, Path folder) {
        options.tokenizer = null;
        OpenModel open = of(options, folder, "", false, true);
        open.model.nameOrPath(beside(folder));
        return open;
    }

    /// The name under which the adapters of a run refer to the base model that is stored next to them, wherever the run
    /// is moved.
    private static String beside(Path base) {
        return "../" + base.getFileName();
    }

    /// For a process that is terminated, in which [#close] is not called. Files are deleted in reverse order of
    /// registration.
    private static void deleteOnExit(Path draft) {
        temporary(draft).toFile().deleteOnExit();
        draft.toFile().deleteOnExit();
        draft.resolve("config.json").toFile().deleteOnExit();
        draft.resolve("model.safetensors").toFile().deleteOnExit();
        TOKENIZER_FILES.forEach(file -> draft.resolve(file).toFile().deleteOnExit());
    }

    /// Copies a temporary model, with its tokenizer, into the folder `place`; does nothing for any other.
    void keep(Path place) {
        if (!draft) {
            return;
        }
        try (Stream<Path> files = Files.list(folder)) {
            Files.createDirectories(place);
            model.nameOrPath(beside(place));
            for (Path file : files.toList()) {
                Files.copy(file, place.resolve(file.getFileName()), StandardCopyOption.REPLACE_EXISTING);
            }
        } catch (IOException e) {
            throw InputException.io(place, "the new model cannot be kept there", e);
        }
    }

    /// The temporary folder that contains the folder of a new model.
    private static Path temporary(Path draft) {
        return Objects.requireNonNull(draft.getParent());
    }

    private static void delete(Path draft) {
        try {
            Drafts.delete(temporary(draft));
        } catch (IOException e) {
            throw InputException.io(draft, "cannot be removed", e);
        }
    }

    private static TransformerConfig sizes(ModelOptions.Fresh options, Tokenizer tokenizer) {
        try {
            return new TransformerConfig(options.hidden, options.layers, options.heads, tokenizer.vocabSize());
        } catch (IllegalArgumentException e) {
            throw new InputException("--model seo: " + e.getMessage(), e);
        }
    }

    private static OpenModel of(ModelOptions options, Path folder, String textPrefix, boolean draft, boolean reads) {
        if (!Files.isDirectory(folder)) {
            throw new InputException("--model " + folder + ": no such folder, and not one of "
                    + String.join(", ", BUILT_IN) + Nearest.hint(List.of(folder.toString()), BUILT_IN));
        }
        Backend backend = backend(options);
        Tokenizer tokenizer = null;
        Model model = null;
        boolean done = false;
        try {
            Path given = options.tokenizer();
            Path words = given == null ? folder : given;
            if (reads) {
                Tokenizer loaded = Tokenizer.load(words, folder, options.eosToken);
                tokenizer = loaded.withChatFormat(options.chatFormat(loaded, folder));
            }
            model = HfModels.load(folder, backend, backend.storage());
            model.nameOrPath(draft ? null : options.requireModel());
            if (tokenizer != null) {
                checkFits(tokenizer, model, folder);
            }
            done = true;
            return new OpenModel(
                    options.requireModel(), folder, textPrefix, options.threads(), backend, model, tokenizer, draft);
        } finally {
            if (!done) {
                if (model != null) {
                    model.close();
                }
                if (tokenizer != null) {
                    tokenizer.close();
                }
                backend.close();
            }
        }
    }

    /// @throws InputException if the tokenizer has ids that the model has no row for
    static void checkFits(Tokenizer tokenizer, Model model, Path folder) {
        int rows = model.facts().vocabSize();
        if (tokenizer.vocabSize() > rows) {
            throw new InputException("the tokenizer has ids up to " + (tokenizer.vocabSize() - 1) + " but " + folder
                    + " has " + rows + " token embeddings; give the model's own tokenizer (--tokenizer)");
        }
    }

    /// Loads the adapter in `folder`, if there is one, into `peft`, which holds this model.
    ///
    /// @return what `folder` was trained for; null if it does not say
    /// @throws InputException if the adapter is for another base model, or does not fit
    @Nullable
    TaskCard load(PeftModel peft, Path adapter) {
        return load(peft, PeftModel.DEFAULT_ADAPTER, adapter);
    }

    /// As above, under a name.
    @Nullable
    TaskCard load(PeftModel peft, String as, Path adapter) {
        TaskCard card = TaskCard.isIn(adapter) ? TaskCard.read(adapter) : null;
        if (Files.isRegularFile(adapter.resolve(AdapterFiles.CONFIG))) {
            if (card != null) {
                card.requireBase(base(), adapter);
            }
            if (peft.adapters().isEmpty()) {
                model.resizeTokenEmbeddings(AdapterFiles.tokenEmbeddings(adapter, model));
            }
            peft.loadAdapter(as, adapter);
        }
        return card;
    }

    /// The memory that training this model will take; null if that cannot be predicted.
    ///
    /// @param method null if the whole model trains
    @Nullable
    MemoryPlan plan(@Nullable PeftConfig method, TaskCard card, TrainerConfig config, TaskRows rows) {
        boolean checkpointing = model.gradientCheckpointing();
        Examples heldOut = rows.heldOut();
        return MemoryPlan.of(
                backend,
                b -> {
                    Model same = HfModels.load(folder, b, backend.storage());
                    same.gradientCheckpointing(checkpointing);
                    same.resizeTokenEmbeddings(model.facts().vocabSize());
                    return same;
                },
                method,
                card,
                config,
                config.stepsOver(rows.train().size()),
                Largest.of(rows.train(), config.batchSize()),
                heldOut == null ? null : Largest.of(heldOut, config.batchSize()));
    }

    /// The reference to this model in an adapter's card.
    TaskCard.Base base() {
        return new TaskCard.Base(name, Objects.requireNonNull(model.sha256(), "weights of " + folder));
    }

    /// How a text becomes one vector: as the user asked; or else as the model's authors specify; or else as is usual
    /// for the task.
    ///
    /// @throws InputException if that is not possible, or if the model's own classification head requires another
    ///     pooling
    SentencePooling pooling(Task task, @Nullable String asked) {
        Pooling family = Pooling.of(model);
        boolean hasClasses = model.task() == TaskType.SEQ_CLS;
        if (hasClasses && asked != null && Pooling.named(asked) != family) {
            throw new InputException("--pooling " + asked + ": " + name + " has a head of its own, whose pooling is "
                    + family + "; leave --pooling out");
        }
        if (hasClasses || asked != null) {
            return new SentencePooling(asked == null ? family : Pooling.named(asked), false);
        }
        Optional<Catalogue.Entry> entry = Catalogue.find(name);
        if (entry.isPresent()) {
            return new SentencePooling(Pooling.named(entry.get().pooling()), false);
        }
        SentencePooling files = SentencePooling.read(folder);
        if (files != null) {
            return files;
        }
        return new SentencePooling(task.pooling(model), false);
    }

    /// The backend that `options` ask for.
    static Backend backend(ModelOptions options) {
        return switch (options.device) {
            case "auto" -> automatic(options);
            case "cpu" -> Backends.best(options.threads(), options.dtype());
            case "cuda" -> cuda(options.dtype());
            default ->
                throw new InputException("--device " + options.device + " is not known; choose auto, cpu or cuda");
        };
    }

    /// A GPU if one can be used, or else the CPU.
    private static Backend automatic(ModelOptions options) {
        try {
            return Backends.cuda(options.dtype());
        } catch (BackendException | LinkageError e) {
            // No GPU, no driver, or no JCuda on the class path: `loran doctor` says which.
            return Backends.best(options.threads(), options.dtype());
        }
    }

    private static Backend cuda(DType dtype) {
        try {
            return Backends.cuda(dtype);
        } catch (BackendException e) {
            throw new InputException(
                    "--device cuda is not possible here: " + e.getMessage() + "; leave --device out", e);
        }
    }

    /// Copies a tokenizer, either a folder with its files or a single `tokenizer.json`, into the folder `to`.
    static void copyTokenizer(Path from, Path to) {
        try {
            if (Files.isRegularFile(from)) {
                Files.copy(from, to.resolve("tokenizer.json"), StandardCopyOption.REPLACE_EXISTING);
                return;
            }
            for (String file : TOKENIZER_FILES) {
                if (Files.isRegularFile(from.resolve(file))) {
                    Files.copy(from.resolve(file), to.resolve(file), StandardCopyOption.REPLACE_EXISTING);
                }
            }
        } catch (IOException e) {
            throw InputException.io(to, "the tokenizer cannot be copied there", e);
        }
    }

    /// The backend in use, and why no faster one is used, in one line.
    String backendChoice() {
        return isDevice() ? "backend: " + backend.name() + ", " + backend.describe() : Backends.describe(threads);
    }

    /// What is known as the steps of a run begin, for those who look at it later.
    ObjectNode facts(@Nullable MemoryPlan plan, TaskRows data) {
        ObjectNode facts = new ObjectMapper()
                .createObjectNode()
                .put("backend", backendChoice())
                .put("device", device())
                .put("memory_mib", totalBytes() / (double) (1 << 20))
                .put("planned_tensor_mib", plan == null ? null : (Double) plan.totalMib())
                .put("max_positions", model.facts().maxPositions());
        data.describe(facts);
        return facts;
    }

    /// What was opened, in one line.
    String describe() {
        long parameters = model.namedParameters().values().stream()
                .mapToLong(tensor -> tensor.shape().size())
                .sum();
        return "model: %s, %s with %,d parameters, in %s"
                .formatted(name, model.getClass().getSimpleName(), parameters, folder);
    }

    /// The number of bytes available for tensors.
    long totalBytes() {
        return isDevice() ? backend.totalBytes() : ProcessMemory.totalBytes();
    }

    /// The device of the backend: `cpu` or `cuda`.
    String device() {
        return isDevice() ? backend.name() : "cpu";
    }

    /// Whether tensors are in the memory of a device, not of the process.
    private boolean isDevice() {
        return backend.totalBytes() > 0;
    }

    @Override
    public void close() {
        try {
            model.close();
            if (given != null) {
                given.close();
            }
            backend.close();
        } finally {
            if (draft) {
                delete(folder);
            }
        }
    }
}
