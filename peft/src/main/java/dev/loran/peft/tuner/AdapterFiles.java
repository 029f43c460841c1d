package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.UnaryOperator;

/// peft's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
public final class AdapterFiles {
    public static final String CONFIG = "adapter_config.json";
    public static final String WEIGHTS = "adapter_model.safetensors";

    /// What training needs but peft's file does not hold: the encoders of prompt methods. peft ignores this file.
    public static final String TRAINING = "training.safetensors";

    private static final String PICKLED = "adapter_model.bin";
    private static final String BASE = "base_model";

    /// The prefix that peft puts before the names of the model's tensors.
    static final String PREFIX = "base_model.model.";
    private static final String BASE_SHA256 = "base_model_sha256";

    /// How files name the weight of a table below its module: plain, or wrapped by an adapter.
    private static final List<String> TABLE =
            List.of(".weight", ".base_layer.weight", ".token_adapter.base_layer.weight");

    private static final ObjectMapper JSON = new ObjectMapper()
            .enable(SerializationFeature.INDENT_OUTPUT)
            .enable(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS);

    /// Configuration fields that equal a dimension of some tensor or, for an encoder of which the file holds only the
    /// output, should be of a similar size.
    private static final List<String> SIZES = List.of(
            "r",
            "init_r",
            "rank_pattern",
            "num_virtual_tokens",
            "bottleneck_size",
            "encoder_hidden_size",
            "encoder_num_layers");

    private AdapterFiles() {}

    /// The configuration in `folder`.
    ///
    /// @throws InputException if there is none, it is not a JSON object, or it asks for something this version does not
    ///     support
    public static PeftConfig config(Path folder) {
        return config(folder, true);
    }

    /// As above; without `head`, the configuration of the same adapter for another task, which trains no classification
    /// head.
    public static PeftConfig config(Path folder, boolean head) {
        return config(folder, head, Methods.shipped());
    }

    /// As above, limited to `methods`.
    static PeftConfig config(Path folder, boolean head, Methods methods) {
        Path file = folder.resolve(CONFIG);
        if (!Files.isRegularFile(file)) {
            throw new InputException(file + ": no such file; " + folder + " is no adapter folder");
        }
        try {
            ObjectNode json = JsonFile.read(file);
            return methods.read(new ConfigJson(file.toString(), head ? json : Heads.without(json)));
        } catch (InputException e) {
            throw of(file, e);
        }
    }

    /// Rejects sizes far beyond anything in the files, before a tensor of such a size is allocated.
    ///
    /// @throws InputException naming the field
    static void requireSizes(PeftConfig config, Path folder) {
        int largest = 1;
        try (SafeTensors weights = SafeTensors.open(folder.resolve(WEIGHTS))) {
            for (String name : weights.names()) {
                for (int dim : weights.entry(name).shape().dims()) {
                    largest = Math.max(largest, dim);
                }
            }
        } catch (SafeTensorsException e) {
            // The load that follows reports the error more precisely.
            largest = 1 << 14;
        }
        ObjectNode json = config.toJson();
        for (String field : SIZES) {
            long most = field.startsWith("encoder_") ? 16L * largest : largest;
            json.path(field).forEach(value -> requireSize(field, value.asLong(), most, folder));
            requireSize(field, json.path(field).asLong(), most, folder);
        }
    }

    private static void requireSize(String field, long size, long most, Path folder) {
        if (size > most) {
            throw new InputException(
                    "%s: %s is %d, but no tensor of %s has more than %d in any dimension; one is damaged"
                            .formatted(folder.resolve(CONFIG), field, size, WEIGHTS, most));
        }
    }

    /// How the file in `folder` names the modules of `model`: by the same names or, if one was made for the family's
    /// bare model and the other has a head, by their [Model#otherName].
    static UnaryOperator<String> naming(Path folder, Model model) {
        Set<String> names = new HashSet<>();
        try (SafeTensors weights = SafeTensors.open(folder.resolve(WEIGHTS))) {
            weights.names().stream()
                    .filter(key -> key.startsWith(PREFIX))
                    .forEach(key -> addParents(key.substring(PREFIX.length()), names));
        } catch (SafeTensorsException e) {
            // The load that follows reports the error more precisely.
            return UnaryOperator.identity();
        }
        List<String> modules = Targets.candidates(model).keySet().stream()
                .filter(module -> !model.otherName(module).equals(module))
                .toList();
        boolean isOther = modules.stream().noneMatch(names::contains)
                && modules.stream().anyMatch(module -> names.contains(model.otherName(module)));
        return isOther ? model::otherName : UnaryOperator.identity();
    }

    private static void addParents(String name, Set<String> all) {
        for (int dot = name.lastIndexOf('.'); dot > 0; dot = name.lastIndexOf('.', dot - 1)) {
            all.add(name.substring(0, dot));
        }
    }

    /// The same error with the file it concerns.
    static InputException of(Path file, InputException e) {
        String message = String.valueOf(e.getMessage());
        return message.startsWith(file.toString()) ? e : new InputException(file + ": " + message, e);
    }

    /// Writes the adapter as it is; each file is written completely or not at all.
    static void save(Tuner tuner, Path folder) {
        try (Scope scope = Scope.open()) {
            write(tuner.saved(), tuner.attachment(), folder);
        }
    }

    /// As [#save], in a form that needs only the unmodified base: [Tuner#converted].
    static void saveConverted(Tuner tuner, Path folder) {
        try (Scope scope = Scope.open()) {
            write(tuner.converted(), tuner.attachment(), folder);
        }
    }

    private static void write(Tuner.Saved saved, Attachment to, Path folder) {
        Model base = to.model();
        // As in peft: a saved configuration is meant for inference, and training resets it.
        ObjectNode config = saved.config().put("inference_mode", true);
        config.put("base_model_name_or_path", base.nameOrPath());
        String kind = base.className();
        if (!config.hasNonNull("task_type") && kind != null && !to.isRenamed()) {
            String family = base.facts().modelType();
            config.putObject("auto_mapping")
                    .put("base_model_class", kind)
                    .put("parent_library", "transformers.models." + family + ".modeling_" + family);
        }
        try {
            Files.createDirectories(folder);
            Map<String, SafeTensors.Part> parts = new LinkedHashMap<>();
            saved.tensors().forEach((key, t) -> parts.put(key, SafeTensors.Part.of(t, DType.F32)));
            SafeTensors.writeParts(folder.resolve(WEIGHTS), parts, metadata(base));
            if (saved.training().isEmpty()) {
                Files.deleteIfExists(folder.resolve(TRAINING));
            } else {
                SafeTensors.write(folder.resolve(TRAINING), saved.training());
            }
            JsonFile.write(folder.resolve(CONFIG), JSON.writeValueAsString(JSON.treeToValue(config, Map.class)));
        } catch (IOException e) {
            throw InputException.io(folder, "the adapter cannot be written", e);
        }
    }

    /// The header's metadata about the base model, where known; peft ignores it.
    private static Map<String, String> metadata(Model base) {
        Map<String, String> all = new LinkedHashMap<>(SafeTensors.PYTORCH);
        String sha256 = base.sha256();
        if (sha256 != null) {
            all.put(BASE, base.title());
            all.put(BASE_SHA256, sha256);
        }
        return all;
    }

    private static void checkBase(Path folder, Map<String, String> metadata, Model base) {
        String expected = metadata.get(BASE_SHA256);
        String sha256 = expected == null ? null : base.sha256();
        if (sha256 != null && !sha256.equals(expected)) {
            throw new InputException("%s: the adapter was trained on %s (SHA-256 %.12s…), not on %s (SHA-256 %.12s…)"
                    .formatted(folder, metadata.get(BASE), expected, base.title(), sha256));
        }
    }

    /// Copies the weights in `folder` into `tuner`, after checking that all of them are present, expected and of the
    /// right shape.
    ///
    /// @param head whether the classification head is loaded too
    /// @throws InputException if files are missing or damaged, or do not fit
    static void load(Tuner tuner, Path folder, boolean head) {
        try {
            loadWeights(tuner, folder, head);
            loadTraining(tuner, folder.resolve(TRAINING));
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    private static void loadWeights(Tuner tuner, Path folder, boolean head) {
        Path file = folder.resolve(WEIGHTS);
        if (!Files.exists(file) && Files.exists(folder.resolve(PICKLED))) {
            throw new InputException(folder + ": holds " + PICKLED + ", a pickle, which could run anything when read; "
                    + "save the adapter as safetensors (" + WEIGHTS + ")");
        }
        try (Scope scope = Scope.open();
                SafeTensors weights = SafeTensors.open(file)) {
            checkBase(folder, weights.metadata(), tuner.attachment().model());
            Map<String, Tensor> repeated = new LinkedHashMap<>(tuner.repeated());
            repeated.putAll(takeTables(tuner, file, weights));
            Map<String, Tensor> wanted = new LinkedHashMap<>(tuner.fileTensors());
            wanted.keySet().removeAll(repeated.keySet());
            wanted.keySet().removeAll(tuner.tiedKeys());
            wanted.forEach((key, tensor) -> {
                if (!weights.names().contains(key)) {
                    throw new InputException(
                            file + ": tensor " + key + " is missing" + otherWay(wanted.keySet(), weights.names()));
                }
                if (!weights.entry(key).shape().equals(tensor.shape())) {
                    throw new InputException(file + ": tensor " + key + " is "
                            + weights.entry(key).shape() + " but the model needs " + tensor.shape()
                            + "; the adapter was made for another base model");
                }
            });
            for (String key : weights.names()) {
                Tensor base = repeated.get(key);
                if (base != null) {
                    checkRepeated(file, key, weights, base);
                } else if ((head || !Heads.isClassifier(key))
                        && !wanted.containsKey(key)
                        && !wanted.containsKey(withoutWrapper(key))
                        && !tuner.tiedKeys().contains(key)) {
                    throw new InputException(file + ": tensor " + key + " has no place in the model; "
                            + noPlace(key, tuner.attachment()));
                }
            }
            Map<String, Tensor> values = new LinkedHashMap<>();
            try {
                wanted.forEach((key, tensor) -> values.put(key, weights.copy(tensor.backend(), key, tensor.dtype())));
                tuner.load(values);
            } finally {
                values.values().forEach(Tensor::close);
            }
        }
    }

    /// Handles tables of token embeddings, and heads, that a file holds in addition to the adapter, as peft's files do
    /// after the vocabulary was resized. Those that differ from the model's own become part of the adapter.
    ///
    /// @return those that remain the model's own, by key
    /// @throws InputException if their number of rows differs from the model's
    private static Map<String, Tensor> takeTables(Tuner tuner, Path file, SafeTensors weights) {
        Map<String, Tensor> own = new LinkedHashMap<>();
        Set<String> wanted = tuner.fileTensors().keySet();
        tuner.attachment().tables().forEach((module, layer) -> {
            Tensor table = Attachment.weight(layer);
            for (String below : TABLE) {
                String key = tuner.prefix() + module + below;
                if (weights.names().contains(key)) {
                    checkRows(file, key, weights.entry(key).shape(), table.shape());
                    if (!wanted.contains(key) && isSame(key, weights, table, 0)) {
                        own.put(key, table);
                    } else if (below.startsWith(".base") || below.startsWith(".token")) {
                        takeRows(tuner.attachment().model(), key, weights, table);
                        own.put(key, table);
                    }
                }
            }
            String key = tuner.prefix() + module + TABLE.getFirst();
            if (weights.names().contains(key) && !wanted.contains(key) && !own.containsKey(key)) {
                ModulesToSave.placeGiven(tuner, module, layer);
            }
        });
        return own;
    }

    /// Replaces the rows that resizing added to the table by those of the file.
    private static void takeRows(Model model, String key, SafeTensors weights, Tensor table) {
        int known = model.knownTokenEmbeddings();
        if (known < table.shape().dim(0)) {
            try (Tensor file = weights.copy(table.backend(), key, table.dtype());
                    Tensor rows = Residual.rowMajor(table);
                    Tensor next = Functional.concat(
                            List.of(
                                    rows.slice(0, 0, known),
                                    file.slice(0, known, table.shape().dim(0))),
                            0)) {
                table.copyFrom(next);
            }
        }
    }

    private static void checkRows(Path file, String key, Shape found, Shape table) {
        if (found.rank() == 2 && found.dim(1) == table.dim(1) && found.dim(0) != table.dim(0)) {
            throw new InputException(
                    "%s: tensor %s is %s but the model has %d token embeddings; the vocabulary was resized"
                                    .formatted(file, key, found, table.dim(0))
                            + " when the adapter was made: call resizeTokenEmbeddings(" + found.dim(0)
                            + ") on the model before the adapter is loaded");
        }
    }

    /// The number of classes of the head in the file in `folder`; 0 if it holds none.
    public static int classes(Path folder) {
        return Heads.classes(folder.resolve(WEIGHTS));
    }

    /// The number of token embeddings that the model needs for the adapter in `folder`: its present number, unless the
    /// file holds a table of another size. See [Model#resizeTokenEmbeddings].
    public static int tokenEmbeddings(Path folder, Model model) {
        Path file = folder.resolve(WEIGHTS);
        if (Files.isRegularFile(file)) {
            try (SafeTensors weights = SafeTensors.open(file)) {
                for (Map.Entry<String, AdaptedLayer<?>> e :
                        Targets.candidates(model).entrySet()) {
                    if (e.getValue() == model.tokenEmbedding()) {
                        return rows(weights, model, e.getKey());
                    }
                }
            } catch (SafeTensorsException e) {
                throw new InputException(String.valueOf(e.getMessage()), e);
            }
        }
        return model.facts().vocabSize();
    }

    private static int rows(SafeTensors weights, Model model, String module) {
        for (String name : List.of(module, model.otherName(module))) {
            for (String below : TABLE) {
                String key = PREFIX + name + below;
                if (weights.names().contains(key) && weights.entry(key).shape().rank() == 2) {
                    return weights.entry(key).shape().dim(0);
                }
            }
        }
        return model.facts().vocabSize();
    }

    /// Explains why a tensor may be missing, depending on whether any tensor the adapter wants is there.
    private static String otherWay(Set<String> wanted, Set<String> names) {
        return wanted.stream().anyMatch(names::contains)
                ? "; the adapter is damaged, or was made for a model with fewer layers"
                : ", as are all others; the adapter was made for another kind of model: its tensors are "
                        + String.join(", ", names.stream().sorted().limit(2).toList())
                        + (names.size() > 2 ? ", …" : "");
    }

    /// Explains why a tensor has no place: there is no such module, or the configuration does not ask for the tensor.
    private static String noPlace(String key, Attachment to) {
        String name = key.startsWith(PREFIX) ? key.substring(PREFIX.length()) : key;
        Set<String> parents = new HashSet<>();
        addParents(name, parents);
        return to.modules().keySet().stream()
                .filter(parents::contains)
                .findFirst()
                .map(module -> CONFIG + " asks for nothing of that name at " + module)
                .orElse("there is no such module: the adapter was made for a model with other layers or another head");
    }

    private static void loadTraining(Tuner tuner, Path beside) {
        if (Files.exists(beside)) {
            try (Scope scope = Scope.open();
                    SafeTensors training = SafeTensors.open(beside)) {
                Map<String, Tensor> values = new LinkedHashMap<>();
                try {
                    training.names()
                            .forEach(n -> values.put(
                                    n, training.copy(tuner.attachment().backend(), n, DType.F32)));
                    tuner.loadTraining(values, beside.toString());
                } finally {
                    values.values().forEach(Tensor::close);
                }
            }
        }
    }

    /// With `bias` all, peft's files hold the bias of a fully trained layer three times: under its own name, and once
    /// more under each name inside the layer's wrapper.
    private static String withoutWrapper(String key) {
        return key.replaceFirst("\\.(original_module|modules_to_save)\\.bias$", ".bias");
    }

    /// A frozen weight repeated in the file must equal the model's, up to the rounding of a 16-bit file.
    private static void checkRepeated(Path file, String key, SafeTensors weights, Tensor base) {
        if (!isSame(key, weights, base, 1.0 / 256)) {
            throw new InputException(
                    file + ": tensor " + key + " " + weights.entry(key).shape()
                            + " repeats a frozen weight, but the model's " + base.shape()
                            + " holds other values; the adapter was made for another base model");
        }
    }

    /// @param relative allowed difference of an element, relative to its magnitude
    private static boolean isSame(String key, SafeTensors weights, Tensor base, double relative) {
        boolean[] same = {weights.entry(key).shape().equals(base.shape())};
        if (same[0]) {
            try (Tensor repeated = weights.copy(base.backend(), key, base.dtype())) {
                DType type = base.dtype();
                long size = base.shape().size();
                base.withElements(a -> repeated.withElements(b -> {
                    for (long i = 0; i < size && same[0]; i++) {
                        double x = HostBuffer.get(a, type, i);
                        same[0] = Math.abs(x - HostBuffer.get(b, type, i))
                                <= Math.abs(x) * relative + (relative == 0 ? 0 : 1e-7);
                    }
                }));
            }
        }
        return same[0];
    }
}
