package dev.loran.engine;

import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import java.util.ArrayList;
import java.util.List;

/// y = a ∘ b, broadcast. Each operand is kept only if the other wants a gradient.
record MulOp(Tensor a, Tensor b) implements Op {
    static Tensor forward(Tensor a, Tensor b) {
        Shape shape = Broadcast.check("mul", a, b);
        try (Scratch scratch = new Scratch(a.backend())) {
            Buffer y = scratch.allocate(a.dtype(), shape.size());
            Broadcast.apply(BinaryFn.MUL, y, a.buffer(), a.shape(), b.buffer(), b.shape(), shape);
            return Autograd.record(new MulOp(a, b), shape, y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(a, b);
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(2);
        if (b.requiresGrad()) {
            saved.add(a);
        }
        if (a.requiresGrad()) {
            saved.add(b);
        }
        return saved;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        if (gradients.wants(a)) {
            scaled(gradOut, b, a, gradients);
        }
        if (gradients.wants(b)) {
            scaled(gradOut, a, b, gradients);
        }
    }

    private static void scaled(Tensor gradOut, Tensor by, Tensor input, Gradients gradients) {
        Shape shape = gradOut.shape();
        if (by.shape().equals(shape) && !input.shape().equals(shape)) {
            Broadcast.reduceProductInto(gradients, input, gradOut.buffer(), by.buffer(), shape);
            return;
        }
        try (Scratch scratch = new Scratch(gradOut.backend())) {
            Buffer product = scratch.like(gradOut.buffer());
            Broadcast.apply(BinaryFn.MUL, product, gradOut.buffer(), shape, by.buffer(), by.shape(), shape);
            Broadcast.reduceInto(gradients, input, product, shape, 1);
        }
    }
}
