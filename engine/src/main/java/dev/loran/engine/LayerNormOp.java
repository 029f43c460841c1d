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

    /// As [RmsNormOp#forward(Tensor, Tensor, Tensor, double)].
    static Functional.NormedSum forward(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps) {
        int cols = x.shape().cols();
        Checks.operand("addLayerNorm", "x", x);
        Checks.like("addLayerNorm", "residual", residual, "x", x);
        Checks.vector("addLayerNorm", "weight", weight, cols, x);
        Checks.vector("addLayerNorm", "bias", bias, cols, x);
        int rows = x.shape().rows();
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.like(x.buffer());
            Buffer total = scratch.like(x.buffer());
            Tensor mean = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            Tensor rstd = Tensor.own(Shape.of(rows), scratch.allocate(x.dtype().accumulator(), rows));
            Buffer w = weight.buffer();
            Buffer b = bias.buffer();
            be.addLayerNorm(
                    y, total, mean.buffer(), rstd.buffer(), x.buffer(), residual.buffer(), w, b, rows, cols, eps);
            Tensor sum = Autograd.record(new AddOp(x, residual, 1), x.shape(), total.retain());
            Tensor norm = Autograd.record(new LayerNormOp(sum, weight, bias, mean, rstd), x.shape(), y.retain());
            return new Functional.NormedSum(sum, norm);
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
