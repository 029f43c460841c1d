package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.RmsNorm;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// LayerNorm tuning: trains only the norms' weights (and biases), as copies beside the frozen ones.
///
/// **Paper**: Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", 2023.
///
/// @param targetModules the norms; by default all of the family's
/// @param excludeModules norms excluded even if the targets match them
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record LnTuningConfig(
        Targets targetModules,
        Targets excludeModules,
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {
    public LnTuningConfig {
        modulesToSave = List.copyOf(modulesToSave);
    }

    /// The family's own norms.
    public static LnTuningConfig defaults() {
        return fromJson(new ConfigJson("LN_TUNING", JsonNodeFactory.instance.objectNode()));
    }

    private LnTuningConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, LnTuningConfig::fromJson, change);
    }

    public LnTuningConfig withTargets(Targets targets) {
        return with(n -> ConfigJson.put(n, "target_modules", targets));
    }

    public LnTuningConfig withExclude(Targets exclude) {
        return with(n -> ConfigJson.put(n, "exclude_modules", exclude));
    }

    public LnTuningConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public LnTuningConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "LN_TUNING";
    }

    static LnTuningConfig fromJson(ConfigJson json) {
        return new LnTuningConfig(
                json.targets("target_modules"),
                json.targets("exclude_modules"),
                json.strings("modules_to_save"),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        Heads heads = Heads.of(modulesToSave, taskType);
        Targets targets = targetModules.or(to.model(), peftType());
        Targets.Limits limits = new Targets.Limits(excludeModules, null, List.of(), heads.names());
        Tuner tuner = new Tuner(withTargets(targets).withModulesToSave(heads.names()), to);
        Map<String, AdaptedLayer<?>> found = targets.resolve("target_modules", to, limits);
        found.forEach((name, layer) -> {
            switch (layer) {
                case LayerNorm n -> tuner.place(name, n, new TunedLayerNorm(n, to.name()));
                case RmsNorm n -> tuner.place(name, n, new TunedRmsNorm(n, to.name()));
                default ->
                    throw new InputException("target_modules: " + name + " is no norm; LayerNorm tuning trains norms");
            }
        });
        heads.place(tuner);
        return tuner;
    }

    private static final class TunedLayerNorm implements Mergeable<LayerNorm> {
        private final String prefix;
        private final LayerNorm own;

        TunedLayerNorm(LayerNorm base, String adapterName) {
            prefix = "ln_tuning_layers." + adapterName + ".";
            Tensor bias = base.bias();
            own = new LayerNorm(Merge.wide(base.weight()), bias == null ? null : Merge.wide(bias), base.eps());
        }

        @Override
        public Tensor forward(LayerNorm base, Tensor x) {
            return own.base(x);
        }

        @Override
        public void merge(LayerNorm base, Merge merge) {
            merge.put(base.weight(), Merge.wide(own.weight()));
            Tensor bias = own.bias();
            if (bias != null) {
                merge.put(Objects.requireNonNull(base.bias()), Merge.wide(bias));
            }
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            own.namedParameters().forEach((name, tensor) -> visitor.accept(prefix + name, tensor));
        }

        @Override
        public void close() {
            own.close();
        }
    }

    private static final class TunedRmsNorm implements Mergeable<RmsNorm> {
        private final String name;
        private final Tensor weight;

        TunedRmsNorm(RmsNorm base, String adapterName) {
            name = "ln_tuning_layers." + adapterName + ".weight";
            weight = Merge.wide(base.weight()).detachFromScope();
        }

        @Override
        public Tensor forward(RmsNorm base, Tensor x) {
            return base.base(x, weight);
        }

        @Override
        public void merge(RmsNorm base, Merge merge) {
            merge.put(base.weight(), Merge.wide(weight));
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept(name, weight);
        }

        @Override
        public void close() {
            weight.close();
        }
    }
}
