package dev.loran.engine;

import java.util.List;

/// Rotary position embedding of x (B, T, H, D) by tables cos, sin (T, D / 2); a rotation, so backward turns back.
record RopeOp(Tensor x, Tensor cos, Tensor sin) implements Op {
    static Tensor forward(Tensor x, Tensor cos, Tensor sin) {
        Checks.sameDType("rope", "cos", cos, "x", x);
        Shape s = x.shape();
        if (s.rank() != 4 || s.dim(3) % 2 != 0) {
            throw new ShapeException("rope: x is " + s + ", needs (B, T, H, D) with D even");
        }
        Shape table = Shape.of(s.dim(1), s.dim(3) / 2);
        if (!cos.shape().equals(table) || !sin.shape().equals(table)) {
            throw new ShapeException("rope: cos is " + cos.shape() + " and sin is " + sin.shape() + " but x is " + s
                    + "; needs " + table);
        }
        Buffer y = x.backend().allocate(x.dtype(), s.size());
        x.backend().rope(y, x.buffer(), cos.buffer(), sin.buffer(), s.dim(0), s.dim(1), s.dim(2), s.dim(3), 1);
        return Autograd.record(new RopeOp(x, cos, sin), s, y);
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
        Shape s = x.shape();
        Buffer turned = x.backend().allocate(x.dtype(), s.size());
        x.backend()
                .rope(turned, gradOut.buffer(), cos.buffer(), sin.buffer(), s.dim(0), s.dim(1), s.dim(2), s.dim(3), -1);
        try (Tensor t = Tensor.own(s, turned)) {
            gradients.pass(x, t);
        }
    }
}
