package dev.loran.engine;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = factor · Σ over n of x seen as (outer, n, inner).
record SumOp(Tensor x, int outer, int n, int inner, double factor) implements Op {
    static Tensor forward(Tensor x, int axis, double factor) {
        Shape s = x.shape();
        int a = s.axis("sum", axis);
        int[] dims = new int[s.rank() - 1];
        for (int i = 0; i < dims.length; i++) {
            dims[i] = s.dim(i < a ? i : i + 1);
        }
        return forward(x, Shape.of(dims), s.product(0, a), s.dim(a), s.product(a + 1, s.rank()), factor);
    }

    /// Sums over all elements, giving a scalar.
    static Tensor ofAll(Tensor x, double factor) {
        return forward(x, Shape.of(), 1, x.shape().size(), 1, factor);
    }

    private static Tensor forward(Tensor x, Shape shape, long outer, long n, long inner, double factor) {
        Checks.operand("sum", "x", x);
        SumOp op = new SumOp(x, Math.toIntExact(outer), Math.toIntExact(n), Math.toIntExact(inner), factor);
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.allocate(x.dtype(), shape.size());
            x.backend().sum(y, x.buffer(), op.outer, op.n, op.inner, false);
            if (factor != 1) {
                x.backend().axpby(y, y, factor, 0);
            }
            return Autograd.record(op, shape, y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x);
    }

    @Override
    public List<Tensor> saved() {
        return List.of();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Backend be = x.backend();
        Gradient dx = gradients.into(x);
        if (!dx.accumulate()) {
            be.fill(dx.buffer(), 0);
        }
        try (Scratch scratch = new Scratch(be)) {
            Buffer scaled = scratch.like(gradOut.buffer());
            be.axpby(scaled, gradOut.buffer(), factor, 0);
            be.binary(
                    BinaryFn.ADD,
                    dx.buffer(),
                    dx.buffer(),
                    scaled,
                    new int[] {outer, n, inner},
                    new int[] {n * inner, inner, 1},
                    new int[] {inner, 0, 1});
        }
    }
}
