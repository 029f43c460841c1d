package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.bound;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.setFirst;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;

/// One step of an optimizer, in one pass.
final class OptimizerSimd {
    private OptimizerSimd() {}

    /// AdamW (Loshchilov and Hutter, 2019, algorithm 2) on tensors of `sizes` parameters: the corrections of the step are
    /// made once in double precision.
    static void adamW(
            Parallel parallel,
            MemorySegment[] p,
            MemorySegment[] m,
            MemorySegment[] v,
            MemorySegment[] g,
            MemorySegment lr,
            MemorySegment t,
            @Nullable MemorySegment gScale,
            long[] sizes,
            double beta1,
            double beta2,
            double eps,
            double weightDecay) {
        double rate = Vectors.get(lr, 0);
        int step = Vectors.getInt(t, 0);
        float scale = gScale == null ? 1f : Vectors.get(gScale, 0);
        if (Float.isNaN(scale)) {
            return;
        }
        float decay = (float) (-rate * weightDecay);
        float stride = (float) (rate / (1 - Math.pow(beta1, step)));
        float root = (float) (1 / Math.sqrt(1 - Math.pow(beta2, step)));
        Moments moments =
                new Moments((float) beta1, (float) (1 - beta1), (float) beta2, (float) (1 - beta2), (float) eps);
        Vectors.forChunks(
                parallel,
                sizes,
                (_, k, at, size) -> adamW(p[k], m[k], v[k], g[k], at, size, moments, scale, decay, stride, root));
    }

    private record Moments(float beta1, float rest1, float beta2, float rest2, float eps) {}

    private static void adamW(
            MemorySegment p,
            MemorySegment m,
            MemorySegment v,
            MemorySegment g,
            long at,
            int n,
            Moments c,
            float scale,
            float decay,
            float stride,
            float root) {
        FloatVector beta1 = splat(c.beta1);
        FloatVector rest1 = splat(c.rest1);
        FloatVector beta2 = splat(c.beta2);
        FloatVector rest2 = splat(c.rest2);
        FloatVector eps = splat(c.eps);
        FloatVector scales = splat(scale);
        FloatVector strides = splat(stride);
        FloatVector roots = splat(root);
        FloatVector decays = splat(decay);
        int i = 0;
        for (; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector gradient = load(g, a).mul(scales);
            FloatVector first = load(m, a).fma(beta1, gradient.mul(rest1));
            FloatVector second = load(v, a).fma(beta2, gradient.mul(gradient).mul(rest2));
            store(m, a, first);
            store(v, a, second);
            FloatVector step = first.mul(strides).div(second.sqrt().fma(roots, eps));
            FloatVector old = load(p, a);
            store(p, a, old.fma(decays, old).sub(step));
        }
        if (i < n) {
            adamWTail(p, m, v, g, at + 4L * i, n - i, c, scale, decay, stride, root);
        }
    }

    /// The same, one by one. A method of its own: with both loops in one, C2 leaves the vectors of the first in objects.
    private static void adamWTail(
            MemorySegment p,
            MemorySegment m,
            MemorySegment v,
            MemorySegment g,
            long at,
            int n,
            Moments c,
            float scale,
            float decay,
            float stride,
            float root) {
        for (int i = 0; i < n; i++) {
            long a = at + 4L * i;
            float gradient = get(g, a) * scale;
            float first = Math.fma(get(m, a), c.beta1, gradient * c.rest1);
            float second = Math.fma(get(v, a), c.beta2, gradient * gradient * c.rest2);
            set(m, a, first);
            set(v, a, second);
            float step = first * stride / Math.fma((float) Math.sqrt(second), root, c.eps);
            float old = get(p, a);
            set(p, a, Math.fma(old, decay, old) - step);
        }
    }

    /// SGD in torch's form on `n` parameters.
    static void sgd(
            Parallel parallel,
            MemorySegment p,
            @Nullable MemorySegment velocity,
            MemorySegment g,
            MemorySegment lr,
            @Nullable MemorySegment gScale,
            long n,
            float momentum,
            float weightDecay) {
        float rate = Vectors.get(lr, 0);
        float scale = gScale == null ? 1f : Vectors.get(gScale, 0);
        if (Float.isNaN(scale)) {
            return;
        }
        Vectors.forChunks(parallel, n, (at, size) -> {
            if (velocity == null) {
                plain(p, g, at, size, rate, scale, weightDecay);
            } else {
                withMomentum(p, velocity, g, at, size, rate, scale, momentum, weightDecay);
            }
        });
    }

    private static void plain(
            MemorySegment p, MemorySegment g, long at, int n, float rate, float scale, float weightDecay) {
        FloatVector decay = splat(weightDecay);
        int i = 0;
        for (; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector old = load(p, a);
            store(p, a, old.sub(old.fma(decay, load(g, a).mul(scale)).mul(rate)));
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            FloatVector old = splat(p, a);
            setFirst(p, a, old.sub(old.fma(decay, splat(g, a).mul(scale)).mul(rate)));
        }
    }

    private static void withMomentum(
            MemorySegment p,
            MemorySegment velocity,
            MemorySegment g,
            long at,
            int n,
            float rate,
            float scale,
            float momentum,
            float weightDecay) {
        FloatVector decay = splat(weightDecay);
        FloatVector carry = splat(momentum);
        int i = 0;
        for (; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector old = load(p, a);
            FloatVector direction =
                    load(velocity, a).fma(carry, old.fma(decay, load(g, a).mul(scale)));
            store(velocity, a, direction);
            store(p, a, old.sub(direction.mul(rate)));
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            FloatVector old = splat(p, a);
            FloatVector direction =
                    splat(velocity, a).fma(carry, old.fma(decay, splat(g, a).mul(scale)));
            setFirst(velocity, a, direction);
            setFirst(p, a, old.sub(direction.mul(rate)));
        }
    }
}
