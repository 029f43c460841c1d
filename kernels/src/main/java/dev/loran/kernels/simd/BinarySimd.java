package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.BinaryFn;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;

/// y = f(a, b) with broadcasting, and y = alpha · x + beta · y.
///
/// Adjacent dimensions that can be merged in all three operands are merged first. What remains is rows: along the last
/// dimension, an operand is dense, a single number, or (rarely) neither; the other dimensions only determine where a
/// row begins. The gradient of a broadcast is a sum ([ReductionSimd]).
final class BinarySimd {
    private BinarySimd() {}

    /// y ← fn(a, b) over `shape`; strides in elements, 0 where an operand is broadcast; y is dense.
    static void binary(
            Parallel parallel,
            BinaryFn fn,
            MemorySegment y,
            MemorySegment a,
            MemorySegment b,
            int[] shape,
            int[] aStrides,
            int[] bStrides) {
        Rows rows = Rows.of(shape, aStrides, bStrides);
        if (rows.count == 1 && rows.n > Vectors.CHUNK) {
            Vectors.forChunks(parallel, rows.n, (at, size) -> {
                row(fn, y, at, a, at * rows.aStep, b, at * rows.bStep, size, rows.aStep, rows.bStep);
            });
            return;
        }
        Vectors.forRows(parallel, rows.count, rows.n, (from, to) -> {
            for (int i = from; i < to; i++) {
                long ao = 4 * rows.offset(i, rows.aStrides);
                long bo = 4 * rows.offset(i, rows.bStrides);
                row(fn, y, 4L * i * rows.n, a, ao, b, bo, rows.n, rows.aStep, rows.bStep);
            }
        });
    }

    /// All dimensions but the last of a collapsed shape, and the last one: `n` elements, in which the operands advance
    /// by `aStep` and `bStep`.
    private record Rows(int[] dims, int[] aStrides, int[] bStrides, int count, int n, int aStep, int bStep) {
        static Rows of(int[] shape, int[] aStrides, int[] bStrides) {
            int[] dims = new int[shape.length + 1];
            int[] as = new int[shape.length + 1];
            int[] bs = new int[shape.length + 1];
            dims[0] = 1;
            int last = 0;
            long size = 1;
            for (int i = 0; i < shape.length; i++) {
                size *= shape[i];
                if (shape[i] == 1) {
                    continue;
                }
                boolean joins =
                        dims[last] == 1 || as[last] == aStrides[i] * shape[i] && bs[last] == bStrides[i] * shape[i];
                if (joins) {
                    dims[last] *= shape[i];
                } else {
                    dims[++last] = shape[i];
                }
                as[last] = aStrides[i];
                bs[last] = bStrides[i];
            }
            int n = dims[last];
            int count = Math.toIntExact(size / Math.max(1, n));
            return new Rows(
                    Arrays.copyOf(dims, last),
                    Arrays.copyOf(as, last),
                    Arrays.copyOf(bs, last),
                    count,
                    n,
                    as[last],
                    bs[last]);
        }

        /// The position of row `i` of an operand, in elements.
        long offset(int i, int[] strides) {
            long offset = 0;
            int left = i;
            for (int d = dims.length - 1; d >= 0; d--) {
                offset += (long) (left % dims[d]) * strides[d];
                left /= dims[d];
            }
            return offset;
        }
    }

    private static void row(
            BinaryFn fn,
            MemorySegment y,
            long yo,
            MemorySegment a,
            long ao,
            MemorySegment b,
            long bo,
            int n,
            int aStep,
            int bStep) {
        if (aStep == 1 && bStep == 1) {
            switch (fn) {
                case ADD -> add(y, yo, a, ao, b, bo, n);
                case SUB -> sub(y, yo, a, ao, b, bo, n);
                case MUL -> mul(y, yo, a, ao, b, bo, n);
                case DIV -> div(y, yo, a, ao, b, bo, n);
                case MAX -> max(y, yo, a, ao, b, bo, n);
            }
        } else if (aStep == 1 && bStep == 0) {
            float s = get(b, bo);
            switch (fn) {
                case ADD -> addScalar(y, yo, a, ao, s, n);
                case SUB -> addScalar(y, yo, a, ao, -s, n);
                case MUL -> mulScalar(y, yo, a, ao, s, n);
                case DIV -> divScalar(y, yo, a, ao, s, n);
                case MAX -> maxScalar(y, yo, a, ao, s, n);
            }
        } else if (aStep == 0 && bStep == 1) {
            float s = get(a, ao);
            switch (fn) {
                case ADD -> addScalar(y, yo, b, bo, s, n);
                case SUB -> subFrom(y, yo, s, b, bo, n);
                case MUL -> mulScalar(y, yo, b, bo, s, n);
                case DIV -> divInto(y, yo, s, b, bo, n);
                case MAX -> maxScalar(y, yo, b, bo, s, n);
            }
        } else {
            for (int i = 0; i < n; i++) {
                set(y, yo + 4L * i, apply(fn, get(a, ao + 4L * i * aStep), get(b, bo + 4L * i * bStep)));
            }
        }
    }

    private static float apply(BinaryFn fn, float a, float b) {
        return switch (fn) {
            case ADD -> a + b;
            case SUB -> a - b;
            case MUL -> a * b;
            case DIV -> a / b;
            case MAX -> Math.max(a, b);
        };
    }

    private static void add(MemorySegment y, long yo, MemorySegment a, long ao, MemorySegment b, long bo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(a, ao + 4L * i).add(load(b, bo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(a, ao + 4L * i) + get(b, bo + 4L * i));
        }
    }

    private static void addScalar(MemorySegment y, long yo, MemorySegment x, long xo, float s, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(x, xo + 4L * i).add(s));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(x, xo + 4L * i) + s);
        }
    }

    private static void sub(MemorySegment y, long yo, MemorySegment a, long ao, MemorySegment b, long bo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(a, ao + 4L * i).sub(load(b, bo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(a, ao + 4L * i) - get(b, bo + 4L * i));
        }
    }

    private static void subFrom(MemorySegment y, long yo, float s, MemorySegment x, long xo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, splat(s).sub(load(x, xo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, s - get(x, xo + 4L * i));
        }
    }

    private static void mul(MemorySegment y, long yo, MemorySegment a, long ao, MemorySegment b, long bo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(a, ao + 4L * i).mul(load(b, bo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(a, ao + 4L * i) * get(b, bo + 4L * i));
        }
    }

    static void mulScalar(MemorySegment y, long yo, MemorySegment x, long xo, float s, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(x, xo + 4L * i).mul(s));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(x, xo + 4L * i) * s);
        }
    }

    private static void div(MemorySegment y, long yo, MemorySegment a, long ao, MemorySegment b, long bo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(a, ao + 4L * i).div(load(b, bo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(a, ao + 4L * i) / get(b, bo + 4L * i));
        }
    }

    private static void divScalar(MemorySegment y, long yo, MemorySegment x, long xo, float s, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(x, xo + 4L * i).div(s));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(x, xo + 4L * i) / s);
        }
    }

    private static void divInto(MemorySegment y, long yo, float s, MemorySegment x, long xo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, splat(s).div(load(x, xo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, s / get(x, xo + 4L * i));
        }
    }

    private static void max(MemorySegment y, long yo, MemorySegment a, long ao, MemorySegment b, long bo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(a, ao + 4L * i).max(load(b, bo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, Math.max(get(a, ao + 4L * i), get(b, bo + 4L * i)));
        }
    }

    private static void maxScalar(MemorySegment y, long yo, MemorySegment x, long xo, float s, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(x, xo + 4L * i).max(s));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, Math.max(get(x, xo + 4L * i), s));
        }
    }

    /// y ← alpha · x + beta · y for `n` elements; with beta = 0 the previous contents of y do not matter.
    static void axpby(Parallel parallel, MemorySegment y, MemorySegment x, long n, float alpha, float beta) {
        Vectors.forChunks(parallel, n, (at, size) -> {
            if (beta == 0) {
                mulScalar(y, at, x, at, alpha, size);
            } else {
                axpby(y, at, x, at, size, alpha, beta);
            }
        });
    }

    /// The same for one row.
    static void axpby(MemorySegment y, long yo, MemorySegment x, long xo, int n, float alpha, float beta) {
        FloatVector va = splat(alpha);
        int i = 0;
        for (; i < bound(n); i += V) {
            store(
                    y,
                    yo + 4L * i,
                    load(x, xo + 4L * i).fma(va, load(y, yo + 4L * i).mul(beta)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, Math.fma(get(x, xo + 4L * i), alpha, get(y, yo + 4L * i) * beta));
        }
    }
}
