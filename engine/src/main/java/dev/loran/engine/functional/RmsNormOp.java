package dev.loran.engine.functional;

import dev.loran.engine.AddOp;
import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = x · rstd · weight over the last dimension; rstd (N) is kept.
record RmsNormOp(Tensor x, Tensor weight, Tensor rstd) implements Op {
    static Tensor forward(Tensor x, Tensor weight, double eps) {
        int cols = x.shape().cols();
        Checks.operand("rmsNorm", "x", x);
        Checks.vector("rmsNorm", "weight", weight, cols, x);
        int rows = x.shape().rows();
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.like(x.buffer());
            Tensor rstd = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            be.norm().rmsNorm(y, rstd.buffer(), x.matrix(), weight.buffer(), eps);
            return Autograd.record(new RmsNormOp(x, weight, rstd), x.shape(), y.retain());
        }
    }

    /// The norm of x + residual: one backend call, recorded as an addition followed by a norm. In backward, the norm
    /// adds to the gradient of the sum, and the addition passes that on.
    static Functional.NormedSum forward(Tensor x, Tensor residual, Tensor weight, double eps) {
        int cols = x.shape().cols();
        Checks.operand("addRmsNorm", "x", x);
        Checks.like("addRmsNorm", "residual", residual, "x", x);
        Checks.vector("addRmsNorm", "weight", weight, cols, x);
        int rows = x.shape().rows();
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.like(x.buffer());
            Buffer total = scratch.like(x.buffer());
            Tensor rstd = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            be.norm().addRmsNorm(y, total, rstd.buffer(), x.matrix(), residual.buffer(), weight.buffer(), eps);
            Tensor sum = Autograd.record(new AddOp(x, residual, 1), x.shape(), total.retain());
            Tensor norm = Autograd.record(new RmsNormOp(sum, weight, rstd), x.shape(), y.retain());
            return new Functional.NormedSum(sum, norm);
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x, weight);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x, weight, rstd);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradient dx = gradients.intoIfWanted(x);
        Gradient dw = gradients.intoIfWanted(weight);
        x.backend().norm().rmsNormBackward(dx, dw, gradOut.buffer(), x.matrix(), rstd.buffer(), weight.buffer());
    }
}
