package dev.loran.engine;

import java.util.List;

/// y = x · rstd · weight over the last dimension; rstd (N) is kept.
record RmsNormOp(Tensor x, Tensor weight, Tensor rstd) implements Op {
    static Tensor forward(Tensor x, Tensor weight, double eps) {
        int cols = x.shape().cols();
        Checks.operand("rmsNorm", "x", x);
        Checks.vector("rmsNorm", "weight", weight, cols, x);
        int rows = x.shape().rows();
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.like(x.buffer());
            Tensor rstd = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            be.rmsNorm(y, rstd.buffer(), x.buffer(), weight.buffer(), rows, cols, eps);
            return Autograd.record(new RmsNormOp(x, weight, rstd), x.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x, weight);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x, weight, rstd);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradients.Target dx = gradients.wants(x) ? gradients.into(x) : null;
        Gradients.Target dw = gradients.wants(weight) ? gradients.into(weight) : null;
        x.backend()
                .rmsNormBackward(
                        dx == null ? null : dx.buffer(),
                        dw == null ? null : dw.buffer(),
                        gradOut.buffer(),
                        x.buffer(),
                        rstd.buffer(),
                        weight.buffer(),
                        x.shape().rows(),
                        x.shape().cols(),
                        dx != null && dx.accumulate(),
                        dw != null && dw.accumulate());
    }
}
