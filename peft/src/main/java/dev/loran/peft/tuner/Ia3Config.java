package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.TaskType;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// IA3: a learned vector l scales the keys and values of attention (outputs of their projections) and the inner
/// activations of the feed-forward network (inputs of its second projection). l starts at 1.
///
/// **Paper**: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
/// 2022, section 3.3.
///
/// @param targetModules the scaled layers; by default the family's own table
/// @param feedforwardModules those of them whose input is scaled instead of the output; a subset of the targets
/// @param excludeModules layers excluded even if the targets match them
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param fanInFanOut whether files hold the scaled weights transposed; set from the model when saved
/// @param initIa3Weights false initializes l from N(0, 1); for tests
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record Ia3Config(
        Targets targetModules,
        Targets feedforwardModules,
        Targets excludeModules,
        List<String> modulesToSave,
        boolean fanInFanOut,
        boolean initIa3Weights,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {
    public Ia3Config {
        modulesToSave = List.copyOf(modulesToSave);
        if (targetModules.isModelDefault() != feedforwardModules.isModelDefault()) {
            throw new InputException(
                    "Ia3Config: target_modules and feedforward_modules are said together or not at all");
        }
    }

    /// The family's own targets.
    public static Ia3Config defaults() {
        return fromJson(new ConfigJson("IA3", JsonNodeFactory.instance.objectNode()));
    }

    private Ia3Config with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, Ia3Config::fromJson, change);
    }

    /// @param feedforward those of them whose input is scaled
    public Ia3Config withTargets(Targets targets, Targets feedforward) {
        return with(n -> {
            ConfigJson.put(n, "target_modules", targets);
            ConfigJson.put(n, "feedforward_modules", feedforward);
        });
    }

    public Ia3Config withExclude(Targets exclude) {
        return with(n -> ConfigJson.put(n, "exclude_modules", exclude));
    }

    public Ia3Config withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public Ia3Config withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "IA3";
    }

    static Ia3Config fromJson(ConfigJson json) {
        return new Ia3Config(
                json.targets("target_modules"),
                json.targets("feedforward_modules"),
                json.targets("exclude_modules"),
                json.strings("modules_to_save"),
                json.bool("fan_in_fan_out", false),
                json.bool("init_ia3_weights", true),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        Heads heads = Heads.of(modulesToSave, taskType);
        Targets targets = targetModules.or(to.model(), peftType());
        Targets feedforward = feedforwardModules.or(to.model(), Family.FEED_FORWARD);
        Targets.Limits limits = new Targets.Limits(excludeModules, null, List.of(), heads.names());
        Map<String, AdaptedLayer<?>> found = targets.resolve("target_modules", to, limits);
        boolean transposed = found.values().stream().anyMatch(l -> l instanceof Linear x && x.fanInFanOut());
        Ia3Config complete = withTargets(targets, feedforward)
                .withModulesToSave(heads.names())
                .with(n -> n.put("fan_in_fan_out", transposed));
        Tuner tuner = new Tuner(complete, to);
        found.forEach((name, layer) -> {
            if (!(layer instanceof Linear linear)) {
                throw new InputException("target_modules: " + name + " is no linear layer; IA3 scales linear layers");
            }
            boolean onInput = feedforward.matches(name, to.model(), layer);
            tuner.place(name, linear, new Ia3Linear(linear, onInput, initIa3Weights, to));
        });
        heads.place(tuner);
        return tuner;
    }

    /// y = base(x) ∘ l, or base(x ∘ l) where the input is scaled.
    static final class Ia3Linear implements AroundLayer<Linear>, Mergeable<Linear> {
        private final String name;
        private final Tensor l;
        private final boolean onInput;

        Ia3Linear(Linear base, boolean onInput, boolean ones, Attachment to) {
            this.name = to.name();
            this.onInput = onInput;
            DType type = base.weight().dtype().accumulator();
            int[] dims = onInput ? new int[] {1, base.inFeatures()} : new int[] {base.outFeatures(), 1};
            this.l = (ones
                            ? Tensor.full(to.backend(), type, 1, dims)
                            : Tensor.randn(to.backend(), type, to.random(), 1, dims))
                    .detachFromScope();
        }

        @Override
        public Tensor forward(Linear base, Tensor x) {
            return after(base, x, base.base(before(x)));
        }

        @Override
        public Tensor before(Tensor x) {
            return onInput ? x.mul(factors(x)) : x;
        }

        @Override
        public Tensor after(Linear base, Tensor x, Tensor y) {
            return onInput ? y : y.mul(factors(y));
        }

        private Tensor factors(Tensor of) {
            return Functional.cast(l.reshape(-1), of.dtype());
        }

        /// Scales the columns of W if the input is scaled, otherwise its rows and the bias.
        @Override
        public void merge(Linear base, Merge merge) {
            Tensor scale = Merge.wide(l);
            merge.put(base.weight(), merge.value(base.weight()).mul(scale));
            if (!onInput && base.bias() != null) {
                merge.put(base.bias(), merge.value(base.bias()).mul(scale.reshape(-1)));
            }
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept("ia3_l." + name, l);
        }

        @Override
        public void close() {
            l.close();
        }
    }
}
