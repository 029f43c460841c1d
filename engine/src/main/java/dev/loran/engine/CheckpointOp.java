package dev.loran.engine;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/// y = segment(inputs), keeping only the inputs; see [Autograd#checkpoint]. It is recorded even if no input requires a
/// gradient, because the parameters inside the segment may.
record CheckpointOp(Function<List<Tensor>, Tensor> segment, List<Tensor> inputs) implements Op {
    static Tensor forward(Function<List<Tensor>, Tensor> segment, List<Tensor> inputs) {
        if (!Autograd.isRecording()) {
            return segment.apply(inputs);
        }
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Tensor y = segment.apply(inputs);
            return scope.keep(Autograd.recordAlways(
                    new CheckpointOp(segment, List.copyOf(inputs)),
                    y.shape(),
                    y.buffer().retain()));
        }
    }

    @Override
    public List<Tensor> saved() {
        return inputs;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.enableGrad()) {
            List<Tensor> leaves = new ArrayList<>();
            for (Tensor input : inputs) {
                leaves.add(input.detach().requiresGrad(gradients.wants(input)));
            }
            Tensor y = segment.apply(leaves);
            if (y.requiresGrad()) {
                y.backward(gradOut);
            }
            for (int i = 0; i < leaves.size(); i++) {
                Tensor d = leaves.get(i).grad();
                if (d != null) {
                    gradients.pass(inputs.get(i), d.buffer());
                }
            }
        }
    }
}
