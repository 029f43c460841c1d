package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = factor · x.
record ScaleOp(Tensor x, double factor) implements Op {
    static Tensor forward(Tensor x, double factor) {
        Checks.operand("scale", "x", x);
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.like(x.buffer());
            x.backend().axpby(y, x.buffer(), factor, 0);
            return Autograd.record(new ScaleOp(x, factor), x.shape(), y.retain());
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
        Broadcast.reduceInto(gradients, x, gradOut.buffer(), gradOut.shape(), factor);
    }
}
