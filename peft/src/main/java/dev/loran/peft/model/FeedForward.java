package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import java.util.List;

/// A feed-forward network, a sublayer of a [Block]: out(f(in(x))) or, if gated, out(f(gate(x)) ∘ up(x)).
///
/// @param in the layer to the inner width; or gate and up, as two layers or as one that computes both side by side
/// @param out the layer back to the hidden size
/// @param activation f
public record FeedForward(List<Linear> in, Linear out, UnaryFn activation) {
    /// (B, T, C) from x (B, T, C).
    public Tensor forward(Tensor x) {
        int inner = out.inFeatures();
        if (in.size() == 1 && in.getFirst().outFeatures() == inner) {
            return out.forward(Functional.unary(activation, in.getFirst().forward(x)));
        }
        List<Tensor> both = in.size() == 1 ? halves(in.getFirst().forward(x), inner) : Linear.forward(x, in);
        return out.forward(Functional.gated(activation, both.get(0), both.get(1)));
    }

    private static List<Tensor> halves(Tensor x, int width) {
        return List.of(x.slice(2, 0, width), x.slice(2, width, 2 * width));
    }
}
