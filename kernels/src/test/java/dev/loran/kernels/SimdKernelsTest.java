package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.BinaryFn;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.UnaryFn;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Every kernel against the reference, at sizes that leave something over and at sizes of several tasks. All programs
/// run on the same backends, so that scratch memory is never fresh.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SimdKernelsTest {
    private static final int[] SIZES = {1, 7, 33, 64, 65, Vectors.CHUNK + 9};
    private static final boolean[] BOTH = {false, true};

    private KernelCheck check;

    @BeforeAll
    void open() {
        check = new KernelCheck();
    }

    @AfterAll
    void close() {
        check.close();
    }

    @ParameterizedTest
    @EnumSource(UnaryFn.class)
    void unary(UnaryFn fn) {
        boolean positive = fn == UnaryFn.LOG || fn == UnaryFn.SQRT || fn == UnaryFn.RSQRT || fn == UnaryFn.RECIPROCAL;
        for (int n : SIZES) {
            check.agree(fn + " of " + n, m -> {
                Buffer x = positive ? m.between(n, 0.1, 9) : m.in(n, 3, 0);
                m.backend().unary(fn, m.out("y", n), x);
            });
            for (boolean accumulate : BOTH) {
                check.agree(fn + " backward of " + n, m -> {
                    Buffer x = positive ? m.between(n, 0.1, 9) : m.in(n, 3, 0);
                    m.backend().unaryBackward(fn, m.out("dx", n, accumulate), m.in(n), x, accumulate);
                });
            }
        }
        check.agree(fn + " in place", m -> {
            Buffer x = m.changed("x", m.between(100, 0.1, 3));
            m.backend().unary(fn, x, x);
        });
    }

    @ParameterizedTest
    @EnumSource(BinaryFn.class)
    void binary(BinaryFn fn) {
        for (int n : SIZES) {
            int[] one = {1};
            int[] none = {0};
            int[] shape = {n};
            binary(fn, shape, one, n, one, n);
            binary(fn, shape, one, n, none, 1);
            binary(fn, shape, none, 1, one, n);
            binary(fn, shape, none, 1, none, 1);
        }
        // A row, a column, both, a middle dimension, and a transposed operand.
        for (int cols : new int[] {1, 7, 33, 64, 1000}) {
            int[] shape = {37, cols};
            int[] dense = {cols, 1};
            binary(fn, shape, dense, 37 * cols, new int[] {0, 1}, cols);
            binary(fn, shape, dense, 37 * cols, new int[] {1, 0}, 37);
            binary(fn, shape, new int[] {1, 0}, 37, new int[] {0, 1}, cols);
            binary(fn, shape, new int[] {1, 37}, 37 * cols, dense, 37 * cols);
        }
        binary(fn, new int[] {3, 5, 1, 7}, new int[] {35, 7, 0, 1}, 105, new int[] {7, 0, 0, 1}, 21);
        binary(fn, new int[] {}, new int[] {}, 1, new int[] {}, 1);
        check.agree(fn + " in place", m -> {
            Buffer a = m.changed("a", m.in(33));
            m.backend().binary(fn, a, a, m.between(1, 1, 2), new int[] {33}, new int[] {1}, new int[] {0});
        });
    }

    private void binary(BinaryFn fn, int[] shape, int[] aStrides, int aSize, int[] bStrides, int bSize) {
        long size = 1;
        for (int d : shape) {
            size *= d;
        }
        long n = size;
        check.agree(
                fn + " of " + n,
                m -> m.backend()
                        .binary(fn, m.out("y", n), m.in(aSize), m.between(bSize, 0.5, 2), shape, aStrides, bStrides));
    }

    @Test
    void moving() {
        for (int n : SIZES) {
            check.agree("fill", m -> m.backend().fill(m.out("y", n), 0.25));
            check.agree("axpby, beta 0", m -> m.backend().axpby(m.out("y", n), m.in(n), -2, 0));
            check.agree("axpby", m -> m.backend().axpby(m.changed("y", m.in(n)), m.in(n), 0.5, -3));
        }
        for (int cols : new int[] {1, 7, 33, 64, 65, 4000}) {
            for (boolean accumulate : BOTH) {
                check.agree("copy of rows of " + cols, m -> {
                    Buffer y = m.changed("y", m.in(10L * (cols + 3)));
                    m.backend().copy(y, cols + 3, m.in(10L * (cols + 1)), cols + 1, 10, cols, accumulate);
                });
                check.agree(
                        "dense copy",
                        m -> m.backend()
                                .copy(
                                        m.out("y", 10L * cols, accumulate),
                                        cols,
                                        m.in(10L * cols),
                                        cols,
                                        10,
                                        cols,
                                        accumulate));
            }
        }
        int[] shape = {3, 5, 7, 33};
        for (int[] perm : new int[][] {{0, 2, 1, 3}, {3, 2, 1, 0}, {0, 1, 2, 3}, {1, 0, 3, 2}}) {
            check.agree("permute", m -> m.backend().permute(m.out("y", 3465), m.in(3465), shape, perm));
        }
        check.agree("permute to nothing", m -> {
            m.out("y", 0);
            m.backend().permute(m.out("z", 0), m.in(0), new int[] {3, 0, 2}, new int[] {2, 0, 1});
        });
    }

    @Test
    void cast() {
        try (SimdBackend backend = new SimdBackend(2)) {
            Random random = new Random(1);
            int n = Vectors.CHUNK + 7;
            double[] values = random.doubles(n, -1000, 1000).map(v -> (float) v).toArray();
            Buffer x = backend.of(DType.F32, values);
            for (DType dtype : new DType[] {DType.F64, DType.F32, DType.BF16, DType.F16, DType.I32}) {
                Buffer y = backend.allocate(dtype, n);
                Buffer back = backend.allocate(DType.F32, n);
                backend.cast(y, x);
                backend.cast(back, y);
                double[] got = KernelCheck.read(back);
                double precision = switch (dtype) {
                    case BF16 -> 0x1p-8;
                    case F16 -> 0x1p-11;
                    default -> 0;
                };
                for (int i = 0; i < n; i++) {
                    double wanted = dtype == DType.I32 ? (int) values[i] : values[i];
                    assertThat(Math.abs(got[i] - wanted)).isLessThanOrEqualTo(Math.abs(wanted) * precision);
                }
                y.release();
                back.release();
            }
            x.release();
        }
    }

    @Test
    void reductions() {
        for (boolean accumulate : BOTH) {
            for (int n : SIZES) {
                check.agree(
                        "sum of " + n, m -> m.backend().sum(m.out("y", 1, accumulate), m.in(n), 1, n, 1, accumulate));
                check.agree(
                        "sum of squares of " + n,
                        m -> m.backend().sumOfSquares(m.out("y", 1), List.of(m.in(n), m.in(0), m.in(7), m.in(n))));
                check.agree(
                        "row sums", m -> m.backend().sum(m.out("y", 3, accumulate), m.in(3L * n), 3, n, 1, accumulate));
            }
            for (int inner : new int[] {1, 7, 33, 64, 65, 200}) {
                check.agree(
                        "column sums of " + inner,
                        m -> m.backend()
                                .sum(m.out("y", inner, accumulate), m.in(131L * inner), 1, 131, inner, accumulate));
                check.agree(
                        "sums in the middle",
                        m -> m.backend()
                                .sum(m.out("y", 5L * inner, accumulate), m.in(35L * inner), 5, 7, inner, accumulate));
            }
        }
        for (int cols : new int[] {1, 7, 33, 64, 65, 1000}) {
            check.agree("row maximum", m -> m.backend().rowMax(m.out("y", 37), m.in(37L * cols), 37, cols));
        }
        check.agree("count", m -> m.backend().countValid(m.out("y", 1), m.ints(3, -100, 0, -1, -100), 5, -100));
    }

    @Test
    void embedding() {
        for (int cols : new int[] {1, 7, 64, 65, 300}) {
            int[] ids = new Random(2).ints(70, -1, 9).toArray();
            check.agree(
                    "gather",
                    m -> m.backend().gatherRows(m.out("y", 70L * cols), m.in(9L * cols), m.ints(ids), 70, cols));
            check.agree(
                    "scatter",
                    m -> m.backend()
                            .scatterAddRows(
                                    m.changed("table", m.in(9L * cols)), m.in(70L * cols), m.ints(ids), 70, 9, cols));
        }
    }

    @Test
    void dropout() {
        for (int cols : new int[] {1, 7, 33, 64, 65, 130, 512}) {
            for (boolean accumulate : BOTH) {
                for (double p : new double[] {0, 0.1, 0.75}) {
                    check.agree("dropout of " + cols, m -> {
                        DropoutMask mask = new DropoutMask(p, 0x123456789ABCDEFL, 3, m.ints(-5));
                        m.backend()
                                .dropout(
                                        m.out("y", 77L * cols, accumulate),
                                        m.in(77L * cols),
                                        77,
                                        cols,
                                        mask,
                                        accumulate);
                    });
                }
            }
        }
        check.agree("dropout in place", m -> {
            Buffer x = m.changed("x", m.in(33));
            m.backend().dropout(x, x, 3, 11, new DropoutMask(0.5, -1, 7, m.ints(1 << 20)), false);
        });
    }

    @Test
    void rope() {
        for (int d : new int[] {2, 14, 64, 66}) {
            for (int sign : new int[] {1, -1}) {
                check.agree("rope of " + d, m -> {
                    long n = 2L * 33 * 3 * d;
                    Buffer cos = m.between(33L * d / 2, -1, 1);
                    Buffer sin = m.between(33L * d / 2, -1, 1);
                    m.backend().rope(m.out("y", n), m.in(n), cos, sin, 2, 33, 3, d, sign);
                    Buffer x = m.changed("x", m.in(n));
                    m.backend().rope(x, x, cos, sin, 2, 33, 3, d, sign);
                });
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1", "7,33", "33,7", "65,64", "3,2000", "130,65"})
    void norms(int rows, int cols) {
        long n = (long) rows * cols;
        check.agree(
                "layer norm",
                m -> m.backend()
                        .layerNorm(
                                m.out("y", n),
                                m.out("mean", rows),
                                m.out("rstd", rows),
                                m.in(n, 2, 5),
                                m.in(cols),
                                m.in(cols),
                                rows,
                                cols,
                                1e-5));
        check.agree(
                "rms norm",
                m -> m.backend()
                        .rmsNorm(m.out("y", n), m.out("rstd", rows), m.in(n, 2, 1), m.in(cols), rows, cols, 1e-6));
        check.agree(
                "layer norm of a sum",
                m -> m.backend()
                        .addLayerNorm(
                                m.out("y", n),
                                m.out("sum", n),
                                m.out("mean", rows),
                                m.out("rstd", rows),
                                m.in(n, 2, 5),
                                m.in(n),
                                m.in(cols),
                                m.in(cols),
                                rows,
                                cols,
                                1e-5));
        check.agree(
                "rms norm of a sum",
                m -> m.backend()
                        .addRmsNorm(
                                m.out("y", n),
                                m.out("sum", n),
                                m.out("rstd", rows),
                                m.in(n, 2, 1),
                                m.in(n),
                                m.in(cols),
                                rows,
                                cols,
                                1e-6));
        for (boolean accumulate : BOTH) {
            for (boolean weights : BOTH) {
                check.agree("norm backward", m -> {
                    Buffer x = m.in(n, 2, 0.5);
                    Buffer mean = m.in(rows);
                    Buffer rstd = m.between(rows, 0.5, 2);
                    Buffer dy = m.in(n);
                    Buffer w = m.in(cols);
                    Buffer dx = m.out("dx", n, accumulate);
                    Buffer dw = weights ? m.out("dw", cols, accumulate) : null;
                    Buffer db = weights ? m.out("db", cols, accumulate) : null;
                    m.backend()
                            .layerNormBackward(
                                    dx, dw, db, dy, x, mean, rstd, w, rows, cols, accumulate, accumulate, accumulate);
                    Buffer dxr = m.out("dx of rms", n, accumulate);
                    Buffer dwr = weights ? m.out("dw of rms", cols, accumulate) : null;
                    m.backend().rmsNormBackward(dxr, dwr, dy, x, rstd, w, rows, cols, accumulate, accumulate);
                });
            }
        }
        check.agree(
                "weights alone",
                m -> m.backend()
                        .rmsNormBackward(
                                null,
                                m.out("dw", cols),
                                m.in(n),
                                m.in(n),
                                m.in(rows),
                                m.in(cols),
                                rows,
                                cols,
                                false,
                                false));
    }

    @ParameterizedTest
    @CsvSource({"1,1", "7,33", "33,7", "65,64", "3,20000", "130,65"})
    void softmaxAndCrossEntropy(int rows, int cols) {
        long n = (long) rows * cols;
        int[] labels = new Random(3).ints(rows, 0, cols).toArray();
        labels[rows / 2] = -100;
        check.agree("softmax", m -> m.backend().softmax(m.out("y", n), m.in(n, 4, 100), rows, cols));
        check.agree(
                "cross-entropy",
                m -> m.backend()
                        .crossEntropy(
                                m.out("losses", rows),
                                m.out("lse", rows),
                                m.in(n, 4, 0),
                                m.ints(labels),
                                rows,
                                cols,
                                -100));
        for (boolean accumulate : BOTH) {
            check.agree(
                    "softmax backward",
                    m -> m.backend()
                            .softmaxBackward(
                                    m.out("dx", n, accumulate), m.in(n), m.between(n, 0, 1), rows, cols, accumulate));
            check.agree(
                    "cross-entropy backward",
                    m -> m.backend()
                            .crossEntropyBackward(
                                    m.out("d", n, accumulate),
                                    m.of(0.125),
                                    m.in(n, 2, 0),
                                    m.between(rows, 5, 9),
                                    m.ints(labels),
                                    rows,
                                    cols,
                                    -100,
                                    accumulate));
        }
        check.agree("in place", m -> {
            Buffer x = m.changed("x", m.in(n));
            m.backend().softmax(x, x, rows, cols);
            Buffer logits = m.changed("logits", m.in(n));
            m.backend()
                    .crossEntropyBackward(
                            logits, m.of(0.5), logits, m.in(rows, 1, 4), m.ints(labels), rows, cols, -100, false);
        });
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 7, 33, 64, 65, 40_000})
    void optimizers(int n) {
        for (boolean scaled : BOTH) {
            check.agree("adamW", m -> {
                List<Buffer> p = new ArrayList<>();
                List<Buffer> first = new ArrayList<>();
                List<Buffer> second = new ArrayList<>();
                List<Buffer> g = new ArrayList<>();
                for (int size : new int[] {n, 0, 7, n}) {
                    p.add(m.changed("p", m.in(size)));
                    first.add(m.changed("m", m.in(size)));
                    second.add(m.changed("v", m.between(size, 0, 1)));
                    g.add(m.in(size));
                }
                Buffer scale = scaled ? m.of(0.25) : null;
                m.backend().adamW(p, first, second, g, m.of(0.01), m.ints(3), scale, 0.9, 0.999, 1e-8, 0.1);
            });
            for (boolean momentum : BOTH) {
                check.agree("sgd", m -> {
                    Buffer velocity = momentum ? m.changed("velocity", m.in(n)) : null;
                    Buffer scale = scaled ? m.of(0.25) : null;
                    m.backend().sgd(m.changed("p", m.in(n)), velocity, m.in(n), m.of(0.1), scale, 0.9, 0.01);
                });
            }
        }
        check.agree("clip", m -> m.backend().clipScale(m.out("norm", 1), m.out("scale", 1), m.between(1, 4, 9), 1.0));
    }
}
