package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.function.BiFunction;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// BitFit: trains only the biases of all linear layers and norms. They are copies beside the frozen ones, so that the
/// base stays unchanged. Fully trained heads include their own biases.
///
/// **Paper**: Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
/// Masked Language-models", 2022. Not part of peft; the file follows peft's format.
///
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record BitFitConfig(
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType) implements PeftConfig {
    public BitFitConfig {
        modulesToSave = List.copyOf(modulesToSave);
    }

    /// All biases.
    public static BitFitConfig defaults() {
        return fromJson(new ConfigJson("BITFIT", JsonNodeFactory.instance.objectNode()));
    }

    private BitFitConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, BitFitConfig::fromJson, change);
    }

    public BitFitConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public BitFitConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "BITFIT";
    }

    static BitFitConfig fromJson(ConfigJson json) {
        return new BitFitConfig(json.strings("modules_to_save"), json.bool("inference_mode", false), json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        Heads heads = Heads.of(modulesToSave, taskType);
        Tuner tuner = new Tuner(withModulesToSave(heads.names()), to);
        boolean any = false;
        for (Map.Entry<String, AdaptedLayer<?>> e : to.modules().entrySet()) {
            if (Heads.whole(heads.names(), e.getKey()) != null) {
                continue;
            }
            if (e.getValue() instanceof Linear l && l.bias() != null) {
                tuner.place(
                        e.getKey(),
                        l,
                        new TunedBias<Linear>(l.bias(), to.name(), (x, b) -> Functional.linear(x, l.weight(), b)));
                any = true;
            } else if (e.getValue() instanceof LayerNorm n && n.bias() != null) {
                tuner.place(
                        e.getKey(),
                        n,
                        new TunedBias<LayerNorm>(
                                n.bias(), to.name(), (x, b) -> Functional.layerNorm(x, n.weight(), b, n.eps())));
                any = true;
            }
        }
        if (!any) {
            throw new InputException("BitFit: a " + to.model().facts().modelType()
                    + " model of this configuration has no biases to train; choose another method");
        }
        heads.place(tuner);
        return tuner;
    }

    /// The layer's function with the adapter's own bias.
    private static final class TunedBias<L extends AdaptedLayer<L>> implements AroundLayer<L>, Mergeable<L> {
        private final String name;
        private final Tensor original;
        private final Tensor bias;
        private final BiFunction<Tensor, Tensor, Tensor> function;

        TunedBias(Tensor original, String adapterName, BiFunction<Tensor, Tensor, Tensor> function) {
            this.name = "bitfit." + adapterName + ".bias";
            this.original = original;
            this.bias = Merge.wide(original).detachFromScope();
            this.function = function;
        }

        @Override
        public Tensor forward(L base, Tensor x) {
            return function.apply(x, Functional.cast(bias, x.dtype()));
        }

        @Override
        public Tensor after(L base, Tensor x, Tensor y) {
            return y.add(Functional.cast(bias.sub(Functional.cast(original, bias.dtype())), y.dtype()));
        }

        @Override
        public void merge(L base, Merge merge) {
            merge.put(original, Merge.wide(bias));
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept(name, bias);
        }

        @Override
        public void close() {
            bias.close();
        }
    }
}
