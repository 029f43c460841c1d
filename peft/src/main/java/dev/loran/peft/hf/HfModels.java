package dev.loran.peft.hf;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensors.Part;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.WithPooler;
import dev.loran.peft.model.decoder.Gemma2Model;
import dev.loran.peft.model.decoder.Gemma3Model;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.GptNeoXModel;
import dev.loran.peft.model.decoder.GraniteModel;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.decoder.MistralModel;
import dev.loran.peft.model.decoder.Olmo2Model;
import dev.loran.peft.model.decoder.Phi3Model;
import dev.loran.peft.model.decoder.Qwen2Model;
import dev.loran.peft.model.decoder.Qwen3Model;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.SmolLm3Model;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.model.encoder.DebertaModel;
import dev.loran.peft.model.encoder.DistilBertModel;
import dev.loran.peft.model.encoder.ElectraModel;
import dev.loran.peft.model.encoder.ModernBertModel;
import dev.loran.peft.model.encoder.MpNetModel;
import dev.loran.peft.model.encoder.RobertaModel;
import dev.loran.peft.model.encoder.XlmRobertaModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// Reads and writes Hugging Face's model folders: `config.json` with `model.safetensors`, or with the files that
/// `model.safetensors.index.json` lists.
///
/// Nothing is guessed: an unsupported config value that changes the computation, or a tensor that is missing, has the
/// wrong shape or is not part of the model, causes an [InputException] that names it. The dropout rates in the config
/// are preserved and written again, but not applied in training ([Model]).
public final class HfModels {
    /// The built-in families.
    public static final List<Family> FAMILIES = List.of(
            LlamaModel.FAMILY,
            Qwen2Model.FAMILY,
            Qwen3Model.FAMILY,
            MistralModel.FAMILY,
            Gemma2Model.FAMILY,
            Gemma3Model.FAMILY,
            Phi3Model.FAMILY,
            SmolLm3Model.FAMILY,
            Olmo2Model.FAMILY,
            GraniteModel.FAMILY,
            GptNeoXModel.FAMILY,
            Gpt2Model.FAMILY,
            BertModel.FAMILY,
            RobertaModel.FAMILY,
            XlmRobertaModel.FAMILY,
            DistilBertModel.FAMILY,
            ElectraModel.FAMILY,
            MpNetModel.FAMILY,
            ModernBertModel.FAMILY,
            DebertaModel.FAMILY,
            SeoTransformer.FAMILY);

    private HfModels() {}

    /// Loads a folder in F32; see [#load(Path, Backend, DType, Family...)].
    public static Model load(Path folder, Backend backend) {
        return load(folder, backend, DType.F32);
    }

    /// Loads the model of a folder, frozen, converted to `dtype`. The config determines its task: a model
    /// `…ForSequenceClassification` has its head, any other BERT is the encoder alone. Matrices that need no conversion
    /// stay in the mapped file if the backend can use them there: see [Model#makeWritable] before writing to them.
    ///
    /// @param own families in addition to the built-in ones
    /// @throws InputException if the folder holds no model that can be computed exactly as Hugging Face does
    public static Model load(Path folder, Backend backend, DType dtype, Family... own) {
        HfConfig config = HfConfig.read(folder);
        Family family = family(config, own);
        try (SafeTensors files = SafeTensors.openModel(folder)) {
            FileWeights weights = new FileWeights(folder, family, files, backend, dtype);
            boolean done = false;
            try {
                Model model = model(family, config, weights);
                weights.checkLeftovers(model);
                model.readFrom(folder);
                done = true;
                return model;
            } finally {
                if (!done) {
                    weights.made.forEach(Tensor::close);
                }
            }
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    /// Creates a model from the `config.json` of a folder, with random weights: the family's `random`.
    ///
    /// @param own families in addition to the built-in ones
    /// @throws InputException if the config is not supported
    public static Model random(Path folder, Backend backend, DType dtype, long seed, Family... own) {
        HfConfig config = HfConfig.read(folder);
        return model(family(config, own), config, Weights.random(backend, dtype, seed));
    }

    /// As above, from a config's content, which names its `model_type`.
    public static Model random(ObjectNode config, Backend backend, DType dtype, long seed, Family... own) {
        HfConfig c = HfConfig.of(config);
        return model(family(c, own), c, Weights.random(backend, dtype, seed));
    }

    private static Family family(HfConfig config, Family... own) {
        Family family = Family.of(
                config, Stream.concat(FAMILIES.stream(), Stream.of(own)).toList());
        config.only("quantization_config");
        config.only("pruned_heads", "{}");
        config.only("is_encoder_decoder", "false");
        return family;
    }

    private static Model model(Family family, HfConfig config, Weights weights) {
        int labels = labels(config);
        try {
            family.check(config);
            Model model = family.maker().make(config, weights, labels);
            model.configAsRead(config.json());
            HfConfig names = config.child("id2label");
            if (labels > 0 && names != null) {
                model.labels(IntStream.range(0, labels)
                        .mapToObj(i -> names.text(String.valueOf(i)))
                        .toList());
            }
            return model;
        } catch (IllegalArgumentException e) {
            throw new InputException(config.where() + ": " + e.getMessage(), e);
        }
    }

    /// The number of classes of the head in the config's architecture; 0 if it has none.
    private static int labels(HfConfig config) {
        String name = config.className();
        if (!name.endsWith(Family.CLASSIFIER) && !name.endsWith(Family.TOKEN_CLASSIFIER)) {
            return 0;
        }
        config.only(
                Problem.KEY,
                Stream.of(Problem.values()).map(p -> "\"" + p.value() + "\"").toArray(String[]::new));
        HfConfig names = config.child("id2label");
        return names == null ? config.integer("num_labels", 2) : names.json().size();
    }

    /// The parameters in a folder's files, each of which can be taken once.
    private static final class FileWeights implements Weights {
        private final Path folder;
        private final Family family;
        private final SafeTensors files;
        private final Backend backend;
        private final DType dtype;
        private final Set<String> taken = new HashSet<>();
        private final List<Tensor> made = new ArrayList<>();

        FileWeights(Path folder, Family family, SafeTensors files, Backend backend, DType dtype) {
            this.folder = folder;
            this.family = family;
            this.files = files;
            this.backend = backend;
            this.dtype = dtype;
        }

        @Override
        public boolean has(String name) {
            return find(name) != null;
        }

        private @Nullable String find(String name) {
            for (String n : family.fileNames(name)) {
                if (files.names().contains(n)) {
                    return n;
                }
            }
            return null;
        }

        @Override
        public Tensor make(String name, double mean, double std, boolean transposed, int... dims) {
            Shape shape = transposed ? Shape.of(dims[1], dims[0]) : Shape.of(dims);
            String stored = find(name);
            if (stored == null) {
                throw new InputException(folder + ": tensor " + name + " " + shape + " is missing");
            }
            Shape found = files.entry(stored).shape();
            if (!found.equals(shape)) {
                throw new InputException(
                        folder + ": tensor " + stored + " is " + found + " but config.json asks for " + shape);
            }
            taken.add(stored);
            Tensor tensor = read(stored, transposed, dims.length > 1);
            made.add(tensor);
            return tensor;
        }

        private Tensor read(String stored, boolean transposed, boolean matrix) {
            if (transposed) {
                try (Tensor asStored = files.tensor(backend, stored, dtype)) {
                    return asStored.transpose(0, 1).detachFromScope();
                }
            }
            // Vectors are cheap to copy, and are what is most often trained in place.
            return matrix ? files.tensor(backend, stored, dtype) : files.copy(backend, stored, dtype);
        }

        /// Rejects tensors in the files that the model lacks, except buffers, and heads that an encoder omits.
        void checkLeftovers(Model model) {
            List<String> unknown = new ArrayList<>();
            for (String name : files.names()) {
                boolean known = taken.contains(name)
                        || family.isBuffer(name)
                        || model.task() == TaskType.FEATURE_EXTRACTION && name.startsWith("cls.")
                        || name.equals(model.headName() + ".weight") && isTable(name, model);
                if (!known) {
                    unknown.add(name + " " + files.entry(name).shape());
                }
            }
            if (!unknown.isEmpty()) {
                throw new InputException(folder + ": holds " + unknown.size() + " tensors that the model of config.json"
                        + " does not have: "
                        + String.join(", ", unknown.subList(0, Math.min(5, unknown.size())))
                        + (unknown.size() > 5 ? ", …" : ""));
            }
        }

        /// Whether a tied head that is stored separately equals the table it is tied to.
        private boolean isTable(String name, Model model) {
            Tensor table = model.tokenEmbedding().weight();
            if (!files.entry(name).shape().equals(table.shape())) {
                return false;
            }
            try (Tensor head = files.tensor(backend, name, dtype)) {
                return Arrays.equals(head.toFloats(), table.toFloats());
            }
        }
    }

    /// Writes the model's own weights as a Hugging Face folder: `model.safetensors` with Hugging Face's names and
    /// orientation, in the model's dtype, and `config.json` as it was read. Each file is written completely or not at
    /// all; the folder is created if it does not exist.
    ///
    /// @throws IllegalStateException if a layer carries an adapter: merge it first, or save the adapter
    /// @throws java.io.UncheckedIOException if a file cannot be written
    public static void save(Model model, Path folder) {
        save(model, folder, model.dtype());
    }

    /// As above, converted to `dtype`.
    public static void save(Model model, Path folder, DType dtype) {
        Set<Tensor> transposed = new HashSet<>();
        model.namedModules().forEach((name, layer) -> {
            refuseAdapter(name, layer);
            if (layer instanceof Linear linear && linear.fanInFanOut()) {
                transposed.add(linear.weight());
            }
        });
        Map<String, Part> parts = new LinkedHashMap<>();
        model.namedParameters().forEach((name, tensor) -> {
            if (model instanceof WithPooler encoder && encoder.isUnused(name)) {
                return;
            }
            Shape s = tensor.shape();
            parts.put(
                    model.classifier() == null ? name : model.belowHead(name),
                    transposed.contains(tensor)
                            ? new Part(dtype, Shape.of(s.dim(1), s.dim(0)), () -> transposed(tensor))
                            : Part.of(tensor, dtype));
        });
        try {
            Files.createDirectories(folder);
            SafeTensors.writeParts(folder.resolve("model.safetensors"), parts, SafeTensors.PYTORCH);
            JsonFile.write(folder.resolve("config.json"), configToWrite(model, dtype));
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be written", e);
        }
    }

    private static void refuseAdapter(String name, Layer layer) {
        if (layer instanceof AdaptedLayer<?> adapted && adapted.adapter() != null) {
            throw new IllegalStateException(
                    "save: layer " + name + " carries an adapter; merge it first, or save the adapter");
        }
    }

    private static Tensor transposed(Tensor weight) {
        Shape s = weight.shape();
        try (Tensor plain = Tensor.own(s, weight.backend().restore(weight.buffer(), s.dim(0), s.dim(1)));
                Scope scope = Scope.open()) {
            return scope.keep(plain.transpose(0, 1)).detachFromScope();
        }
    }

    /// The config that was read, completed and updated by the model's own values.
    private static ObjectNode configToWrite(Model model, DType dtype) {
        ObjectNode sizes = model.sizes();
        ObjectNode json = HfConfig.object().put("model_type", model.family().modelType());
        String name = model.className();
        if (name != null) {
            json.putArray("architectures").add(name);
        }
        json.setAll(sizes);
        ObjectNode read = model.configAsRead();
        if (read != null) {
            json.setAll(read);
        }
        if (model.classifier() != null) {
            json.putArray("architectures")
                    .add(model.family().title() + (model.ofTokens() ? Family.TOKEN_CLASSIFIER : Family.CLASSIFIER));
            ObjectNode names = json.putObject("id2label");
            ObjectNode ids = json.putObject("label2id");
            for (int i = 0; i < model.labels().size(); i++) {
                names.put(String.valueOf(i), model.labels().get(i));
                ids.put(model.labels().get(i), i);
            }
            Problem problem = model.problem();
            if (problem != null && (problem != Problem.SINGLE_LABEL || json.has(Problem.KEY))) {
                json.put(Problem.KEY, problem.value());
            }
            json.remove("num_labels");
        } else if (name != null) {
            json.putArray("architectures").add(name);
        }
        // Values that may have changed since.
        for (String key : List.of("vocab_size", "tie_word_embeddings")) {
            if (sizes.has(key)) {
                json.set(key, sizes.get(key));
            }
        }
        json.remove("torch_dtype");
        return json.put(
                "dtype",
                switch (dtype) {
                    case F64 -> "float64";
                    case BF16 -> "bfloat16";
                    case F16 -> "float16";
                    default -> "float32";
                });
    }
}
