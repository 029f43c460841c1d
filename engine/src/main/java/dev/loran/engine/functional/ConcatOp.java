package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.List;

/// The parts concatenated along one dimension.
record ConcatOp(List<Tensor> parts, int axis) implements Op {
    static Tensor forward(List<Tensor> parts, int axis) {
        if (parts.isEmpty()) {
            throw new ShapeException("concat: no tensors given");
        }
        Tensor first = parts.getFirst();
        int a = first.shape().axis("concat", axis);
        int total = 0;
        for (Tensor p : parts) {
            Checks.operand("concat", "a tensor", p, "the first", first);
            if (p.shape().rank() != first.shape().rank()
                    || !p.shape().withDim(a, 0).equals(first.shape().withDim(a, 0))) {
                throw new ShapeException(
                        "concat: " + p.shape() + " does not fit " + first.shape() + " outside dimension " + a);
            }
            total += p.shape().dim(a);
        }
        Shape shape = first.shape().withDim(a, total);
        int outer = Math.toIntExact(shape.product(0, a));
        int inner = Math.toIntExact(shape.product(a + 1, shape.rank()));
        try (Scratch scratch = new Scratch(first.backend())) {
            Buffer y = scratch.allocate(first.dtype(), shape.size());
            int at = 0;
            for (Tensor p : parts) {
                int cols = p.shape().dim(a) * inner;
                if (cols > 0) {
                    first.backend()
                            .copy(y.slice(at, shape.size() - at), total * inner, p.buffer(), cols, outer, cols, false);
                }
                at += cols;
            }
            return Autograd.record(new ConcatOp(List.copyOf(parts), a), shape, y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return parts;
    }

    @Override
    public List<Tensor> saved() {
        return List.of();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Shape shape = gradOut.shape();
        int outer = Math.toIntExact(shape.product(0, axis));
        int inner = Math.toIntExact(shape.product(axis + 1, shape.rank()));
        int at = 0;
        for (Tensor p : parts) {
            int cols = p.shape().dim(axis) * inner;
            if (cols > 0 && gradients.wants(p)) {
                Gradient dp = gradients.into(p);
                p.backend()
                        .copy(
                                dp.buffer(),
                                cols,
                                gradOut.buffer().slice(at, shape.size() - at),
                                shape.dim(axis) * inner,
                                outer,
                                cols,
                                dp.accumulate());
            }
            at += cols;
        }
    }
}
