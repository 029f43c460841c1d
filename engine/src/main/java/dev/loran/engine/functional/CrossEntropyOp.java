package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// loss = mean, over the rows whose label is not `ignoreIndex`, of lse minus the logit of the label; 0 if there are
/// none. lse (N) and 1 / count are kept.
record CrossEntropyOp(Tensor logits, Tensor labels, Tensor lse, Tensor inverseCount, int ignoreIndex) implements Op {
    static Tensor forward(Tensor logits, Tensor labels, int ignoreIndex) {
        Checks.operand("crossEntropy", "logits", logits);
        int n = logits.shape().rows();
        Checks.ints("crossEntropy", "labels", labels, n, "logits", logits);
        Backend be = logits.backend();
        DType sums = logits.dtype().accumulator();
        try (Scratch scratch = new Scratch(be)) {
            Tensor lse = Tensor.own(Shape.of(n), scratch.allocate(sums, n));
            Tensor inverse = Tensor.own(Shape.of(), scratch.allocate(sums, 1));
            Buffer losses = scratch.allocate(sums, n);
            Buffer loss = scratch.allocate(sums, 1);
            Labels valid = new Labels(labels.buffer(), ignoreIndex);
            be.loss().crossEntropy(losses, lse.buffer(), logits.matrix(), valid);
            be.loss().inverseOfValid(inverse.buffer(), valid);
            be.sum(loss, losses, 1, n, 1, false);
            be.scaleBy(loss, inverse.buffer(), 1);
            CrossEntropyOp op = new CrossEntropyOp(logits, labels, lse, inverse, ignoreIndex);
            return Autograd.record(op, Shape.of(), loss.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(logits);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(logits, labels, lse, inverseCount);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Backend be = logits.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer g = scratch.like(gradOut.buffer());
            be.axpby(g, gradOut.buffer(), 1, 0);
            be.scaleBy(g, inverseCount.buffer(), 1);
            Labels valid = new Labels(labels.buffer(), ignoreIndex);
            be.loss().crossEntropyBackward(gradients.into(logits), g, logits.matrix(), lse.buffer(), valid);
        }
    }
}
