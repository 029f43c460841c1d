package dev.loran.engine;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y = residual + h · upᵀ + scaling · upBias with z = x · downᵀ + downBias and h = scaling · dropout(fn(z)), both (N, m).
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
        int in = down.shape().dim(1);
        int m = down.shape().dim(0);
        int out = up.shape().dim(0);
        try (Scratch scratch = new Scratch(be)) {
            Buffer y = scratch.allocate(x.dtype(), shape.size());
            Tensor z = Tensor.own(Shape.of(n, m), scratch.allocate(x.dtype(), (long) n * m));
            Tensor h = Tensor.own(z.shape(), scratch.like(z.buffer()));
            be.linear(z.buffer(), x.buffer(), down.buffer(), null, n, in, m);
            be.biasActivation(fn, h.buffer(), z.buffer(), buffer(downBias), mask, n, m, scaling);
            be.linear(y, h.buffer(), up.buffer(), null, n, m, out);
            if (upBias != null || residual != null) {
                be.biasResidual(y, buffer(upBias), buffer(residual), n, out, scaling);
            }
            return Autograd.record(
                    new BottleneckOp(fn, x, residual, down, downBias, up, upBias, z, h, mask, scaling),
                    shape,
                    y.retain());
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

    /// Whether anything before the second product takes part in differentiation.
    private boolean wantsInner() {
        return x.requiresGrad() || down.requiresGrad() || downBias != null && downBias.requiresGrad();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Buffer dy = gradOut.buffer();
        Backend be = x.backend();
        int n = x.shape().rows();
        int m = down.shape().dim(0);
        int out = up.shape().dim(0);
        if (residual != null && gradients.wants(residual)) {
            gradients.pass(residual, dy);
        }
        if (gradients.wants(up)) {
            Gradients.Target du = gradients.into(up);
            be.linearBackwardWeight(du.buffer(), dy, h.buffer(), n, m, out, du.accumulate());
        }
        if (upBias != null && gradients.wants(upBias)) {
            biasBackward(upBias, gradOut, gradients);
        }
        if (wantsInner()) {
            try (Scratch scratch = new Scratch(be)) {
                Buffer dz = scratch.like(z.buffer());
                be.linearBackwardInput(dz, dy, up.buffer(), n, m, out, false);
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
        Gradients.Target db = gradients.into(bias);
        try (Scratch scratch = new Scratch(be)) {
            Buffer sum = scratch.like(bias.buffer());
            be.sum(sum, gradOut.buffer(), 1, x.shape().rows(), up.shape().dim(0), false);
            be.axpby(db.buffer(), sum, scaling, db.accumulate() ? 1 : 0);
        }
    }

    /// `dz` holds the gradient of h.
    private void innerBackward(Buffer dz, Gradients gradients) {
        Backend be = x.backend();
        int n = x.shape().rows();
        int in = down.shape().dim(1);
        int m = down.shape().dim(0);
        Gradients.Target db = downBias != null && gradients.wants(downBias) ? gradients.into(downBias) : null;
        be.biasActivationBackward(
                fn,
                dz,
                db == null ? null : db.buffer(),
                z.buffer(),
                mask,
                n,
                m,
                scaling,
                db != null && db.accumulate());
        if (gradients.wants(down)) {
            Gradients.Target dd = gradients.into(down);
            be.linearBackwardWeight(dd.buffer(), dz, x.buffer(), n, in, m, dd.accumulate());
        }
        if (gradients.wants(x)) {
            Gradients.Target dx = gradients.into(x);
            be.linearBackwardInput(dx.buffer(), dz, down.buffer(), n, in, m, dx.accumulate());
        }
    }
}
