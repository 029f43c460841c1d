package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.bound;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;

/// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019): a row is read into the first-level cache once
/// and passed over there. RMS norm is the case without a mean: its `mean` is null.
final class NormSimd {
    private static final int COLUMN_BLOCK = 64;
    private static final int STRIP = 64;

    private NormSimd() {}

    /// y = (x − mean) · rstd · weight + bias; mean and rstd (rows) are outputs. Without mean and bias: RMS norm.
    static void forward(
            Parallel parallel,
            MemorySegment y,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            MemorySegment x,
            MemorySegment weight,
            @Nullable MemorySegment bias,
            int rows,
            int cols,
            double eps) {
        forward(parallel, y, x, mean, rstd, x, null, weight, bias, rows, cols, eps);
    }

    /// As above of x + residual, which is the output `sum`; without a residual `sum` is x itself.
    static void forward(
            Parallel parallel,
            MemorySegment y,
            MemorySegment sum,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            MemorySegment x,
            @Nullable MemorySegment residual,
            MemorySegment weight,
            @Nullable MemorySegment bias,
            int rows,
            int cols,
            double eps) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
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

    /// With x̂ = (x − mean) · rstd and g = dy · weight: dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)), dWeight = Σ rows
    /// dy · x̂; each may be null. Without `mean` (RMS norm) the term mean(g) is absent. The bias' gradient is a sum.
    static void backward(
            Parallel parallel,
            @Nullable MemorySegment dx,
            @Nullable MemorySegment dWeight,
            MemorySegment dy,
            MemorySegment x,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            MemorySegment weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight) {
        if (dWeight != null) {
            parallel.parallelFor(Math.ceilDiv(cols, STRIP), strip -> {
                int from = strip * STRIP;
                weightStrip(
                        dWeight, dy, x, mean, rstd, rows, cols, from, Math.min(cols, from + STRIP), accumulateWeight);
            });
        }
        if (dx != null) {
            Vectors.forRows(parallel, rows, cols, (from, to) -> {
                for (int i = from; i < to; i++) {
                    float m = mean == null ? 0 : get(mean, 4L * i);
                    inputRow(dx, dy, x, 4L * i * cols, weight, cols, m, get(rstd, 4L * i), mean != null, accumulateX);
                }
            });
        }
    }

    private static void inputRow(
            MemorySegment dx,
            MemorySegment dy,
            MemorySegment x,
            long at,
            MemorySegment weight,
            int n,
            float m,
            float r,
            boolean centred,
            boolean accumulate) {
        float gMean = centred ? ReductionSimd.dot(dy, at, weight, 0, n) / n : 0;
        float gxMean = sumOfProducts(dy, x, at, weight, n, m) * r / n;
        int i = 0;
        FloatVector minusGxMean = splat(-gxMean);
        for (; i < bound(n); i += V) {
            FloatVector g = load(dy, at + 4L * i).mul(load(weight, 4L * i));
            FloatVector xHat = load(x, at + 4L * i).sub(m).mul(r);
            FloatVector d = xHat.fma(minusGxMean, g.sub(gMean)).mul(r);
            if (accumulate) {
                store(dx, at + 4L * i, load(dx, at + 4L * i).add(d));
            } else {
                store(dx, at + 4L * i, d);
            }
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

    /// Columns `from` to `to` of dWeight over all rows, in blocks of rows as [ReductionSimd] does it.
    private static void weightStrip(
            MemorySegment dWeight,
            MemorySegment dy,
            MemorySegment x,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            int rows,
            int cols,
            int from,
            int to,
            boolean accumulate) {
        int j = from;
        for (; j <= to - 2 * V; j += 2 * V) {
            weightColumns(dWeight, dy, x, mean, rstd, rows, cols, j, V, accumulate);
        }
        for (; j <= to - V; j += V) {
            weightColumns(dWeight, dy, x, mean, rstd, rows, cols, j, 0, accumulate);
        }
        for (; j < to; j++) {
            double sum = 0;
            for (int row = 0; row < rows; row++) {
                long at = 4 * ((long) row * cols + j);
                float m = mean == null ? 0 : get(mean, 4L * row);
                sum += get(dy, at) * (get(x, at) - m) * get(rstd, 4L * row);
            }
            set(dWeight, 4L * j, (float) (accumulate ? get(dWeight, 4L * j) + sum : sum));
        }
    }

    /// The vector of columns from `j` on and the one `apart` columns after it, which may be the same one.
    private static void weightColumns(
            MemorySegment dWeight,
            MemorySegment dy,
            MemorySegment x,
            @Nullable MemorySegment mean,
            MemorySegment rstd,
            int rows,
            int cols,
            int j,
            int apart,
            boolean accumulate) {
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
