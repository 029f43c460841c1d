package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = x · mask / (1 − p); backward regenerates the mask. The rows are all dimensions but the last.
record DropoutOp(Tensor x, DropoutMask mask) implements Op {
    static Tensor forward(Tensor x, DropoutMask mask) {
        Checks.operand("dropout", "x", x);
        Checks.mask("dropout", mask, x);
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.like(x.buffer());
            x.backend().dropout(y, x.buffer(), x.shape().rows(), x.shape().cols(), mask, false);
            return Autograd.record(new DropoutOp(x, mask), x.shape(), y.retain());
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
        Gradient dx = gradients.into(x);
        x.backend()
                .dropout(
                        dx.buffer(),
                        gradOut.buffer(),
                        x.shape().rows(),
                        x.shape().cols(),
                        mask,
                        dx.accumulate());
    }
}
