package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonValue;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import org.jspecify.annotations.Nullable;

/// LoRA: a frozen linear layer plus a product of two thin matrices, y = x·Wᵀ + b + s · dropout(x)·Aᵀ·Bᵀ with
/// s = loraAlpha / r, or loraAlpha / √r with `useRslora`.
///
/// **Papers**: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3; Kalajdzievski, "A
/// Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023 (rsLoRA).
///
/// @param r rank of the update, at least 1
/// @param loraAlpha numerator of the scaling
/// @param loraDropout probability of dropping an input of A, in [0, 1)
/// @param targetModules which linear layers; by default the family's own table (query and value)
/// @param excludeModules layers excluded even if the targets match them
/// @param bias which biases of the base are trained too
/// @param useRslora whether the scaling divides by √r
/// @param rankPattern different ranks by name: keys are regular expressions that match the end of a module's name
/// @param alphaPattern different alphas by name, likewise
/// @param layersToTransform indices of the layers to adapt; null for all
/// @param layersPattern name of the list of layers that the indices refer to; empty: the first number in the name
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param fanInFanOut whether files hold the adapted weights transposed; set from the model when saved
/// @param initLoraWeights how A and B are initialized
/// @param useDora learns magnitude and direction separately: see [DoraLinear]
/// @param loraBias a trained bias on B
/// @param trainableTokenIndices token ids whose rows are trained in full, by the name of their table; "" for the table
///     of token embeddings: see [TrainableTokens]
/// @param ensureWeightTying whether a head that shares the table of token embeddings keeps sharing it when
///     `modulesToSave` names either; otherwise each is trained separately
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record LoraConfig(
        int r,
        double loraAlpha,
        double loraDropout,
        Targets targetModules,
        Targets excludeModules,
        Bias bias,
        boolean useRslora,
        Map<String, Integer> rankPattern,
        Map<String, Double> alphaPattern,
        @Nullable List<Integer> layersToTransform,
        List<String> layersPattern,
        List<String> modulesToSave,
        boolean fanInFanOut,
        LoraInit initLoraWeights,
        boolean useDora,
        boolean loraBias,
        Map<String, List<Integer>> trainableTokenIndices,
        boolean ensureWeightTying,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// Which biases of the base model are trained.
    public enum Bias {
        NONE,
        ALL,
        LORA_ONLY;

        @JsonValue
        String fileName() {
            return name().toLowerCase(Locale.ROOT);
        }

        static Bias read(ConfigJson json) {
            String name = json.string("bias", NONE.fileName());
            return Arrays.stream(values())
                    .filter(b -> b.fileName().equals(name))
                    .findFirst()
                    .orElseThrow(() -> json.error("bias is " + name + ", must be none, all or lora_only"));
        }
    }

    public LoraConfig {
        rankPattern = Map.copyOf(rankPattern);
        alphaPattern = Map.copyOf(alphaPattern);
        layersToTransform = layersToTransform == null ? null : List.copyOf(layersToTransform);
        layersPattern = List.copyOf(layersPattern);
        modulesToSave = List.copyOf(modulesToSave);
        trainableTokenIndices = Map.copyOf(trainableTokenIndices);
        check(r >= 1, "r", r, "at least 1");
        check(loraDropout >= 0 && loraDropout < 1, "lora_dropout", loraDropout, "in [0, 1)");
        check(Double.isFinite(loraAlpha), "lora_alpha", loraAlpha, "finite");
        rankPattern.forEach((k, v) -> check(v >= 1, "rank_pattern " + k, v, "at least 1"));
        check(
                trainableTokenIndices.size() < 2 || !trainableTokenIndices.containsKey(TrainableTokens.INPUT),
                "trainable_token_indices",
                trainableTokenIndices,
                "a list of ids, or lists by the names of tables");
        if (loraBias) {
            boolean plain = initLoraWeights.equals(LoraInit.TRUE) || initLoraWeights.equals(LoraInit.FALSE);
            check(plain, "init_lora_weights", initLoraWeights.name(), "true or false with lora_bias");
            check(!useDora, "use_dora", true, "false with lora_bias");
        }
    }

    private static void check(boolean right, String field, Object value, String need) {
        if (!right) {
            throw new InputException("LoraConfig: " + field + " is " + value + ", must be " + need);
        }
    }

    /// peft's defaults: r 8, alpha 8, no dropout, the family's own targets.
    public static LoraConfig defaults() {
        return fromJson(new ConfigJson("LORA", JsonNodeFactory.instance.objectNode()));
    }

    private LoraConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, LoraConfig::fromJson, change);
    }

    /// Rank and scaling numerator.
    public LoraConfig withRank(int rank, double alpha) {
        return with(n -> n.put("r", rank).put("lora_alpha", alpha));
    }

    public LoraConfig withDropout(double p) {
        return with(n -> n.put("lora_dropout", p));
    }

    public LoraConfig withTargets(Targets targets) {
        return with(n -> ConfigJson.put(n, "target_modules", targets));
    }

    public LoraConfig withExclude(Targets exclude) {
        return with(n -> ConfigJson.put(n, "exclude_modules", exclude));
    }

    public LoraConfig withBias(Bias which) {
        return with(n -> n.put("bias", which.fileName()));
    }

    public LoraConfig withRslora(boolean value) {
        return with(n -> n.put("use_rslora", value));
    }

    public LoraConfig withPatterns(Map<String, Integer> ranks, Map<String, Double> alphas) {
        return with(n -> {
            ConfigJson.put(n, "rank_pattern", ranks);
            ConfigJson.put(n, "alpha_pattern", alphas);
        });
    }

    public LoraConfig withLayers(@Nullable List<Integer> indices, List<String> pattern) {
        return with(n -> {
            ConfigJson.put(n, "layers_to_transform", indices);
            ConfigJson.put(n, "layers_pattern", pattern);
        });
    }

    public LoraConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public LoraConfig withInit(LoraInit init) {
        return with(n -> n.put("init_lora_weights", init.name()));
    }

    public LoraConfig withDora(boolean value) {
        return with(n -> n.put("use_dora", value));
    }

    public LoraConfig withLoraBias(boolean value) {
        return with(n -> n.put("lora_bias", value));
    }

    /// Also trains the rows of these token ids.
    public LoraConfig withTrainableTokens(List<Integer> ids) {
        return withTrainableTokens(ids.isEmpty() ? Map.of() : Map.of(TrainableTokens.INPUT, ids));
    }

    public LoraConfig withTrainableTokens(Map<String, List<Integer>> idsByTable) {
        return with(n -> writeTokens(n, idsByTable));
    }

    /// Keeps the tie of a head that shares the table of token embeddings when `modulesToSave` names either.
    public LoraConfig withWeightTying(boolean value) {
        return with(n -> n.put("ensure_weight_tying", value));
    }

    public LoraConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    /// Set from the model when saved.
    LoraConfig withFanInFanOut(boolean value) {
        return with(n -> n.put("fan_in_fan_out", value));
    }

    @Override
    public String peftType() {
        return "LORA";
    }

    static LoraConfig fromJson(ConfigJson json) {
        Map<String, Integer> ranks = new LinkedHashMap<>();
        json.numbers("rank_pattern").forEach((k, v) -> ranks.put(k, v.intValue()));
        return read(json, ranks);
    }

    /// @param ranks the rank pattern, passed in because AdaLoRA's files use that key differently
    static LoraConfig read(ConfigJson json, Map<String, Integer> ranks) {
        return new LoraConfig(
                json.integer("r", 8),
                json.number("lora_alpha", 8),
                json.number("lora_dropout", 0),
                json.targets("target_modules"),
                json.targets("exclude_modules"),
                Bias.read(json),
                json.bool("use_rslora", false),
                ranks,
                json.numbers("alpha_pattern"),
                json.integers("layers_to_transform"),
                json.strings("layers_pattern"),
                json.strings("modules_to_save"),
                json.bool("fan_in_fan_out", false),
                new LoraInit(json.boolOrString("init_lora_weights", LoraInit.TRUE.name())),
                json.bool("use_dora", false),
                json.bool("lora_bias", false),
                json.integersByName("trainable_token_indices", TrainableTokens.INPUT),
                json.bool("ensure_weight_tying", false),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public ObjectNode toJson() {
        ObjectNode n = PeftConfig.super.toJson();
        n.putObject("loftq_config");
        n.put("megatron_core", "megatron.core");
        n.put("qalora_group_size", 16);
        n.put("use_qalora", false);
        writeTokens(n, trainableTokenIndices);
        return n;
    }

    private static void writeTokens(ObjectNode n, Map<String, List<Integer>> idsByTable) {
        String key = "trainable_token_indices";
        n.remove(key);
        if (idsByTable.size() == 1 && idsByTable.containsKey(TrainableTokens.INPUT)) {
            ConfigJson.put(n, key, idsByTable.get(TrainableTokens.INPUT));
        } else if (!idsByTable.isEmpty()) {
            ObjectNode tokens = n.putObject(key);
            idsByTable.forEach((table, ids) -> ConfigJson.put(tokens, table, ids));
        }
    }

    /// Rank of module `name`: from the matching pattern, or r.
    int rank(String name) {
        Integer special = byPattern(rankPattern, name);
        return special == null ? r : special;
    }

    /// Scaling s of module `name`.
    double scaling(String name) {
        Double special = byPattern(alphaPattern, name);
        double alpha = special == null ? loraAlpha : special;
        return useRslora ? alpha / Math.sqrt(rank(name)) : alpha / rank(name);
    }

    /// Twice the rank everywhere, with the same scaling, for use on the unmodified base.
    LoraConfig converted() {
        double growth = useRslora ? Math.sqrt(2) : 2;
        Map<String, Integer> ranks = new LinkedHashMap<>();
        Map<String, Double> alphas = new LinkedHashMap<>();
        rankPattern.forEach((k, v) -> ranks.put(k, 2 * v));
        alphaPattern.forEach((k, v) -> alphas.put(k, growth * v));
        return withRank(2 * r, growth * loraAlpha).withPatterns(ranks, alphas).withInit(LoraInit.TRUE);
    }

    private static <V> @Nullable V byPattern(Map<String, V> patterns, String name) {
        for (Map.Entry<String, V> e : patterns.entrySet()) {
            if (pattern(e.getKey()).matcher(name).matches()) {
                return e.getValue();
            }
        }
        return null;
    }

    private static Pattern pattern(String key) {
        try {
            return Pattern.compile("(.*\\.)?(" + key + ")$");
        } catch (PatternSyntaxException e) {
            throw new InputException(
                    "rank_pattern, alpha_pattern: \"" + key + "\" is no regular expression: " + e.getDescription(), e);
        }
    }

    @Override
    public Tuner attach(Attachment to) {
        Model model = to.model();
        Heads heads = heads(to);
        Targets targets = targetModules.or(model, peftType());
        Targets.Limits limits = new Targets.Limits(excludeModules, layersToTransform, layersPattern, heads.names());
        Map<String, AdaptedLayer<?>> found = targets.resolve("target_modules", to, limits);
        LoraConfig complete = withTargets(targets).withModulesToSave(heads.names());
        checkMatches(found, to);
        boolean transposed = found.values().stream().anyMatch(l -> l instanceof Linear x && x.fanInFanOut());
        Tuner tuner = new LoraTuner(complete.withFanInFanOut(transposed), to);
        try {
            int site = 0;
            for (Map.Entry<String, AdaptedLayer<?>> e : found.entrySet()) {
                place(tuner, e.getKey(), e.getValue(), site++);
            }
            heads.place(tuner);
            TrainableTokens.place(tuner, trainableTokenIndices);
        } catch (RuntimeException e) {
            tuner.close();
            throw e;
        }
        trainBiases(tuner, found.keySet());
        return tuner;
    }

    /// The modules trained in full, with the weight tie kept if requested.
    Heads heads(Attachment to) {
        Heads heads = Heads.of(modulesToSave, taskType);
        return ensureWeightTying ? heads.tied(to) : heads;
    }

    /// @throws InputException if the weight tie cannot be kept or, unless the configuration comes from a file, if only
    ///     files may use its initialization or a pattern matches no layer in `found`
    private void checkMatches(Map<String, AdaptedLayer<?>> found, Attachment to) {
        boolean isTable = found.values().stream().anyMatch(to.tables()::containsValue);
        if (ensureWeightTying && isTable && Heads.tiedHead(to.model()) != null) {
            throw new InputException(
                    "ensure_weight_tying: a table that is the head too is among target_modules, where the"
                            + " tie cannot be kept; name it in modules_to_save, or in trainable_token_indices");
        }
        if (to.partialTargets()) {
            return;
        }
        if (initLoraWeights.isFromFile()) {
            throw new InputException("init_lora_weights " + initLoraWeights.name()
                    + " is known from files alone; start from true, gaussian, pissa or olora");
        }
        checkKeys("rank_pattern", rankPattern, found);
        checkKeys("alpha_pattern", alphaPattern, found);
    }

    private static <V> void checkKeys(String field, Map<String, V> patterns, Map<String, AdaptedLayer<?>> found) {
        patterns.forEach((key, value) -> {
            if (found.keySet().stream().noneMatch(name -> byPattern(Map.of(key, value), name) != null)) {
                throw new InputException(field + ": " + key + " matches no adapted module, which are "
                        + String.join(", ", found.keySet().stream().limit(4).toList())
                        + (found.size() > 4 ? ", …" : ""));
            }
        });
    }

    private void place(Tuner tuner, String name, AdaptedLayer<?> layer, int site) {
        Attachment to = tuner.attachment();
        if (layer instanceof Linear linear) {
            tuner.place(
                    name,
                    linear,
                    useDora
                            ? new DoraLinear(linear, this, name, to, site)
                            : new LoraLinear(linear, this, name, to, site));
        } else if (layer instanceof Embedding table) {
            if (useDora || loraBias) {
                throw new InputException((useDora ? "use_dora: " : "lora_bias: ") + name
                        + " is a table of embeddings, needs linear layers; leave it out of target_modules");
            }
            tuner.place(name, table, new LoraEmbedding(table, this, name, to));
        } else {
            throw new InputException(
                    "target_modules: " + name + " is no linear layer and no table of embeddings; LoRA adapts those");
        }
    }

    /// Trains the biases that `bias` selects, under their names in an adapter's file, except those of fully trained
    /// layers, which include their own.
    void trainBiases(Tuner tuner, Set<String> adapted) {
        if (bias == Bias.NONE) {
            return;
        }
        tuner.attachment().modules().forEach((name, layer) -> {
            boolean isAdapted = adapted.contains(name);
            boolean isWhole = !isAdapted && tuner.placements().stream().anyMatch(p -> p.layer() == layer);
            Tensor b = layer instanceof Linear l ? l.bias() : layer instanceof LayerNorm n ? n.bias() : null;
            if (b != null && !isWhole && (isAdapted || bias == Bias.ALL)) {
                tuner.trainBase("base_model.model." + name + (isAdapted ? ".base_layer.bias" : ".bias"), b);
            }
        });
    }
}
