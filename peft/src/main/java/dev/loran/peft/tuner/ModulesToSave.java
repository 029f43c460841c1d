package dev.loran.peft.tuner;

import dev.loran.engine.Functional;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Model;
import java.util.List;
import java.util.function.BiConsumer;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A linear layer trained whole beside its frozen original: peft's `modules_to_save`, as for a classification head.
final class ModulesToSave implements Mergeable<Linear> {
    private final String prefix;
    private final Tensor weight;
    private final @Nullable Tensor bias;

    /// Starts from a copy of the original.
    ModulesToSave(Linear original, String adapterName) {
        prefix = "modules_to_save." + adapterName + ".";
        weight = Merge.wide(original.weight()).detachFromScope();
        bias = original.bias() == null ? null : Merge.wide(original.bias()).detachFromScope();
    }

    /// Starts as a new head does: [Model#drawHead].
    void draw(RandomGenerator random) {
        Model.drawHead(weight, random);
    }

    @Override
    public Tensor forward(Linear base, Tensor x) {
        return Functional.linear(
                x, Functional.cast(weight, x.dtype()), bias == null ? null : Functional.cast(bias, x.dtype()));
    }

    @Override
    public void merge(Linear base, Merge merge) {
        merge.put(base.weight(), Merge.wide(weight));
        if (base.bias() != null && bias != null) {
            merge.put(base.bias(), Merge.wide(bias));
        }
    }

    /// The weight, and the bias if there is one.
    List<Tensor> parameters() {
        return bias == null ? List.of(weight) : List.of(weight, bias);
    }

    @Override
    public void collect(BiConsumer<String, Tensor> visitor) {
        visitor.accept(prefix + "weight", weight);
        if (bias != null) {
            visitor.accept(prefix + "bias", bias);
        }
    }

    @Override
    public String baseName() {
        return "original_module";
    }

    @Override
    public void close() {
        weight.close();
        if (bias != null) {
            bias.close();
        }
    }
}
