package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Functional;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.random.RandomGenerator;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/// LoRA: a frozen linear layer plus a product of two thin matrices, y = x·Wᵀ + b + s · dropout(x)·Aᵀ·Bᵀ with
/// s = loraAlpha / r, or loraAlpha / √r with `useRslora`.
///
/// **Papers**: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3; Kalajdzievski, "A Rank
/// Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023 (rsLoRA).
///
/// @param r rank of the update, at least 1
/// @param loraAlpha numerator of the scaling
/// @param loraDropout probability of dropping an input of A, in [0, 1)
/// @param targetModules which linear layers; the family's own table (query and value) when not said
/// @param excludeModules layers left out whatever the targets say
/// @param bias which biases of the base are trained too
/// @param useRslora scaling by √r
/// @param rankPattern other ranks by name: keys are regular expressions for the end of a module's name
/// @param alphaPattern other alphas by name, likewise
/// @param layersToTransform indices of the layers to adapt; null for all
/// @param layersPattern name of the list of layers that the indices count; empty: the first number in the name
/// @param modulesToSave layers trained whole and saved beside
/// @param fanInFanOut whether files hold the adapted weights transposed; set from the model when saved
/// @param initLoraWeights how A and B start
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
        Init initLoraWeights,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// The table of peft for families whose targets are not said.
    static final Map<String, List<String>> DEFAULT_TARGETS = Map.of(
            "llama", List.of("q_proj", "v_proj"),
            "gpt2", List.of("c_attn"),
            "bert", List.of("query", "value"),
            "seo", List.of("w_q", "w_v"));

    /// Which biases of the base model are trained.
    public enum Bias {
        NONE,
        ALL,
        LORA_ONLY;

        String fileName() {
            return name().toLowerCase(java.util.Locale.ROOT);
        }
    }

    /// How A and B start.
    public enum Init {
        /// A uniform in ±1/√in (Kaiming with a = √5), B zero: the update starts at zero.
        TRUE,
        /// A from N(0, 1/r²), B zero.
        GAUSSIAN,
        /// Both random: the update starts anywhere; for tests.
        FALSE;

        static Init of(String value, ConfigJson json) {
            return switch (value) {
                case "true" -> TRUE;
                case "false" -> FALSE;
                case "gaussian" -> GAUSSIAN;
                default ->
                    throw json.error(
                            "init_lora_weights " + value + " is not supported; known are true, false, gaussian");
            };
        }
    }

    public LoraConfig {
        rankPattern = Map.copyOf(rankPattern);
        alphaPattern = Map.copyOf(alphaPattern);
        layersToTransform = layersToTransform == null ? null : List.copyOf(layersToTransform);
        layersPattern = List.copyOf(layersPattern);
        modulesToSave = List.copyOf(modulesToSave);
        check(r >= 1, "r", r, "at least 1");
        check(loraDropout >= 0 && loraDropout < 1, "lora_dropout", loraDropout, "in [0, 1)");
        check(Double.isFinite(loraAlpha), "lora_alpha", loraAlpha, "finite");
        rankPattern.forEach((k, v) -> check(v >= 1, "rank_pattern " + k, v, "at least 1"));
    }

    private static void check(boolean right, String field, Object value, String need) {
        if (!right) {
            throw new InputException("LoraConfig: " + field + " is " + value + ", must be " + need);
        }
    }

    /// peft's defaults: r 8, alpha 8, no dropout, the family's own targets.
    public static LoraConfig defaults() {
        return new LoraConfig(
                8,
                8,
                0,
                Targets.modelDefault(),
                Targets.modelDefault(),
                Bias.NONE,
                false,
                Map.of(),
                Map.of(),
                null,
                List.of(),
                List.of(),
                false,
                Init.TRUE,
                false,
                null);
    }

    /// Rank and scaling numerator.
    public LoraConfig withRank(int rank, double alpha) {
        return new LoraConfig(
                rank,
                alpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withDropout(double p) {
        return new LoraConfig(
                r,
                loraAlpha,
                p,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withTargets(Targets targets) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targets,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withExclude(Targets exclude) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                exclude,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withBias(Bias which) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                which,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withRslora(boolean value) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                value,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withPatterns(Map<String, Integer> ranks, Map<String, Double> alphas) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                ranks,
                alphas,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withLayers(@Nullable List<Integer> indices, List<String> pattern) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                indices,
                pattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withModulesToSave(List<String> modules) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modules,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    public LoraConfig withInit(Init init) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                init,
                inferenceMode,
                taskType);
    }

    public LoraConfig withTask(@Nullable TaskType task) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                fanInFanOut,
                initLoraWeights,
                inferenceMode,
                task);
    }

    @Override
    public String peftType() {
        return "LORA";
    }

    static LoraConfig fromJson(ConfigJson json) {
        Map<String, Integer> ranks = new LinkedHashMap<>();
        json.numbers("rank_pattern").forEach((k, v) -> ranks.put(k, v.intValue()));
        return sharedFromJson(json).withPatterns(ranks, json.numbers("alpha_pattern"));
    }

    /// All but the patterns, which AdaLoRA fills with something else.
    static LoraConfig sharedFromJson(ConfigJson json) {
        Bias bias = switch (json.string("bias", "none")) {
            case "none" -> Bias.NONE;
            case "all" -> Bias.ALL;
            case "lora_only" -> Bias.LORA_ONLY;
            default -> throw json.error("bias is " + json.string("bias", "") + ", must be none, all or lora_only");
        };
        return new LoraConfig(
                json.integer("r", 8),
                json.number("lora_alpha", 8),
                json.number("lora_dropout", 0),
                json.targets("target_modules"),
                json.targets("exclude_modules"),
                bias,
                json.bool("use_rslora", false),
                Map.of(),
                json.numbers("alpha_pattern"),
                json.integers("layers_to_transform"),
                json.strings("layers_pattern"),
                json.strings("modules_to_save"),
                json.bool("fan_in_fan_out", false),
                Init.of(json.boolOrString("init_lora_weights", "true"), json),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public ObjectNode toJson() {
        ObjectNode n = ConfigJson.start(this);
        ObjectNode alphas = n.putObject("alpha_pattern");
        alphaPattern.forEach((k, v) -> ConfigJson.put(alphas, k, v));
        n.put("bias", bias.fileName());
        n.put("ensure_weight_tying", false);
        excludeModules.write(n, "exclude_modules");
        n.put("fan_in_fan_out", fanInFanOut);
        switch (initLoraWeights) {
            case TRUE, FALSE -> n.put("init_lora_weights", initLoraWeights == Init.TRUE);
            case GAUSSIAN -> n.put("init_lora_weights", "gaussian");
        }
        if (layersPattern.isEmpty()) {
            n.putNull("layers_pattern");
        } else {
            ConfigJson.put(n, "layers_pattern", layersPattern);
        }
        ConfigJson.put(n, "layers_to_transform", layersToTransform);
        n.putObject("loftq_config");
        ConfigJson.put(n, "lora_alpha", loraAlpha);
        n.put("lora_bias", false);
        n.put("lora_dropout", loraDropout);
        n.put("megatron_core", "megatron.core");
        ConfigJson.put(n, "modules_to_save", modulesToSave.isEmpty() ? null : modulesToSave);
        n.put("qalora_group_size", 16);
        n.put("r", r);
        ObjectNode ranks = n.putObject("rank_pattern");
        rankPattern.forEach(ranks::put);
        targetModules.write(n, "target_modules");
        n.put("use_dora", false);
        n.put("use_qalora", false);
        n.put("use_rslora", useRslora);
        return n;
    }

    /// Rank of module `name`: the pattern that fits, else r.
    int rank(String name) {
        Integer special = byPattern(rankPattern, name);
        return special == null ? r : special;
    }

    /// s of module `name`.
    double scaling(String name) {
        Double special = byPattern(alphaPattern, name);
        double alpha = special == null ? loraAlpha : special;
        return useRslora ? alpha / Math.sqrt(rank(name)) : alpha / rank(name);
    }

    private static <V> @Nullable V byPattern(Map<String, V> patterns, String name) {
        for (Map.Entry<String, V> e : patterns.entrySet()) {
            if (Pattern.compile("(.*\\.)?(" + e.getKey() + ")$").matcher(name).matches()) {
                return e.getValue();
            }
        }
        return null;
    }

    @Override
    public Tuner attach(Attachment to) {
        Model model = to.model();
        Heads heads = Heads.of(modulesToSave, taskType);
        Targets targets = targetModules.or(model, DEFAULT_TARGETS);
        Targets.Limits limits = new Targets.Limits(excludeModules, layersToTransform, layersPattern, heads.names());
        Map<String, AdaptedLayer<?>> found = targets.resolve("target_modules", model, limits, to.partialTargets());
        LoraConfig complete = withTargets(targets).withModulesToSave(heads.names());
        boolean transposed = found.values().stream().anyMatch(l -> l instanceof Linear x && x.fanInFanOut());
        Tuner tuner = new Tuner(complete.withFanInFanOut(transposed), to);
        int site = 0;
        for (Map.Entry<String, AdaptedLayer<?>> e : found.entrySet()) {
            if (!(e.getValue() instanceof Linear linear)) {
                throw new InputException(
                        "target_modules: " + e.getKey() + " is no linear layer; LoRA adapts linear layers");
            }
            String name = e.getKey();
            tuner.place(
                    name,
                    linear,
                    new LoraLinear(linear, rank(name), scaling(name), initLoraWeights, to, site++, loraDropout));
        }
        heads.place(tuner);
        trainBiases(tuner, found.keySet());
        return tuner;
    }

    LoraConfig withFanInFanOut(boolean value) {
        return new LoraConfig(
                r,
                loraAlpha,
                loraDropout,
                targetModules,
                excludeModules,
                bias,
                useRslora,
                rankPattern,
                alphaPattern,
                layersToTransform,
                layersPattern,
                modulesToSave,
                value,
                initLoraWeights,
                inferenceMode,
                taskType);
    }

    /// The biases that `bias` asks for, under the names they have beside an adapter.
    private void trainBiases(Tuner tuner, Set<String> adapted) {
        if (bias == Bias.NONE) {
            return;
        }
        Targets.candidates(tuner.attachment().model()).forEach((name, layer) -> {
            boolean isAdapted = adapted.contains(name);
            Tensor b = layer instanceof Linear l ? l.bias() : layer instanceof LayerNorm n ? n.bias() : null;
            if (b != null && (isAdapted || bias == Bias.ALL)) {
                tuner.trainBase("base_model.model." + name + (isAdapted ? ".base_layer.bias" : ".bias"), b);
            }
        });
    }

    /// The adapted linear layer: A (r, in) and B (out, r).
    static final class LoraLinear implements Adapter<Linear> {
        private final String name;
        private final Tensor loraA;
        private final Tensor loraB;
        private final double scaling;
        private final @Nullable DropoutMask dropout;

        LoraLinear(Linear base, int r, double scaling, Init init, Attachment to, int site, double p) {
            Backend be = to.backend();
            DType type = base.weight().dtype();
            RandomGenerator random = to.random();
            int in = base.inFeatures();
            int out = base.outFeatures();
            this.name = to.name();
            this.scaling = scaling;
            this.dropout = to.dropout(p, site);
            this.loraA = (init == Init.GAUSSIAN
                            ? Tensor.randn(be, type, random, 1.0 / r, r, in)
                            : Tensor.uniform(be, type, random, 1 / Math.sqrt(in), r, in))
                    .detachFromScope();
            this.loraB = (init == Init.FALSE
                            ? Tensor.uniform(be, type, random, 1 / Math.sqrt(r), out, r)
                            : Tensor.zeros(be, type, out, r))
                    .detachFromScope();
        }

        /// y = x·Wᵀ + b + s · dropout(x)·Aᵀ·Bᵀ; dropout acts while the layer is in training mode.
        @Override
        public Tensor forward(Linear base, Tensor x) {
            return Functional.loraLinear(
                    x, base.weight(), base.bias(), loraA, loraB, scaling, base.isTraining() ? dropout : null);
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept("lora_A." + name + ".weight", loraA);
            visitor.accept("lora_B." + name + ".weight", loraB);
        }

        @Override
        public void close() {
            loraA.close();
            loraB.close();
        }
    }
}
