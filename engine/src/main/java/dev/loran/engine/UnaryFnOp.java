package dev.loran.engine;

import java.util.List;

/// y = fn(x), element by element.
record UnaryFnOp(UnaryFn fn, Tensor x) implements Op {
    static Tensor forward(UnaryFn fn, Tensor x) {
        Checks.floating(fn.name().toLowerCase(java.util.Locale.ROOT), x);
        Buffer y = x.backend().allocate(x.dtype(), x.shape().size());
        x.backend().unary(fn, y, x.buffer());
        return Autograd.record(new UnaryFnOp(fn, x), x.shape(), y);
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
        Gradients.Target dx = gradients.into(x);
        x.backend().unaryBackward(fn, dx.buffer(), gradOut.buffer(), x.buffer(), dx.accumulate());
    }
}
