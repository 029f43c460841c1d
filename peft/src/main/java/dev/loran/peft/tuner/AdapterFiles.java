package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.DType;
import dev.loran.engine.HostBuffer;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.data.InputException;
import dev.loran.peft.data.JsonFile;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/// peft's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
public final class AdapterFiles {
    public static final String CONFIG = "adapter_config.json";
    public static final String WEIGHTS = "adapter_model.safetensors";

    /// What training needs and peft's file does not hold: the encoders of prompt methods. peft takes no notice of it.
    public static final String TRAINING = "training.safetensors";

    private static final String PICKLED = "adapter_model.bin";
    private static final String BASE = "base_model";
    private static final String BASE_SHA256 = "base_model_sha256";

    private static final ObjectMapper JSON = new ObjectMapper()
            .enable(SerializationFeature.INDENT_OUTPUT)
            .enable(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS);

    private AdapterFiles() {}

    /// The configuration in `folder`.
    ///
    /// @throws InputException if there is none, it is no JSON object, or it asks for what this version does not know
    public static PeftConfig config(Path folder) {
        Path file = folder.resolve(CONFIG);
        if (!Files.isRegularFile(file)) {
            throw new InputException(file + ": no such file; " + folder + " is no adapter folder");
        }
        try {
            return PeftConfig.fromJson(new ConfigJson(file.toString(), JsonFile.read(file)));
        } catch (InputException e) {
            throw of(file, e);
        }
    }

    /// What is wrong, with the file that said so.
    static InputException of(Path file, InputException e) {
        String message = String.valueOf(e.getMessage());
        return message.startsWith(file.toString()) ? e : new InputException(file + ": " + message, e);
    }

    /// Writes the adapter as it stands, each file whole or not at all.
    static void save(Tuner tuner, Path folder) {
        try (Scope scope = Scope.open()) {
            write(tuner.saved(), tuner.attachment().model(), folder);
        }
    }

    /// As [#save], in the form that needs nothing but the untouched base: [Tuner#converted].
    static void saveConverted(Tuner tuner, Path folder) {
        try (Scope scope = Scope.open()) {
            write(tuner.converted(), tuner.attachment().model(), folder);
        }
    }

    private static void write(Tuner.Saved saved, Model base, Path folder) {
        // As peft does: what is saved is meant for inference, and training sets it back.
        ObjectNode config = saved.config().put("inference_mode", true);
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

    /// What the header says of the base model, where it is known; peft takes no notice of it.
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

    /// Copies the weights in `folder` into `tuner`, after checking that every one is there, fits, and is wanted.
    ///
    /// @throws InputException if files are missing or damaged, or do not fit
    static void load(Tuner tuner, Path folder) {
        try {
            loadWeights(tuner, folder);
            loadTraining(tuner, folder.resolve(TRAINING));
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    private static void loadWeights(Tuner tuner, Path folder) {
        Path file = folder.resolve(WEIGHTS);
        if (!Files.exists(file) && Files.exists(folder.resolve(PICKLED))) {
            throw new InputException(folder + ": holds " + PICKLED + ", a pickle, which could run anything when read; "
                    + "save the adapter as safetensors (" + WEIGHTS + ")");
        }
        try (Scope scope = Scope.open();
                SafeTensors weights = SafeTensors.open(file)) {
            checkBase(folder, weights.metadata(), tuner.attachment().model());
            Map<String, Tensor> repeated = tuner.repeated();
            Map<String, Tensor> wanted = new LinkedHashMap<>(tuner.fileTensors());
            wanted.keySet().removeAll(repeated.keySet());
            wanted.forEach((key, tensor) -> {
                if (!weights.names().contains(key)) {
                    throw new InputException(file + ": tensor " + key
                            + " is missing; the adapter is damaged or was made for another base model");
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
                } else if (!wanted.containsKey(key) && !wanted.containsKey(withoutWrapper(key))) {
                    throw new InputException(file + ": tensor " + key
                            + " has no place in the model; the adapter was made for another base model");
                }
            }
            Map<String, Tensor> values = new LinkedHashMap<>();
            wanted.forEach((key, tensor) -> values.put(key, weights.copy(tensor.backend(), key, tensor.dtype())));
            tuner.load(values);
            values.values().forEach(Tensor::close);
        }
    }

    private static void loadTraining(Tuner tuner, Path beside) {
        if (Files.exists(beside)) {
            try (Scope scope = Scope.open();
                    SafeTensors training = SafeTensors.open(beside)) {
                Map<String, Tensor> values = new LinkedHashMap<>();
                training.names()
                        .forEach(n ->
                                values.put(n, training.copy(tuner.attachment().backend(), n, DType.F32)));
                tuner.loadTraining(values, beside.toString());
                values.values().forEach(Tensor::close);
            }
        }
    }

    /// With `bias` all, peft's files hold the bias of a layer that is trained whole three times: as what it is, and once more
    /// under each name inside the layer's wrapper.
    private static String withoutWrapper(String key) {
        return key.replaceFirst("\\.(original_module|modules_to_save)\\.bias$", ".bias");
    }

    /// A frozen weight that the file repeats has to be the model's, but for the rounding of a 16-bit file.
    private static void checkRepeated(Path file, String key, SafeTensors weights, Tensor base) {
        boolean[] same = {weights.entry(key).shape().equals(base.shape())};
        if (same[0]) {
            try (Tensor repeated = weights.copy(base.backend(), key, base.dtype())) {
                DType type = base.dtype();
                long size = base.shape().size();
                base.withElements(a -> repeated.withElements(b -> {
                    for (long i = 0; i < size && same[0]; i++) {
                        double x = HostBuffer.get(a, type, i);
                        same[0] = Math.abs(x - HostBuffer.get(b, type, i)) <= Math.abs(x) / 256 + 1e-7;
                    }
                }));
            }
        }
        if (!same[0]) {
            throw new InputException(
                    file + ": tensor " + key + " " + weights.entry(key).shape()
                            + " repeats a frozen weight, but the model's " + base.shape()
                            + " holds other values; the adapter was made for another base model");
        }
    }
}
