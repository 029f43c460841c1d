package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional.Projection;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/// What a fine-tuning method installs in place of a layer: a forward over the frozen layer, with its own parameters.
public interface Adapter<L extends Layer> extends AutoCloseable {
    /// The adapted forward; shapes are those of `base.base(x)`.
    Tensor forward(L base, Tensor x);

    /// Describes what [#forward] would currently compute for an x of dtype `type`, if that is a linear layer with a
    /// low-rank part; else returns null.
    default @Nullable Projection projection(L base, DType type) {
        return null;
    }

    /// Passes each of the adapter's parameters to `visitor`, named relative to the layer, such as
    /// `lora_A.default.weight`.
    void collect(BiConsumer<String, Tensor> visitor);

    /// The name under which the frozen layer appears below the adapted layer: peft's `base_layer` or `original_module`.
    default String baseName() {
        return "base_layer";
    }

    @Override
    void close();
}
