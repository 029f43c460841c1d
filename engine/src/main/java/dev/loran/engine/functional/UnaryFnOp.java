package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import java.util.List;
import java.util.Locale;

/// y = fn(x), element-wise.
record UnaryFnOp(UnaryFn fn, Tensor x) implements Op {
    static Tensor forward(UnaryFn fn, Tensor x) {
        Checks.operand(fn.name().toLowerCase(Locale.ROOT), "x", x);
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.like(x.buffer());
            x.backend().unary(fn, y, x.buffer());
            return Autograd.record(new UnaryFnOp(fn, x), x.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradient dx = gradients.into(x);
        x.backend().unaryBackward(fn, dx.buffer(), gradOut.buffer(), x.buffer(), dx.accumulate());
    }
}
