package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;

/// Rotary position embedding in the rotate-half layout. Su et al., "RoFormer", 2021, equation 34.
final class RopeSimd {
    private RopeSimd() {}

    /// y = x rotated by the angles of its position: x is (batch, t, heads, d), cos and sin are (t, d / 2). Sign −1
    /// rotates backward, which gives the gradient. y may be x.
    static void forward(
            Parallel parallel, MemorySegment y, MemorySegment x, RopeTables tables, int batch, int heads, int sign) {
        MemorySegment cos = f32(tables.cos());
        MemorySegment sin = f32(tables.sin());
        int t = tables.t();
        int d = tables.d();
        Vectors.forRows(parallel, batch * t, heads * d, (from, to) -> {
            for (int i = from; i < to; i++) {
                long angles = 2L * (i % t) * d;
                for (int h = 0; h < heads; h++) {
                    turn(y, x, 4 * ((long) i * heads + h) * d, cos, sin, angles, d / 2, sign);
                }
            }
        });
    }

    private static void turn(
            MemorySegment y,
            MemorySegment x,
            long at,
            MemorySegment cos,
            MemorySegment sin,
            long angles,
            int half,
            int sign) {
        long other = at + 4L * half;
        int i = 0;
        for (; i < bound(half); i += V) {
            FloatVector x1 = load(x, at + 4L * i);
            FloatVector x2 = load(x, other + 4L * i);
            FloatVector c = load(cos, angles + 4L * i);
            FloatVector s = load(sin, angles + 4L * i).mul((float) sign);
            store(y, at + 4L * i, x1.mul(c).sub(x2.mul(s)));
            store(y, other + 4L * i, x2.mul(c).add(x1.mul(s)));
        }
        for (; i < half; i++) {
            float x1 = get(x, at + 4L * i);
            float x2 = get(x, other + 4L * i);
            float c = get(cos, angles + 4L * i);
            float s = get(sin, angles + 4L * i) * sign;
            set(y, at + 4L * i, x1 * c - x2 * s);
            set(y, other + 4L * i, x2 * c + x1 * s);
        }
    }
}
