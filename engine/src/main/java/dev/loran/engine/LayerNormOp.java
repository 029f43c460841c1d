package dev.loran.engine;

import java.util.List;

/// y = (x − mean) · rstd · weight + bias over the last dimension; mean and rstd (N) are kept.
record LayerNormOp(Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd) implements Op {
    static Tensor forward(Tensor x, Tensor weight, Tensor bias, double eps) {
        int cols = x.shape().cols();
        Checks.operand("layerNorm", "x", x);
        Checks.vector("layerNorm", "weight", weight, cols, x);
        Checks.vector("layerNorm", "bias", bias, cols, x);
        int rows = x.shape().rows();
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.like(x.buffer());
            Tensor mean = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            Tensor rstd = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            be.layerNorm(y, mean.buffer(), rstd.buffer(), x.buffer(), weight.buffer(), bias.buffer(), rows, cols, eps);
            return Autograd.record(new LayerNormOp(x, weight, bias, mean, rstd), x.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x, weight, bias);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(x, weight, mean, rstd);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradients.Target dx = gradients.wants(x) ? gradients.into(x) : null;
        Gradients.Target dw = gradients.wants(weight) ? gradients.into(weight) : null;
        Gradients.Target db = gradients.wants(bias) ? gradients.into(bias) : null;
        x.backend()
                .layerNormBackward(
                        dx == null ? null : dx.buffer(),
                        dw == null ? null : dw.buffer(),
                        db == null ? null : db.buffer(),
                        gradOut.buffer(),
                        x.buffer(),
                        mean.buffer(),
                        rstd.buffer(),
                        weight.buffer(),
                        x.shape().rows(),
                        x.shape().cols(),
                        dx != null && dx.accumulate(),
                        dw != null && dw.accumulate(),
                        db != null && db.accumulate());
    }
}
