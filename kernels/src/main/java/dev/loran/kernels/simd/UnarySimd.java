package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.UnaryFn;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.VectorMath;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// y = f(x) and dx = dy · f′(x), element-wise.
///
/// Every function has its own loops: if a loop selects the function inside, or if a method contains two loops, C2
/// allocates every vector as an object, at five times the cost. The loops process whole vectors; the remaining elements
/// at the end are copied into one.
final class UnarySimd {
    /// Bytes of a vector.
    private static final long VB = 4L * V;

    private UnarySimd() {}

    /// y ← fn(x), `n` elements.
    static void forward(Parallel parallel, UnaryFn fn, MemorySegment y, MemorySegment x, long n) {
        long whole = n - n % V;
        Vectors.forChunks(parallel, whole, (at, size) -> forward(fn, y, x, at, size));
        if (whole < n) {
            long bytes = 4 * (n - whole);
            MemorySegment last = parallel.workspace().segment(Slot.TILE, VB);
            MemorySegment.copy(x, 4 * whole, last, 0, bytes);
            forward(fn, last, last, 0, V);
            MemorySegment.copy(last, 0, y, 4 * whole, bytes);
        }
    }

    private static void forward(UnaryFn fn, MemorySegment y, MemorySegment x, long at, int n) {
        switch (fn) {
            case NEG -> neg(y, x, at, n);
            case ABS -> abs(y, x, at, n);
            case EXP -> exp(y, x, at, n);
            case LOG -> log(y, x, at, n);
            case SQRT -> sqrt(y, x, at, n);
            case RSQRT -> rsqrt(y, x, at, n);
            case RECIPROCAL -> reciprocal(y, x, at, n);
            case SQUARE -> square(y, x, at, n);
            case RELU -> relu(y, x, at, n);
            case GELU -> gelu(y, x, at, n);
            case GELU_TANH -> geluTanh(y, x, at, n);
            case SILU -> silu(y, x, at, n);
            case TANH -> tanh(y, x, at, n);
            case SIGMOID -> sigmoid(y, x, at, n);
        }
    }

    /// dx ← dy · fn′(x) (or +=), `n` elements.
    static void backward(
            Parallel parallel,
            UnaryFn fn,
            MemorySegment dx,
            MemorySegment dy,
            MemorySegment x,
            long n,
            boolean accumulate) {
        long whole = n - n % V;
        Vectors.forChunks(parallel, whole, (at, size) -> backward(fn, dx, dy, x, at, size, accumulate));
        if (whole < n) {
            long bytes = 4 * (n - whole);
            MemorySegment memory = parallel.workspace().segment(Slot.TILE, 3 * VB);
            MemorySegment lastDx = memory.asSlice(0, VB);
            MemorySegment lastDy = memory.asSlice(VB, VB);
            MemorySegment last = memory.asSlice(2 * VB, VB);
            MemorySegment.copy(dx, 4 * whole, lastDx, 0, bytes);
            MemorySegment.copy(dy, 4 * whole, lastDy, 0, bytes);
            MemorySegment.copy(x, 4 * whole, last, 0, bytes);
            backward(fn, lastDx, lastDy, last, 0, V, accumulate);
            MemorySegment.copy(lastDx, 0, dx, 4 * whole, bytes);
        }
    }

    private static void backward(
            UnaryFn fn, MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        switch (fn) {
            case NEG -> negBackward(dx, dy, at, n, accumulate);
            case ABS -> absBackward(dx, dy, x, at, n, accumulate);
            case EXP -> expBackward(dx, dy, x, at, n, accumulate);
            case LOG -> logBackward(dx, dy, x, at, n, accumulate);
            case SQRT -> sqrtBackward(dx, dy, x, at, n, accumulate);
            case RSQRT -> rsqrtBackward(dx, dy, x, at, n, accumulate);
            case RECIPROCAL -> reciprocalBackward(dx, dy, x, at, n, accumulate);
            case SQUARE -> squareBackward(dx, dy, x, at, n, accumulate);
            case RELU -> reluBackward(dx, dy, x, at, n, accumulate);
            case GELU -> geluBackward(dx, dy, x, at, n, accumulate);
            case GELU_TANH -> geluTanhBackward(dx, dy, x, at, n, accumulate);
            case SILU -> siluBackward(dx, dy, x, at, n, accumulate);
            case TANH -> tanhBackward(dx, dy, x, at, n, accumulate);
            case SIGMOID -> sigmoidBackward(dx, dy, x, at, n, accumulate);
        }
    }

    private static void put(MemorySegment dx, long at, FloatVector dy, FloatVector slope, boolean accumulate) {
        FloatVector d;
        if (accumulate) {
            // Not through one of our own methods: C2 does not inline it if it has not yet seen this branch taken often.
            d = dy.fma(slope, FloatVector.fromMemorySegment(Vectors.F, dx, at, ByteOrder.nativeOrder()));
        } else {
            d = dy.mul(slope);
        }
        store(dx, at, d);
    }

    private static void neg(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, load(x, at + 4L * i).neg());
        }
    }

    private static void negBackward(MemorySegment dx, MemorySegment dy, long at, int n, boolean accumulate) {
        if (accumulate) {
            BinarySimd.axpby(dx, at, dy, at, n, -1f, 1f);
        } else {
            BinarySimd.mulScalar(dx, at, dy, at, -1f, n);
        }
    }

    private static void abs(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, load(x, at + 4L * i).abs());
        }
    }

    private static void absBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), absSlope(load(x, a)), accumulate);
        }
    }

    private static FloatVector absSlope(FloatVector x) {
        return x.blend(1f, x.compare(VectorOperators.GT, 0f)).blend(-1f, x.compare(VectorOperators.LT, 0f));
    }

    private static void exp(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, VectorMath.exp(load(x, at + 4L * i)));
        }
    }

    private static void expBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), VectorMath.exp(load(x, a)), accumulate);
        }
    }

    private static void log(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, VectorMath.log(load(x, at + 4L * i)));
        }
    }

    private static void logBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), splat(1f).div(load(x, a)), accumulate);
        }
    }

    private static void sqrt(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, load(x, at + 4L * i).sqrt());
        }
    }

    private static void sqrtBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), sqrtSlope(load(x, a)), accumulate);
        }
    }

    private static FloatVector sqrtSlope(FloatVector x) {
        return splat(0.5f).div(x.sqrt());
    }

    private static void rsqrt(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, splat(1f).div(load(x, at + 4L * i).sqrt()));
        }
    }

    private static void rsqrtBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), rsqrtSlope(load(x, a)), accumulate);
        }
    }

    private static FloatVector rsqrtSlope(FloatVector x) {
        return splat(-0.5f).div(x.mul(x.sqrt()));
    }

    private static void reciprocal(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, splat(1f).div(load(x, at + 4L * i)));
        }
    }

    private static void reciprocalBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), reciprocalSlope(load(x, a)), accumulate);
        }
    }

    private static FloatVector reciprocalSlope(FloatVector x) {
        return splat(-1f).div(x.mul(x));
    }

    private static void square(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, squareOf(load(x, at + 4L * i)));
        }
    }

    private static FloatVector squareOf(FloatVector x) {
        return x.mul(x);
    }

    private static void squareBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), load(x, a).mul(2f), accumulate);
        }
    }

    private static void relu(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, reluOf(load(x, at + 4L * i)));
        }
    }

    /// NaN remains NaN.
    private static FloatVector reluOf(FloatVector x) {
        return x.blend(0f, x.compare(VectorOperators.LE, 0f));
    }

    private static void reluBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), reluSlope(load(x, a)), accumulate);
        }
    }

    private static FloatVector reluSlope(FloatVector x) {
        return splat(0f).blend(1f, x.compare(VectorOperators.GT, 0f));
    }

    private static void gelu(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            FloatVector v = load(x, at + 4L * i);
            store(y, at + 4L * i, v.mul(VectorMath.normalCdf(v)));
        }
    }

    private static void geluBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), VectorMath.geluSlope(load(x, a)), accumulate);
        }
    }

    private static void geluTanh(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            FloatVector v = load(x, at + 4L * i);
            store(y, at + 4L * i, v.mul(VectorMath.tanhCdf(v)));
        }
    }

    private static void geluTanhBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), VectorMath.geluTanhSlope(load(x, a)), accumulate);
        }
    }

    private static void silu(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, siluOf(load(x, at + 4L * i)));
        }
    }

    private static FloatVector siluOf(FloatVector x) {
        return x.mul(VectorMath.sigmoid(x));
    }

    private static void siluBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), siluSlope(load(x, a)), accumulate);
        }
    }

    /// σ(x) · (1 + x · σ(−x))
    private static FloatVector siluSlope(FloatVector x) {
        FloatVector e = VectorMath.expOfMinusAbs(x);
        FloatVector of = VectorMath.ONE.div(e.add(VectorMath.ONE));
        FloatVector ofMinus = e.mul(of);
        var negative = x.compare(VectorOperators.LT, VectorMath.ZERO);
        return of.blend(ofMinus, negative).mul(ofMinus.blend(of, negative).fma(x, VectorMath.ONE));
    }

    static void tanh(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, VectorMath.tanh(load(x, at + 4L * i)));
        }
    }

    private static void tanhBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), tanhSlope(load(x, a)), accumulate);
        }
    }

    /// 1 − tanh² x = 4σ(2x)σ(−2x)
    private static FloatVector tanhSlope(FloatVector x) {
        return sigmoidSlope(x.add(x)).mul(4f);
    }

    private static void sigmoid(MemorySegment y, MemorySegment x, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            store(y, at + 4L * i, VectorMath.sigmoid(load(x, at + 4L * i)));
        }
    }

    private static void sigmoidBackward(
            MemorySegment dx, MemorySegment dy, MemorySegment x, long at, int n, boolean accumulate) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            put(dx, a, load(dy, a), sigmoidSlope(load(x, a)), accumulate);
        }
    }

    /// σ(x)σ(−x) = e / (1 + e)² with e = e^−|x|
    private static FloatVector sigmoidSlope(FloatVector x) {
        FloatVector e = VectorMath.expOfMinusAbs(x);
        FloatVector of = VectorMath.ONE.div(e.add(VectorMath.ONE));
        return e.mul(of).mul(of);
    }
}
