package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional.Projection;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/// What a fine-tuning method puts in the place of a layer: a forward over the frozen layer, with parameters of its own.
public interface Adapter<L extends Layer> extends AutoCloseable {
    /// The adapted forward; shapes are those of `base.base(x)`.
    Tensor forward(L base, Tensor x);

    /// What [#forward] computes now of an x of type `type`, where it is a linear layer with a low-rank part; else null.
    default @Nullable Projection projection(L base, DType type) {
        return null;
    }

    /// Reports the adapter's parameters by their names below the layer, such as `lora_A.default.weight`.
    void collect(BiConsumer<String, Tensor> visitor);

    /// The name that the frozen layer takes below its own place: peft's `base_layer`, or `original_module`.
    default String baseName() {
        return "base_layer";
    }

    @Override
    void close();
}
