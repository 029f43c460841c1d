package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LinearKernels.Projected;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional.Lora;
import dev.loran.engine.functional.Functional.Projection;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y (…, out) = x (…, in) · weightᵀ + bias. If the weight is frozen, nothing is kept that only its gradient would need.
record LinearOp(Tensor x, Tensor weight, @Nullable Tensor bias) implements Op {
    static Tensor forward(Tensor x, Tensor weight, @Nullable Tensor bias) {
        check("linear", x, weight, bias);
        Shape shape = x.shape().withCols(weight.shape().dim(0));
        try (Scratch scratch = new Scratch(x.backend())) {
            Matrix y = output(scratch, x, weight);
            x.backend().linear().linear(y, x.matrix(), weight.matrix(), bias == null ? null : bias.buffer());
            return Autograd.record(
                    new LinearOp(x, weight, bias), shape, y.buffer().retain());
        }
    }

    private static Matrix output(Scratch scratch, Tensor x, Tensor weight) {
        int n = x.shape().rows();
        int out = weight.shape().dim(0);
        return new Matrix(scratch.allocate(x.dtype(), (long) n * out), n, out);
    }

    /// Applies several layers to one x in a single backend call; each is recorded as its own operation.
    static List<Tensor> forward(Tensor x, List<Projection> layers) {
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            List<Op> ops = new ArrayList<>(layers.size());
            List<Projected> passed = new ArrayList<>(layers.size());
            for (Projection p : layers) {
                Lora lora = p.lora();
                check(lora == null ? "linear" : "loraLinear", x, p.weight(), p.bias());
                LoraLinearOp op = lora == null ? null : LoraLinearOp.of(scratch, x, p.weight(), p.bias(), lora);
                ops.add(op == null ? new LinearOp(x, p.weight(), p.bias()) : op);
                passed.add(new Projected(
                        output(scratch, x, p.weight()),
                        p.weight().matrix(),
                        p.bias() == null ? null : p.bias().buffer(),
                        op == null ? null : op.update()));
            }
            be.linear().projections(passed, x.matrix());
            List<Tensor> results = new ArrayList<>(layers.size());
            for (int i = 0; i < ops.size(); i++) {
                Matrix y = passed.get(i).y();
                results.add(Autograd.record(
                        ops.get(i), x.shape().withCols(y.cols()), y.buffer().retain()));
            }
            return results;
        }
    }

    static void check(String op, Tensor x, Tensor weight, @Nullable Tensor bias) {
        Checks.operand(op, "x", x);
        Checks.same(op, "weight", weight, "x", x);
        Shape w = weight.shape();
        if (w.rank() != 2 || x.shape().rank() < 1 || x.shape().cols() != w.dim(1)) {
            throw new ShapeException(op + ": weight is " + w + " as (out, in) but x is " + x.shape());
        }
        Checks.vector(op, "bias", bias, w.dim(0), x);
    }

    @Override
    public List<Tensor> inputs() {
        return bias == null ? List.of(x, weight) : List.of(x, weight, bias);
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(2);
        if (weight.requiresGrad()) {
            saved.add(x);
        }
        if (x.requiresGrad()) {
            saved.add(weight);
        }
        return saved;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        LinearKernels linear = x.backend().linear();
        if (gradients.wants(x)) {
            linear.linearBackwardInput(gradients.into(x), gradOut.matrix(), weight.matrix());
        }
        if (gradients.wants(weight)) {
            linear.linearBackwardWeight(gradients.into(weight), gradOut.matrix(), x.matrix());
        }
        biasBackward(bias, gradOut, gradients);
    }

    static void biasBackward(@Nullable Tensor bias, Tensor gradOut, Gradients gradients) {
        if (bias != null && gradients.wants(bias)) {
            Gradient db = gradients.into(bias);
            Matrix dy = gradOut.matrix();
            bias.backend().sum(db.buffer(), dy.buffer(), 1, dy.rows(), dy.cols(), db.accumulate());
        }
    }
}
