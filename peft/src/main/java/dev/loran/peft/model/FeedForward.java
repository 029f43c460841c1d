package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import java.util.List;

/// A feed-forward network, a sublayer of a [Block]: out(f(in(x))) or, if gated, out(f(gate(x)) ∘ up(x)).
///
/// @param in the layer to the inner width, or gate and up
/// @param out the layer back to the hidden size
/// @param activation f
record FeedForward(List<Linear> in, Linear out, UnaryFn activation) {
    /// (B, T, C) from x (B, T, C).
    Tensor forward(Tensor x) {
        if (in.size() == 1) {
            return out.forward(Functional.unary(activation, in.getFirst().forward(x)));
        }
        List<Tensor> both = Linear.forward(x, in);
        return out.forward(Functional.gated(activation, both.get(0), both.get(1)));
    }
}
