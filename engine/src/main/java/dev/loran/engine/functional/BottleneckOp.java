package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.backend.UnaryFn;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y = residual + h · upᵀ + scaling · upBias with z = x · downᵀ + downBias and h = scaling · dropout(fn(z)), both (N,
/// m).
record BottleneckOp(
        UnaryFn fn,
        Tensor x,
        @Nullable Tensor residual,
        Tensor down,
        @Nullable Tensor downBias,
        Tensor up,
        @Nullable Tensor upBias,
        Tensor z,
        Tensor h,
        @Nullable DropoutMask mask,
        double scaling)
        implements Op {

    static Tensor forward(
            UnaryFn fn,
            Tensor x,
            @Nullable Tensor residual,
            Tensor down,
            @Nullable Tensor downBias,
            Tensor up,
            @Nullable Tensor upBias,
            double scaling,
            @Nullable DropoutMask mask) {
        Shape shape = check(x, residual, down, downBias, up, upBias, mask);
        Backend be = x.backend();
        int n = x.shape().rows();
        int m = down.shape().dim(0);
        try (Scratch scratch = new Scratch(be)) {
            Matrix y = new Matrix(
                    scratch.allocate(x.dtype(), shape.size()), n, up.shape().dim(0));
            Tensor z = Tensor.own(Shape.of(n, m), scratch.allocate(x.dtype(), (long) n * m));
            Tensor h = Tensor.own(z.shape(), scratch.like(z.buffer()));
            be.linear().linear(z.matrix(), x.matrix(), down.matrix(), null);
            be.activation().biasActivation(fn, h.buffer(), z.matrix(), buffer(downBias), mask, scaling);
            be.linear().linear(y, h.matrix(), up.matrix(), null);
            if (upBias != null || residual != null) {
                be.activation().biasResidual(y, buffer(upBias), buffer(residual), scaling);
            }
            return Autograd.record(
                    new BottleneckOp(fn, x, residual, down, downBias, up, upBias, z, h, mask, scaling),
                    shape,
                    y.buffer().retain());
        }
    }

    private static Shape check(
            Tensor x,
            @Nullable Tensor residual,
            Tensor down,
            @Nullable Tensor downBias,
            Tensor up,
            @Nullable Tensor upBias,
            @Nullable DropoutMask mask) {
        String op = "bottleneck";
        Checks.operand(op, "x", x);
        Checks.same(op, "down", down, "x", x);
        Checks.same(op, "up", up, "x", x);
        Checks.mask(op, mask, x);
        Shape d = down.shape();
        Shape u = up.shape();
        if (d.rank() != 2
                || u.rank() != 2
                || d.dim(0) != u.dim(1)
                || x.shape().rank() < 1
                || x.shape().cols() != d.dim(1)) {
            throw new ShapeException("bottleneck: down is " + d + " as (m, in) and up is " + u
                    + " as (out, m) but x is " + x.shape() + " as (…, in)");
        }
        Checks.vector(op, "downBias", downBias, d.dim(0), x);
        Checks.vector(op, "upBias", upBias, u.dim(0), x);
        Shape shape = x.shape().withCols(u.dim(0));
        if (residual != null) {
            Checks.operand(op, "residual", residual, "x", x);
            if (!residual.shape().equals(shape)) {
                throw new ShapeException("bottleneck: residual is " + residual.shape() + " but the result is " + shape);
            }
        }
        return shape;
    }

    private static @Nullable Buffer buffer(@Nullable Tensor t) {
        return t == null ? null : t.buffer();
    }

    @Override
    public List<Tensor> inputs() {
        List<Tensor> inputs = new ArrayList<>(List.of(x, down, up));
        for (Tensor t : new @Nullable Tensor[] {residual, downBias, upBias}) {
            if (t != null) {
                inputs.add(t);
            }
        }
        return inputs;
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(5);
        if (up.requiresGrad()) {
            saved.add(h);
        }
        if (wantsInner()) {
            saved.add(z);
            saved.add(up);
        }
        if (down.requiresGrad()) {
            saved.add(x);
        }
        if (x.requiresGrad()) {
            saved.add(down);
        }
        return saved;
    }

    /// Whether anything before the second product requires a gradient.
    private boolean wantsInner() {
        return x.requiresGrad() || down.requiresGrad() || downBias != null && downBias.requiresGrad();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Matrix dy = gradOut.matrix();
        Backend be = x.backend();
        if (residual != null && gradients.wants(residual)) {
            gradients.pass(residual, dy.buffer());
        }
        if (gradients.wants(up)) {
            be.linear().linearBackwardWeight(gradients.into(up), dy, h.matrix());
        }
        if (upBias != null && gradients.wants(upBias)) {
            biasBackward(upBias, gradOut, gradients);
        }
        if (wantsInner()) {
            try (Scratch scratch = new Scratch(be)) {
                Matrix dz = z.matrix().in(scratch.like(z.buffer()));
                be.linear().linearBackwardInput(new Gradient(dz.buffer(), false), dy, up.matrix());
                innerBackward(dz, gradients);
            }
        }
    }

    private void biasBackward(Tensor bias, Tensor gradOut, Gradients gradients) {
        if (scaling == 1) {
            LinearOp.biasBackward(bias, gradOut, gradients);
            return;
        }
        Backend be = bias.backend();
        Gradient db = gradients.into(bias);
        try (Scratch scratch = new Scratch(be)) {
            Buffer sum = scratch.like(bias.buffer());
            be.sum(sum, gradOut.buffer(), 1, x.shape().rows(), up.shape().dim(0), false);
            be.axpby(db.buffer(), sum, scaling, db.accumulate() ? 1 : 0);
        }
    }

    /// Backward of the activation and of the first product; `dz` holds the gradient of h on entry.
    private void innerBackward(Matrix dz, Gradients gradients) {
        Backend be = x.backend();
        Gradient db = downBias == null ? null : gradients.intoIfWanted(downBias);
        be.activation().biasActivationBackward(fn, dz, db, z.buffer(), mask, scaling);
        if (gradients.wants(down)) {
            be.linear().linearBackwardWeight(gradients.into(down), dz, x.matrix());
        }
        if (gradients.wants(x)) {
            be.linear().linearBackwardInput(gradients.into(x), dz, down.matrix());
        }
    }
}
