package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;

/// Moving elements: fill, block copy, conversion, permutation. Contiguous runs are moved as a whole.
final class CopySimd {
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;

    private CopySimd() {}

    /// y ← value for ids, labels and masks, which are short: a plain loop.
    static void fillInts(MemorySegment y, long n, int value) {
        for (long i = 0; i < n; i++) {
            y.setAtIndex(ValueLayout.JAVA_INT, i, value);
        }
    }

    /// y ← value, `n` floats.
    static void fill(Parallel parallel, MemorySegment y, long n, float value) {
        Vectors.forChunks(parallel, n, (at, size) -> fill(y, at, size, value));
    }

    static void fill(MemorySegment y, long yo, int n, float value) {
        FloatVector v = splat(value);
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, v);
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, value);
        }
    }

    /// `y[i · yStride + j] ← x[i · xStride + j]` for elements of `bytes` bytes.
    static void copy(
            Parallel parallel,
            MemorySegment y,
            int yStride,
            MemorySegment x,
            int xStride,
            int rows,
            int cols,
            int bytes) {
        if (yStride == cols && xStride == cols) {
            long size = (long) bytes * rows * cols;
            long chunk = 4L * Vectors.CHUNK;
            parallel.parallelFor(Math.toIntExact(Math.ceilDiv(size, chunk)), i -> {
                long from = i * chunk;
                MemorySegment.copy(x, from, y, from, Math.min(chunk, size - from));
            });
            return;
        }
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                MemorySegment.copy(x, (long) bytes * i * xStride, y, (long) bytes * i * yStride, (long) bytes * cols);
            }
        });
    }

    /// `y[i · yStride + j] += x[i · xStride + j]` for floats.
    static void addRows(
            Parallel parallel, MemorySegment y, int yStride, MemorySegment x, int xStride, int rows, int cols) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                add(y, 4L * i * yStride, x, 4L * i * xStride, cols);
            }
        });
    }

    /// y += x, one row.
    static void add(MemorySegment y, long yo, MemorySegment x, long xo, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, yo + 4L * i, load(y, yo + 4L * i).add(load(x, xo + 4L * i)));
        }
        for (; i < n; i++) {
            set(y, yo + 4L * i, get(y, yo + 4L * i) + get(x, xo + 4L * i));
        }
    }

    /// y ← x as `yType`, rounded to nearest even, `n` elements.
    static void cast(Parallel parallel, MemorySegment y, DType yType, MemorySegment x, DType xType, long n) {
        if (yType == xType) {
            copy(parallel, y, 1, x, 1, Math.toIntExact(n), 1, yType.bytes());
            return;
        }
        Vectors.forChunks(parallel, n, (at, size) -> {
            long from = at / 4;
            long to = from + size;
            if (yType == DType.F32 && xType == DType.BF16) {
                for (long i = from; i < to; i++) {
                    y.set(INT, 4 * i, x.get(SHORT, 2 * i) << 16);
                }
            } else if (yType == DType.F32 && xType == DType.F16) {
                for (long i = from; i < to; i++) {
                    set(y, 4 * i, Float.float16ToFloat(x.get(SHORT, 2 * i)));
                }
            } else if (yType == DType.BF16 && xType == DType.F32) {
                for (long i = from; i < to; i++) {
                    y.set(SHORT, 2 * i, HostBuffer.toBf16(get(x, 4 * i)));
                }
            } else {
                for (long i = from; i < to; i++) {
                    HostBuffer.set(y, yType, i, HostBuffer.get(x, xType, i));
                }
            }
        });
    }

    /// y ← x with its dimensions permuted: dimension i of y is dimension `perm[i]` of x, which has `shape`; elements
    /// have `bytes` bytes. Trailing dimensions that keep their place move as one run; if the last dimension moves, it
    /// is copied element by element.
    static void permute(Parallel parallel, MemorySegment y, MemorySegment x, int[] shape, int[] perm, int bytes) {
        int rank = shape.length;
        long[] strides = new long[rank];
        long stride = bytes;
        for (int d = rank - 1; d >= 0; d--) {
            strides[d] = stride;
            stride *= shape[d];
        }
        int kept = rank;
        long run = bytes;
        while (kept > 0 && perm[kept - 1] == kept - 1) {
            run *= shape[--kept];
        }
        int[] dims = new int[kept];
        long[] steps = new long[kept];
        for (int d = 0; d < kept; d++) {
            dims[d] = shape[perm[d]];
            steps[d] = strides[perm[d]];
        }
        long length = run;
        if (length == 0) {
            return;
        }
        int count = Math.toIntExact(stride / length);
        int cols = Math.toIntExact(Math.ceilDiv(length, 4));
        Vectors.forRows(parallel, count, cols, (from, to) -> move(y, x, dims, steps, length, from, to, bytes));
    }

    private static void move(
            MemorySegment y, MemorySegment x, int[] dims, long[] steps, long run, int from, int to, int bytes) {
        int[] index = new int[dims.length];
        long at = 0;
        int left = from;
        for (int d = dims.length - 1; d >= 0; d--) {
            index[d] = left % dims[d];
            left /= dims[d];
            at += index[d] * steps[d];
        }
        for (int i = from; i < to; i++) {
            if (run == 4 && bytes == 4) {
                y.set(INT, 4L * i, x.get(INT, at));
            } else {
                MemorySegment.copy(x, at, y, i * run, run);
            }
            for (int d = dims.length - 1; d >= 0; d--) {
                at += steps[d];
                if (++index[d] < dims[d]) {
                    break;
                }
                at -= index[d] * steps[d];
                index[d] = 0;
            }
        }
    }
}
