package dev.loran.engine;

import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = a / b, broadcast; da = dy / b, db = −dy · y / b.
record DivOp(Tensor a, Tensor b, Tensor y) implements Op {
    static Tensor forward(Tensor a, Tensor b) {
        Shape shape = Broadcast.check("div", a, b);
        try (Scratch scratch = new Scratch(a.backend())) {
            Buffer y = scratch.allocate(a.dtype(), shape.size());
            Broadcast.apply(BinaryFn.DIV, y, a.buffer(), a.shape(), b.buffer(), b.shape(), shape);
            return Autograd.record(new DivOp(a, b, Tensor.own(shape, y)), shape, y.retain());
        }
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
        try (Scratch scratch = new Scratch(gradOut.backend())) {
            Buffer quotient = scratch.like(gradOut.buffer());
            Broadcast.apply(BinaryFn.DIV, quotient, gradOut.buffer(), shape, b.buffer(), b.shape(), shape);
            if (gradients.wants(a)) {
                Broadcast.reduceInto(gradients, a, quotient, shape, 1);
            }
            if (gradients.wants(b)) {
                Buffer product = scratch.like(quotient);
                Broadcast.apply(BinaryFn.MUL, product, quotient, shape, y.buffer(), shape, shape);
                Broadcast.reduceInto(gradients, b, product, shape, -1);
            }
        }
    }
}
