package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.setFirst;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import java.util.List;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;

/// Optimizer steps, each in a single pass.
record OptimizerSimd(Backend backend, Parallel parallel) implements OptimizerKernels {
    @Override
    public void sumOfSquares(Buffer y, List<Buffer> xs) {
        ReductionSimd.sumOfSquares(parallel, f32(y), all(xs), sizes(xs));
    }

    private static MemorySegment[] all(List<Buffer> buffers) {
        return buffers.stream().map(SimdBackend::f32).toArray(MemorySegment[]::new);
    }

    private static long[] sizes(List<Buffer> buffers) {
        return buffers.stream().mapToLong(Buffer::size).toArray();
    }

    /// The factor applied to gradients; NaN means that the step is skipped.
    private static float scale(@Nullable Buffer gScale) {
        return gScale == null ? 1f : Vectors.get(f32(gScale), 0);
    }

    /// The bias corrections of the step are computed once, in double precision.
    @Override
    public void adamW(List<Buffer> p, List<Buffer> m, List<Buffer> v, List<Buffer> g, AdamWStep by) {
        double rate = Vectors.get(f32(by.lr()), 0);
        int step = Vectors.getInt(SimdOperations.i32(by.t()), 0);
        float scale = scale(by.gScale());
        MemorySegment[] ps = all(p);
        MemorySegment[] ms = all(m);
        MemorySegment[] vs = all(v);
        MemorySegment[] gs = all(g);
        if (Float.isNaN(scale)) {
            return;
        }
        double beta1 = by.beta1();
        double beta2 = by.beta2();
        Factors c = new Factors(
                (float) beta1,
                (float) (1 - beta1),
                (float) beta2,
                (float) (1 - beta2),
                (float) by.eps(),
                scale,
                (float) (-rate * by.weightDecay()),
                (float) (rate / (1 - Math.pow(beta1, step))),
                (float) (1 / Math.sqrt(1 - Math.pow(beta2, step))));
        Vectors.forChunks(parallel, sizes(p), (_, k, at, size) -> adamW(ps[k], ms[k], vs[k], gs[k], at, size, c));
    }

    /// The factors of an AdamW step.
    private record Factors(
            float beta1,
            float rest1,
            float beta2,
            float rest2,
            float eps,
            float scale,
            float decay,
            float stride,
            float root) {}

    private static void adamW(
            MemorySegment p, MemorySegment m, MemorySegment v, MemorySegment g, long at, int n, Factors c) {
        FloatVector beta1 = splat(c.beta1);
        FloatVector rest1 = splat(c.rest1);
        FloatVector beta2 = splat(c.beta2);
        FloatVector rest2 = splat(c.rest2);
        FloatVector eps = splat(c.eps);
        FloatVector scales = splat(c.scale);
        FloatVector strides = splat(c.stride);
        FloatVector roots = splat(c.root);
        FloatVector decays = splat(c.decay);
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
            adamWTail(p, m, v, g, at + 4L * i, n - i, c);
        }
    }

    /// The same for single elements. This is a separate method because, with both loops in one method, C2 allocates the
    /// vectors of the first loop as objects.
    private static void adamWTail(
            MemorySegment p, MemorySegment m, MemorySegment v, MemorySegment g, long at, int n, Factors c) {
        for (int i = 0; i < n; i++) {
            long a = at + 4L * i;
            float gradient = get(g, a) * c.scale;
            float first = Math.fma(get(m, a), c.beta1, gradient * c.rest1);
            float second = Math.fma(get(v, a), c.beta2, gradient * gradient * c.rest2);
            set(m, a, first);
            set(v, a, second);
            float step = first * c.stride / Math.fma((float) Math.sqrt(second), c.root, c.eps);
            float old = get(p, a);
            set(p, a, Math.fma(old, c.decay, old) - step);
        }
    }

    /// The factors of an SGD step.
    private record SgdFactors(float rate, float scale, float momentum, float weightDecay) {}

    @Override
    public void sgd(
            Buffer p,
            @Nullable Buffer velocity,
            Buffer g,
            Buffer lr,
            @Nullable Buffer gScale,
            double momentum,
            double weightDecay) {
        MemorySegment to = f32(p);
        MemorySegment moving = SimdOperations.optional(velocity);
        MemorySegment gradient = f32(g);
        float rate = Vectors.get(f32(lr), 0);
        SgdFactors c = new SgdFactors(rate, scale(gScale), (float) momentum, (float) weightDecay);
        if (Float.isNaN(c.scale)) {
            return;
        }
        Vectors.forChunks(parallel, p.size(), (at, size) -> {
            if (moving == null) {
                plain(to, gradient, at, size, c);
            } else {
                withMomentum(to, moving, gradient, at, size, c);
            }
        });
    }

    private static void plain(MemorySegment p, MemorySegment g, long at, int n, SgdFactors c) {
        float rate = c.rate;
        float scale = c.scale;
        FloatVector decay = splat(c.weightDecay);
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
            MemorySegment p, MemorySegment velocity, MemorySegment g, long at, int n, SgdFactors c) {
        float rate = c.rate;
        float scale = c.scale;
        FloatVector decay = splat(c.weightDecay);
        FloatVector carry = splat(c.momentum);
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
