package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.List;

/// Rotary position embedding of x (B, T, H, D) with tables cos, sin (T, D / 2); since it is a rotation, backward
/// rotates back.
record RopeOp(Tensor x, Tensor cos, Tensor sin) implements Op {
    static Tensor forward(Tensor x, Tensor cos, Tensor sin) {
        Checks.operand("rope", "x", x);
        Checks.operand("rope", "cos", cos, "x", x);
        Checks.operand("rope", "sin", sin, "x", x);
        Shape s = x.shape();
        if (s.rank() != 4 || s.dim(3) % 2 != 0) {
            throw new ShapeException("rope: x is " + s + ", needs (B, T, H, D) with D even");
        }
        Shape table = Shape.of(s.dim(1), s.dim(3) / 2);
        if (!cos.shape().equals(table) || !sin.shape().equals(table)) {
            throw new ShapeException("rope: cos is " + cos.shape() + " and sin is " + sin.shape() + " but x is " + s
                    + "; needs " + table);
        }
        try (Scratch scratch = new Scratch(x.backend())) {
            RopeOp op = new RopeOp(x, cos, sin);
            return Autograd.record(op, s, op.turned(scratch, x.buffer(), 1).retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(cos, sin);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        try (Scratch scratch = new Scratch(x.backend())) {
            gradients.pass(x, turned(scratch, gradOut.buffer(), -1));
        }
    }

    private Buffer turned(Scratch scratch, Buffer from, int sign) {
        Shape s = x.shape();
        Buffer to = scratch.like(from);
        RopeTables tables = new RopeTables(cos.buffer(), sin.buffer(), s.dim(1), s.dim(3));
        to.backend().attention().rope(to, from, tables, s.dim(0), s.dim(2), sign);
        return to;
    }
}
