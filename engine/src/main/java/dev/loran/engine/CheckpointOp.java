package dev.loran.engine;

import java.util.List;
import java.util.function.UnaryOperator;

/// y = segment(x), of which only x is kept; see [Autograd#checkpoint]. Recorded even when x requires no gradient: the
/// parameters inside the segment may.
record CheckpointOp(UnaryOperator<Tensor> segment, Tensor x) implements Op {
    static Tensor forward(UnaryOperator<Tensor> segment, Tensor x) {
        if (!Autograd.isRecording()) {
            return segment.apply(x);
        }
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Tensor y = segment.apply(x);
            return scope.keep(Autograd.recordAlways(
                    new CheckpointOp(segment, x), y.shape(), y.buffer().retain()));
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
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.enableGrad()) {
            Tensor leaf = x.detach();
            leaf.requiresGrad(gradients.wants(x));
            Tensor y = segment.apply(leaf);
            if (y.requiresGrad()) {
                y.backward(gradOut);
            }
            Tensor dx = leaf.grad();
            if (dx != null) {
                gradients.pass(x, dx);
            }
        }
    }
}
