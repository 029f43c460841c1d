package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import java.util.function.BiConsumer;

/// What a fine-tuning method puts in the place of a layer: a forward over the frozen layer, with parameters of its own.
public interface Adapter<L extends Layer> extends AutoCloseable {
    /// The adapted forward; shapes are those of `base.base(x)`.
    Tensor forward(L base, Tensor x);

    /// Reports the adapter's parameters by their names below the layer, such as `lora_A.default.weight`.
    void collect(BiConsumer<String, Tensor> visitor);

    /// The name that the frozen layer takes below its own place: peft's `base_layer`, or `original_module`.
    default String baseName() {
        return "base_layer";
    }

    @Override
    void close();
}
