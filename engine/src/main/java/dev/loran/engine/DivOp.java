package dev.loran.engine;

import java.util.List;

/// y = a / b, broadcast; da = dy / b, db = −dy · y / b.
record DivOp(Tensor a, Tensor b, Tensor y) implements Op {
    static Tensor forward(Tensor a, Tensor b) {
        Shape shape = Broadcast.check("div", a, b);
        Buffer y = a.backend().allocate(a.dtype(), shape.size());
        Broadcast.apply(BinaryFn.DIV, y, a.buffer(), a.shape(), b.buffer(), b.shape(), shape);
        return Autograd.record(new DivOp(a, b, Tensor.own(shape, y)), shape, y);
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(a, b);
    }

    @Override
    public List<Tensor> saved() {
        return b.requiresGrad() ? List.of(b, y) : List.of(b);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Shape shape = gradOut.shape();
        Buffer quotient = gradOut.backend().allocate(gradOut.dtype(), shape.size());
        Broadcast.apply(BinaryFn.DIV, quotient, gradOut.buffer(), shape, b.buffer(), b.shape(), shape);
        try (Tensor t = Tensor.own(shape, quotient)) {
            if (gradients.wants(a)) {
                Broadcast.reduceInto(gradients, a, t, 1);
            }
            if (gradients.wants(b)) {
                Buffer work = gradOut.backend().allocate(gradOut.dtype(), shape.size());
                Broadcast.apply(BinaryFn.MUL, work, quotient, shape, y.buffer(), shape, shape);
                try (Tensor product = Tensor.own(shape, work)) {
                    Broadcast.reduceInto(gradients, b, product, -1);
                }
            }
        }
    }
}
