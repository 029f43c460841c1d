package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = x rounded to another dtype; backward rounds the gradient back to x's dtype and is otherwise the identity.
record CastOp(Tensor x) implements Op {
    static Tensor forward(Tensor x, DType to) {
        if (x.dtype() == to) {
            return x;
        }
        Checks.readable("cast", "x", x);
        if (!x.dtype().isFloating() || !to.isFloating()) {
            throw new DTypeException("cast: x is " + x.dtype() + " and asked for as " + to
                    + "; only floating types are cast, copyFrom() converts others");
        }
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.allocate(to, x.shape().size());
            x.backend().cast(y, x.buffer());
            return Autograd.record(new CastOp(x), x.shape(), y.retain());
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
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer dx = scratch.like(x.buffer());
            x.backend().cast(dx, gradOut.buffer());
            gradients.pass(x, dx);
        }
    }
}
