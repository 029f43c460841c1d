package dev.loran.engine.functional;

import dev.loran.engine.AddOp;
import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.NormKernels.Statistics;
import dev.loran.engine.backend.Scratch;
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
            Statistics kept = new Statistics(mean.buffer(), rstd.buffer());
            be.norm().layerNorm(y, kept, x.matrix(), weight.buffer(), bias.buffer(), eps);
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
            Statistics kept = new Statistics(mean.buffer(), rstd.buffer());
            Buffer w = weight.buffer();
            be.norm().addLayerNorm(y, total, kept, x.matrix(), residual.buffer(), w, bias.buffer(), eps);
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
        Gradient dx = gradients.intoIfWanted(x);
        Gradient dw = gradients.intoIfWanted(weight);
        Gradient db = gradients.intoIfWanted(bias);
        Statistics kept = new Statistics(mean.buffer(), rstd.buffer());
        x.backend().norm().layerNormBackward(dx, dw, db, gradOut.buffer(), x.matrix(), kept, weight.buffer());
    }
}
