package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.NormKernels.Statistics;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;

/// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019): a row is read into the first-level cache once,
/// and all passes over it run there. RMS norm is the case without a mean: its `mean` is null.
record NormSimd(Backend backend, Parallel parallel) implements NormKernels {
    private static final int COLUMN_BLOCK = 64;
    private static final int STRIP = 64;

    /// What a forward pass reads and writes.
    ///
    /// @param sum x + residual, an output; x itself without a residual
    /// @param mean an output; null for RMS norm
    private record Forward(
            MemorySegment y,
            MemorySegment sum,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            MemorySegment x,
            @Nullable MemorySegment residual,
            MemorySegment weight,
            @Nullable MemorySegment bias) {}

    @Override
    public void layerNorm(Buffer y, Statistics kept, Matrix x, Buffer weight, Buffer bias, double eps) {
        MemorySegment mean = f32(kept.mean());
        MemorySegment in = f32(x.buffer());
        forward(new Forward(f32(y), in, mean, f32(kept.rstd()), in, null, f32(weight), f32(bias)), x, eps);
    }

    @Override
    public void addLayerNorm(
            Buffer y, Buffer sum, Statistics kept, Matrix x, Buffer residual, Buffer weight, Buffer bias, double eps) {
        MemorySegment mean = f32(kept.mean());
        MemorySegment rstd = f32(kept.rstd());
        MemorySegment in = f32(x.buffer());
        forward(new Forward(f32(y), f32(sum), mean, rstd, in, f32(residual), f32(weight), f32(bias)), x, eps);
    }

    @Override
    public void rmsNorm(Buffer y, Buffer rstd, Matrix x, Buffer weight, double eps) {
        MemorySegment in = f32(x.buffer());
        forward(new Forward(f32(y), in, null, f32(rstd), in, null, f32(weight), null), x, eps);
    }

    @Override
    public void addRmsNorm(Buffer y, Buffer sum, Buffer rstd, Matrix x, Buffer residual, Buffer weight, double eps) {
        MemorySegment in = f32(x.buffer());
        forward(new Forward(f32(y), f32(sum), null, f32(rstd), in, f32(residual), f32(weight), null), x, eps);
    }

    private void forward(Forward a, Matrix shape, double eps) {
        MemorySegment y = a.y;
        MemorySegment sum = a.sum;
        MemorySegment mean = a.mean;
        MemorySegment rstd = a.rstd;
        MemorySegment x = a.x;
        MemorySegment residual = a.residual;
        MemorySegment weight = a.weight;
        MemorySegment bias = a.bias;
        int cols = shape.cols();
        Vectors.forRows(parallel, shape.rows(), cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                long at = 4L * i * cols;
                if (residual != null) {
                    add(sum, x, residual, at, cols);
                }
                float m = 0;
                double squares;
                if (mean == null) {
                    squares = ReductionSimd.sumOfSquares(sum, at, cols);
                } else {
                    m = ReductionSimd.sum(sum, at, cols) / cols;
                    set(mean, 4L * i, m);
                    squares = squaredDistance(sum, at, cols, m);
                }
                float r = (float) (1 / Math.sqrt(squares / cols + eps));
                set(rstd, 4L * i, r);
                if (bias == null) {
                    scale(y, sum, at, weight, cols, m, r);
                } else {
                    scaleAndShift(y, sum, at, weight, bias, cols, m, r);
                }
            }
        });
    }

    private static void add(MemorySegment sum, MemorySegment x, MemorySegment residual, long at, int n) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(sum, at + 4L * i, load(x, at + 4L * i).add(load(residual, at + 4L * i)));
        }
        for (; i < n; i++) {
            set(sum, at + 4L * i, get(x, at + 4L * i) + get(residual, at + 4L * i));
        }
    }

    /// Σ (x − m)²
    private static float squaredDistance(MemorySegment x, long xo, int n, float m) {
        FloatVector s0 = splat(0f);
        FloatVector s1 = s0;
        int i = 0;
        for (; i <= n - 2 * V; i += 2 * V) {
            FloatVector d0 = load(x, xo + 4L * i).sub(m);
            FloatVector d1 = load(x, xo + 4L * (i + V)).sub(m);
            s0 = d0.fma(d0, s0);
            s1 = d1.fma(d1, s1);
        }
        for (; i < bound(n); i += V) {
            FloatVector d = load(x, xo + 4L * i).sub(m);
            s0 = d.fma(d, s0);
        }
        float sum = Vectors.sum(s0.add(s1));
        for (; i < n; i++) {
            float d = get(x, xo + 4L * i) - m;
            sum = Math.fma(d, d, sum);
        }
        return sum;
    }

    private static void scale(
            MemorySegment y, MemorySegment x, long at, MemorySegment weight, int n, float m, float r) {
        int i = 0;
        for (; i < bound(n); i += V) {
            store(y, at + 4L * i, load(x, at + 4L * i).sub(m).mul(r).mul(load(weight, 4L * i)));
        }
        for (; i < n; i++) {
            set(y, at + 4L * i, (get(x, at + 4L * i) - m) * r * get(weight, 4L * i));
        }
    }

    private static void scaleAndShift(
            MemorySegment y,
            MemorySegment x,
            long at,
            MemorySegment weight,
            MemorySegment bias,
            int n,
            float m,
            float r) {
        int i = 0;
        for (; i < bound(n); i += V) {
            FloatVector xHat = load(x, at + 4L * i).sub(m).mul(r);
            store(y, at + 4L * i, xHat.fma(load(weight, 4L * i), load(bias, 4L * i)));
        }
        for (; i < n; i++) {
            float xHat = (get(x, at + 4L * i) - m) * r;
            set(y, at + 4L * i, Math.fma(xHat, get(weight, 4L * i), get(bias, 4L * i)));
        }
    }

    /// What a backward pass reads; `mean` is null for RMS norm.
    private record Backward(
            MemorySegment dy,
            MemorySegment x,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            MemorySegment weight,
            int rows,
            int cols) {
        float mean(int row) {
            return mean == null ? 0 : get(mean, 4L * row);
        }
    }

    @Override
    public void layerNormBackward(
            @Nullable Gradient dx,
            @Nullable Gradient dWeight,
            @Nullable Gradient dBias,
            Buffer dy,
            Matrix x,
            Statistics kept,
            Buffer weight) {
        int rows = x.rows();
        int cols = x.cols();
        if (dBias != null) {
            ReductionSimd.sum(parallel, f32(dBias.buffer()), f32(dy), 1, rows, cols, dBias.accumulate());
        }
        MemorySegment mean = f32(kept.mean());
        MemorySegment rstd = f32(kept.rstd());
        backward(dx, dWeight, new Backward(f32(dy), f32(x.buffer()), mean, rstd, f32(weight), rows, cols));
    }

    @Override
    public void rmsNormBackward(
            @Nullable Gradient dx, @Nullable Gradient dWeight, Buffer dy, Matrix x, Buffer rstd, Buffer weight) {
        MemorySegment in = f32(x.buffer());
        backward(dx, dWeight, new Backward(f32(dy), in, null, f32(rstd), f32(weight), x.rows(), x.cols()));
    }

    private void backward(@Nullable Gradient dx, @Nullable Gradient dWeight, Backward a) {
        int cols = a.cols;
        if (dWeight != null) {
            MemorySegment to = f32(dWeight.buffer());
            parallel.parallelFor(Math.ceilDiv(cols, STRIP), strip -> {
                int from = strip * STRIP;
                weightStrip(a, to, from, Math.min(cols, from + STRIP), dWeight.accumulate());
            });
        }
        if (dx != null) {
            MemorySegment to = f32(dx.buffer());
            Vectors.forRows(parallel, a.rows, cols, (from, end) -> {
                for (int i = from; i < end; i++) {
                    inputRow(a, to, i, dx.accumulate());
                }
            });
        }
    }

    private static void inputRow(Backward a, MemorySegment dx, int row, boolean accumulate) {
        MemorySegment dy = a.dy;
        MemorySegment x = a.x;
        MemorySegment weight = a.weight;
        int n = a.cols;
        long at = 4L * row * n;
        float m = a.mean(row);
        float r = get(a.rstd, 4L * row);
        float gMean = a.mean == null ? 0 : ReductionSimd.dot(dy, at, weight, 0, n) / n;
        float gxMean = sumOfProducts(dy, x, at, weight, n, m) * r / n;
        int i = 0;
        FloatVector minusGxMean = splat(-gxMean);
        for (; i < bound(n); i += V) {
            FloatVector g = load(dy, at + 4L * i).mul(load(weight, 4L * i));
            FloatVector xHat = load(x, at + 4L * i).sub(m).mul(r);
            FloatVector d = xHat.fma(minusGxMean, g.sub(gMean)).mul(r);
            Vectors.put(dx, at + 4L * i, d, accumulate);
        }
        for (; i < n; i++) {
            float xHat = (get(x, at + 4L * i) - m) * r;
            float d = (get(dy, at + 4L * i) * get(weight, 4L * i) - gMean - xHat * gxMean) * r;
            set(dx, at + 4L * i, accumulate ? get(dx, at + 4L * i) + d : d);
        }
    }

    /// Σ dy · weight · (x − m)
    private static float sumOfProducts(
            MemorySegment dy, MemorySegment x, long at, MemorySegment weight, int n, float m) {
        FloatVector lanes = splat(0f);
        int i = 0;
        for (; i < bound(n); i += V) {
            FloatVector g = load(dy, at + 4L * i).mul(load(weight, 4L * i));
            lanes = load(x, at + 4L * i).sub(m).fma(g, lanes);
        }
        float sum = Vectors.sum(lanes);
        for (; i < n; i++) {
            sum += get(dy, at + 4L * i) * get(weight, 4L * i) * (get(x, at + 4L * i) - m);
        }
        return sum;
    }

    /// Computes columns `from` to `to` of dWeight over all rows, in blocks of rows, as [ReductionSimd] does.
    private static void weightStrip(Backward a, MemorySegment dWeight, int from, int to, boolean accumulate) {
        int j = from;
        for (; j <= to - 2 * V; j += 2 * V) {
            weightColumns(a, dWeight, j, V, accumulate);
        }
        for (; j <= to - V; j += V) {
            weightColumns(a, dWeight, j, 0, accumulate);
        }
        for (; j < to; j++) {
            double sum = 0;
            for (int row = 0; row < a.rows; row++) {
                long at = 4 * ((long) row * a.cols + j);
                sum += get(a.dy, at) * (get(a.x, at) - a.mean(row)) * get(a.rstd, 4L * row);
            }
            set(dWeight, 4L * j, (float) (accumulate ? get(dWeight, 4L * j) + sum : sum));
        }
    }

    /// Computes the vector of columns starting at `j` and the one `apart` columns after it, which may be the same one.
    private static void weightColumns(Backward a, MemorySegment dWeight, int j, int apart, boolean accumulate) {
        MemorySegment dy = a.dy;
        MemorySegment x = a.x;
        MemorySegment mean = a.mean;
        MemorySegment rstd = a.rstd;
        int rows = a.rows;
        int cols = a.cols;
        FloatVector all0 = splat(0f);
        FloatVector all1 = all0;
        for (int block = 0; block < rows; block += COLUMN_BLOCK) {
            FloatVector sum0 = splat(0f);
            FloatVector sum1 = sum0;
            for (int row = block; row < Math.min(rows, block + COLUMN_BLOCK); row++) {
                long at = 4 * ((long) row * cols + j);
                float m = mean == null ? 0 : get(mean, 4L * row);
                float r = get(rstd, 4L * row);
                sum0 = load(dy, at).fma(load(x, at).sub(m).mul(r), sum0);
                sum1 = load(dy, at + 4L * apart)
                        .fma(load(x, at + 4L * apart).sub(m).mul(r), sum1);
            }
            all0 = all0.add(sum0);
            all1 = all1.add(sum1);
        }
        if (accumulate) {
            all0 = load(dWeight, 4L * j).add(all0);
            all1 = load(dWeight, 4L * (j + apart)).add(all1);
        }
        store(dWeight, 4L * j, all0);
        store(dWeight, 4L * (j + apart), all1);
    }
}
