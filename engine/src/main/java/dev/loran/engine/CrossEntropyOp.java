package dev.loran.engine;

import java.util.List;

/// loss = mean over the rows whose label is not `ignoreIndex` of lse less the logit of the label; 0 when there is none.
/// lse (N) and
/// 1 / count are kept.
record CrossEntropyOp(Tensor logits, Tensor labels, Tensor lse, Tensor inverseCount, int ignoreIndex) implements Op {
    static Tensor forward(Tensor logits, Tensor labels, int ignoreIndex) {
        Checks.floating("crossEntropy", logits);
        int n = logits.shape().rows();
        int v = logits.shape().cols();
        Checks.ints("crossEntropy", "labels", labels, n);
        Backend be = logits.backend();
        Tensor lse = Tensor.own(Shape.of(n), be.allocate(logits.dtype(), n));
        Tensor inverse = Tensor.own(Shape.of(), be.allocate(logits.dtype(), 1));
        Buffer losses = be.allocate(logits.dtype(), n);
        Buffer loss = be.allocate(logits.dtype(), 1);
        be.crossEntropy(losses, lse.buffer(), logits.buffer(), labels.buffer(), n, v, ignoreIndex);
        be.inverseOfValid(inverse.buffer(), labels.buffer(), n, ignoreIndex);
        be.sum(loss, losses, 1, n, 1, false);
        be.scaleBy(loss, inverse.buffer(), 1);
        losses.release();
        Tensor result =
                Autograd.record(new CrossEntropyOp(logits, labels, lse, inverse, ignoreIndex), Shape.of(), loss);
        lse.close();
        inverse.close();
        return result;
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
        Buffer g = be.allocate(logits.dtype(), 1);
        be.axpby(g, gradOut.buffer(), 1, 0);
        be.scaleBy(g, inverseCount.buffer(), 1);
        Gradients.Target d = gradients.into(logits);
        be.crossEntropyBackward(
                d.buffer(),
                g,
                logits.buffer(),
                lse.buffer(),
                labels.buffer(),
                logits.shape().rows(),
                logits.shape().cols(),
                ignoreIndex,
                d.accumulate());
        g.release();
    }
}
