package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.List;

/// Elements `from` to `to` of one dimension. A view if all dimensions before it have size 1, else a copy.
record SliceOp(Tensor x, int axis, int from) implements Op {
    static Tensor forward(Tensor x, int axis, int from, int to) {
        Shape s = x.shape();
        Checks.readable("slice", "x", x);
        int a = s.axis("slice", axis);
        if (from < 0 || to < from || to > s.dim(a)) {
            throw new ShapeException("slice: " + from + " to " + to + " of dimension " + a + " does not lie in " + s);
        }
        Shape shape = s.withDim(a, to - from);
        int outer = Math.toIntExact(s.product(0, a));
        int inner = Math.toIntExact(s.product(a + 1, s.rank()));
        SliceOp op = new SliceOp(x, a, from);
        if (outer == 1) {
            Buffer view = x.buffer().slice((long) from * inner, shape.size());
            return Autograd.record(op, shape, view.retain());
        }
        try (Scratch scratch = new Scratch(x.backend())) {
            int cols = (to - from) * inner;
            Buffer y = scratch.allocate(x.dtype(), shape.size());
            Buffer first = x.buffer().slice((long) from * inner, s.size() - (long) from * inner);
            x.backend().copy(y, cols, first, s.dim(a) * inner, outer, cols, false);
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
        Shape s = x.shape();
        int outer = Math.toIntExact(s.product(0, axis));
        int inner = Math.toIntExact(s.product(axis + 1, s.rank()));
        int cols = gradOut.shape().dim(axis) * inner;
        Gradient dx = gradients.into(x);
        if (!dx.accumulate()) {
            x.backend().fill(dx.buffer(), 0);
        }
        if (cols > 0) {
            x.backend()
                    .copy(
                            dx.buffer().slice((long) from * inner, s.size() - (long) from * inner),
                            s.dim(axis) * inner,
                            gradOut.buffer(),
                            cols,
                            outer,
                            cols,
                            true);
        }
    }
}
