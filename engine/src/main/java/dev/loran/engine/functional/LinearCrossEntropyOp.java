package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Scratch;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Mean cross-entropy of x · weightᵀ without holding the logits of all rows: see [LossKernels#linearCrossEntropy]. The
/// gradients of x (N, C) and of a trainable weight (V, C) are computed in the forward pass and kept; backward scales
/// them.
record LinearCrossEntropyOp(
        Tensor x,
        Tensor weight,
        @Nullable Tensor dx,
        @Nullable Tensor dWeight) implements Op {
    static Tensor forward(Tensor x, Tensor weight, Tensor labels, int ignoreIndex, double softCap) {
        LinearOp.check("linearCrossEntropy", x, weight, null);
        Checks.ints("linearCrossEntropy", "labels", labels, x.shape().rows(), "x", x);
        Backend be = x.backend();
        boolean recording = Autograd.isRecording();
        try (Scratch scratch = new Scratch(be)) {
            Buffer dx = recording && x.requiresGrad() ? scratch.like(x.buffer()) : null;
            Buffer dw = recording && weight.requiresGrad() ? scratch.like(weight.buffer()) : null;
            Buffer loss = scratch.allocate(x.dtype().accumulator(), 1);
            LossKernels.Labels valid = new LossKernels.Labels(labels.buffer(), ignoreIndex);
            be.loss().linearCrossEntropy(loss, dx, dw, x.matrix(), weight.matrix(), valid, softCap);
            LinearCrossEntropyOp op = new LinearCrossEntropyOp(
                    x,
                    weight,
                    dx == null ? null : Tensor.own(x.shape(), dx),
                    dw == null ? null : Tensor.own(weight.shape(), dw));
            return Autograd.record(op, Shape.of(), loss.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x, weight);
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(2);
        if (dx != null) {
            saved.add(dx);
        }
        if (dWeight != null) {
            saved.add(dWeight);
        }
        return saved;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        scaled(x, dx, gradOut, gradients);
        scaled(weight, dWeight, gradOut, gradients);
    }

    private static void scaled(Tensor input, @Nullable Tensor gradient, Tensor gradOut, Gradients gradients) {
        if (gradient != null && gradients.wants(input)) {
            input.backend()
                    .scaleBy(
                            gradient.buffer(),
                            gradOut.buffer(),
                            Math.toIntExact(gradient.shape().size()));
            gradients.pass(input, gradient.buffer());
        }
    }
}
