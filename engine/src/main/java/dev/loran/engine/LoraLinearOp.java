package dev.loran.engine;

import dev.loran.engine.Functional.LowRank;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y = x · weightᵀ + bias + scaling · t · loraBᵀ with t = dropout(x) · loraAᵀ (N, r). The weight is frozen.
record LoraLinearOp(
        Tensor x,
        Tensor weight,
        @Nullable Tensor bias,
        Tensor loraA,
        Tensor loraB,
        Tensor t,
        @Nullable DropoutMask mask,
        double scaling)
        implements Op {

    /// The operation with its t allocated, which the backend then fills; x, weight and bias fit.
    static LoraLinearOp of(Scratch scratch, Tensor x, Tensor weight, @Nullable Tensor bias, LowRank low) {
        Tensor loraA = low.loraA();
        Tensor loraB = low.loraB();
        Checks.operand("loraLinear", "loraA", loraA, "x", x);
        Checks.operand("loraLinear", "loraB", loraB, "x", x);
        Checks.mask("loraLinear", low.mask(), x);
        int in = weight.shape().dim(1);
        int out = weight.shape().dim(0);
        int r = loraA.shape().rank() == 2 ? loraA.shape().dim(0) : -1;
        if (!loraA.shape().equals(Shape.of(Math.max(r, 0), in))
                || !loraB.shape().equals(Shape.of(out, Math.max(r, 0)))) {
            throw new ShapeException("loraLinear: loraA is " + loraA.shape() + " and loraB is " + loraB.shape()
                    + " but weight is " + weight.shape() + "; needs (r, " + in + ") and (" + out + ", r)");
        }
        if (weight.requiresGrad()) {
            throw new IllegalArgumentException("loraLinear: weight " + weight.shape()
                    + " requires a gradient; freeze it, or compose linear and the low-rank product");
        }
        Shape small = Shape.of(x.shape().rows(), r);
        Tensor t = Tensor.own(small, scratch.allocate(x.dtype(), small.size()));
        return new LoraLinearOp(x, weight, bias, loraA, loraB, t, low.mask(), low.scaling());
    }

    Backend.LowRank lowRank() {
        return new Backend.LowRank(
                t.buffer(), loraA.buffer(), loraB.buffer(), mask, loraA.shape().dim(0), scaling);
    }

    @Override
    public List<Tensor> inputs() {
        return bias == null ? List.of(x, loraA, loraB) : List.of(x, loraA, loraB, bias);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x, weight, loraA, loraB, t);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradients.Target dx = gradients.wants(x) ? gradients.into(x) : null;
        Gradients.Target da = gradients.wants(loraA) ? gradients.into(loraA) : null;
        Gradients.Target db = gradients.wants(loraB) ? gradients.into(loraB) : null;
        x.backend()
                .loraLinearBackward(
                        dx == null ? null : dx.buffer(),
                        da == null ? null : da.buffer(),
                        db == null ? null : db.buffer(),
                        gradOut.buffer(),
                        x.buffer(),
                        t.buffer(),
                        weight.buffer(),
                        loraA.buffer(),
                        loraB.buffer(),
                        mask,
                        x.shape().rows(),
                        weight.shape().dim(1),
                        weight.shape().dim(0),
                        loraA.shape().dim(0),
                        scaling,
                        dx != null && dx.accumulate(),
                        da != null && da.accumulate(),
                        db != null && db.accumulate());
        LinearOp.biasBackward(bias, gradOut, gradients);
    }
}
