package dev.loran.engine;

import dev.loran.engine.Functional.LowRank;
import dev.loran.engine.Functional.Projection;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y (…, out) = x (…, in) · weightᵀ + bias. For a frozen weight nothing is kept that only its gradient would need.
record LinearOp(Tensor x, Tensor weight, @Nullable Tensor bias) implements Op {
    static Tensor forward(Tensor x, Tensor weight, @Nullable Tensor bias) {
        check("linear", x, weight, bias);
        int in = weight.shape().dim(1);
        int out = weight.shape().dim(0);
        Shape shape = x.shape().withCols(out);
        int n = x.shape().rows();
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.allocate(x.dtype(), shape.size());
            x.backend().linear(y, x.buffer(), weight.buffer(), bias == null ? null : bias.buffer(), n, in, out);
            return Autograd.record(new LinearOp(x, weight, bias), shape, y.retain());
        }
    }

    /// The layers of one x: one pass of the backend, recorded as the layers that they are.
    static List<Tensor> forward(Tensor x, List<Projection> layers) {
        Backend be = x.backend();
        try (Scratch scratch = new Scratch(be)) {
            List<Op> ops = new ArrayList<>(layers.size());
            List<Backend.Projection> passed = new ArrayList<>(layers.size());
            for (Projection p : layers) {
                LowRank low = p.lowRank();
                check(low == null ? "linear" : "loraLinear", x, p.weight(), p.bias());
                LoraLinearOp lora = low == null ? null : LoraLinearOp.of(scratch, x, p.weight(), p.bias(), low);
                ops.add(lora == null ? new LinearOp(x, p.weight(), p.bias()) : lora);
                int out = p.weight().shape().dim(0);
                passed.add(new Backend.Projection(
                        scratch.allocate(x.dtype(), x.shape().withCols(out).size()),
                        p.weight().buffer(),
                        p.bias() == null ? null : p.bias().buffer(),
                        out,
                        lora == null ? null : lora.lowRank()));
            }
            be.projections(passed, x.buffer(), x.shape().rows(), x.shape().cols());
            List<Tensor> results = new ArrayList<>(layers.size());
            for (int i = 0; i < ops.size(); i++) {
                Backend.Projection p = passed.get(i);
                Shape shape = x.shape().withCols(p.out());
                results.add(Autograd.record(ops.get(i), shape, p.y().retain()));
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
        int in = weight.shape().dim(1);
        int out = weight.shape().dim(0);
        int n = gradOut.shape().rows();
        Backend be = x.backend();
        if (gradients.wants(x)) {
            Gradients.Target dx = gradients.into(x);
            be.linearBackwardInput(dx.buffer(), gradOut.buffer(), weight.buffer(), n, in, out, dx.accumulate());
        }
        if (gradients.wants(weight)) {
            Gradients.Target dw = gradients.into(weight);
            be.linearBackwardWeight(dw.buffer(), gradOut.buffer(), x.buffer(), n, in, out, dw.accumulate());
        }
        biasBackward(bias, gradOut, gradients);
    }

    static void biasBackward(@Nullable Tensor bias, Tensor gradOut, Gradients gradients) {
        if (bias != null && gradients.wants(bias)) {
            Gradients.Target db = gradients.into(bias);
            bias.backend()
                    .sum(
                            db.buffer(),
                            gradOut.buffer(),
                            1,
                            gradOut.shape().rows(),
                            gradOut.shape().cols(),
                            db.accumulate());
        }
    }
}
