package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional.NormedSum;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.RmsNorm;

/// A layer norm or an RMS norm.
public record Norm(AdaptedLayer<?> layer) {
    /// The number of channels over which it normalizes.
    public int width() {
        return (layer instanceof RmsNorm n ? n.weight() : ((LayerNorm) layer).weight())
                .shape()
                .dim(0);
    }

    public Tensor forward(Tensor x) {
        return layer.forward(x);
    }

    /// x + residual, and its normalized value.
    public NormedSum forward(Tensor x, Tensor residual) {
        return switch (layer) {
            case RmsNorm n -> n.forward(x, residual);
            case LayerNorm n -> n.forward(x, residual);
            default -> throw new IllegalStateException(layer + " is no norm");
        };
    }
}
