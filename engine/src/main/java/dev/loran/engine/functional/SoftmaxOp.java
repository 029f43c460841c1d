package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = softmax over the last dimension; y itself is kept.
record SoftmaxOp(Tensor x, Tensor y) implements Op {
    static Tensor forward(Tensor x) {
        Checks.operand("softmax", "x", x);
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.like(x.buffer());
            x.backend().attention().softmax(y, x.matrix());
            return Autograd.record(new SoftmaxOp(x, Tensor.own(x.shape(), y)), x.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(y);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        x.backend().attention().softmaxBackward(gradients.into(x), gradOut.buffer(), y.matrix());
    }
}
