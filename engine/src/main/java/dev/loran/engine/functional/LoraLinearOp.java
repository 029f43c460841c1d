package dev.loran.engine.functional;

import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional.Lora;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y = x · weightᵀ + bias + scaling · t · loraBᵀ with t = dropout(x) · loraAᵀ (N, r). The weight is frozen.
record LoraLinearOp(Tensor x, Tensor weight, @Nullable Tensor bias, Lora lora, Tensor t) implements Op {

    /// Returns the operation with its t allocated, for the backend to fill. x, weight and bias have been checked.
    static LoraLinearOp of(Scratch scratch, Tensor x, Tensor weight, @Nullable Tensor bias, Lora lora) {
        Tensor loraA = lora.loraA();
        Tensor loraB = lora.loraB();
        Checks.operand("loraLinear", "loraA", loraA, "x", x);
        Checks.operand("loraLinear", "loraB", loraB, "x", x);
        Checks.mask("loraLinear", lora.mask(), x);
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
        return new LoraLinearOp(x, weight, bias, lora, t);
    }

    LowRankUpdate update() {
        return new LowRankUpdate(t.matrix(), lora.loraA().matrix(), lora.loraB().matrix(), lora.scaling(), lora.mask());
    }

    @Override
    public List<Tensor> inputs() {
        Tensor a = lora.loraA();
        Tensor b = lora.loraB();
        return bias == null ? List.of(x, a, b) : List.of(x, a, b, bias);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x, weight, lora.loraA(), lora.loraB(), t);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradient dx = gradients.intoIfWanted(x);
        Gradient da = gradients.intoIfWanted(lora.loraA());
        Gradient db = gradients.intoIfWanted(lora.loraB());
        x.backend().linear().loraLinearBackward(dx, da, db, gradOut.matrix(), x.matrix(), weight.matrix(), update());
        LinearOp.biasBackward(bias, gradOut, gradients);
    }
}
