package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.NormKernels.Statistics;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.kernels.simd.vector.Vectors;
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

/// Every kernel against the reference, at sizes with a remainder and at sizes that take several tasks. All programs run
/// on the same backends, so that scratch memory is never fresh.
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
                        m -> m.backend()
                                .optimizer()
                                .sumOfSquares(m.out("y", 1), List.of(m.in(n), m.in(0), m.in(7), m.in(n))));
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
                    RopeTables tables = new RopeTables(cos, sin, 33, d);
                    m.backend().attention().rope(m.out("y", n), m.in(n), tables, 2, 3, sign);
                    Buffer x = m.changed("x", m.in(n));
                    m.backend().attention().rope(x, x, tables, 2, 3, sign);
                });
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1", "7,33", "33,7", "65,64", "3,2000", "130,65"})
    void norms(int rows, int cols) {
        long n = (long) rows * cols;
        check.agree("layer norm", m -> {
            Buffer y = m.out("y", n);
            Statistics kept = new Statistics(m.out("mean", rows), m.out("rstd", rows));
            m.backend().norm().layerNorm(y, kept, new Matrix(m.in(n, 2, 5), rows, cols), m.in(cols), m.in(cols), 1e-5);
        });
        check.agree("rms norm", m -> {
            Buffer y = m.out("y", n);
            Buffer rstd = m.out("rstd", rows);
            m.backend().norm().rmsNorm(y, rstd, new Matrix(m.in(n, 2, 1), rows, cols), m.in(cols), 1e-6);
        });
        check.agree("layer norm of a sum", m -> {
            Buffer y = m.out("y", n);
            Buffer sum = m.out("sum", n);
            Statistics kept = new Statistics(m.out("mean", rows), m.out("rstd", rows));
            Matrix x = new Matrix(m.in(n, 2, 5), rows, cols);
            m.backend().norm().addLayerNorm(y, sum, kept, x, m.in(n), m.in(cols), m.in(cols), 1e-5);
        });
        check.agree("rms norm of a sum", m -> {
            Buffer y = m.out("y", n);
            Buffer sum = m.out("sum", n);
            Buffer rstd = m.out("rstd", rows);
            Matrix x = new Matrix(m.in(n, 2, 1), rows, cols);
            m.backend().norm().addRmsNorm(y, sum, rstd, x, m.in(n), m.in(cols), 1e-6);
        });
        for (boolean accumulate : BOTH) {
            for (boolean weights : BOTH) {
                check.agree("norm backward", m -> {
                    Buffer x = m.in(n, 2, 0.5);
                    Buffer mean = m.in(rows);
                    Buffer rstd = m.between(rows, 0.5, 2);
                    Buffer dy = m.in(n);
                    Buffer w = m.in(cols);
                    Matrix xs = new Matrix(x, rows, cols);
                    NormKernels norm = m.backend().norm();
                    Gradient dx = new Gradient(m.out("dx", n, accumulate), accumulate);
                    Gradient dw = weights ? new Gradient(m.out("dw", cols, accumulate), accumulate) : null;
                    Gradient db = weights ? new Gradient(m.out("db", cols, accumulate), accumulate) : null;
                    norm.layerNormBackward(dx, dw, db, dy, xs, new Statistics(mean, rstd), w);
                    dx = new Gradient(m.out("dx of rms", n, accumulate), accumulate);
                    dw = weights ? new Gradient(m.out("dw of rms", cols, accumulate), accumulate) : null;
                    norm.rmsNormBackward(dx, dw, dy, xs, rstd, w);
                });
            }
        }
        check.agree("weights alone", m -> {
            Gradient dw = new Gradient(m.out("dw", cols), false);
            Buffer dy = m.in(n);
            Matrix x = new Matrix(m.in(n), rows, cols);
            m.backend().norm().rmsNormBackward(null, dw, dy, x, m.in(rows), m.in(cols));
        });
    }

    @ParameterizedTest
    @CsvSource({"1,1", "7,33", "33,7", "65,64", "3,20000", "130,65"})
    void softmaxAndCrossEntropy(int rows, int cols) {
        long n = (long) rows * cols;
        int[] labels = new Random(3).ints(rows, 0, cols).toArray();
        labels[rows / 2] = -100;
        check.agree("softmax", m -> {
            Buffer y = m.out("y", n);
            m.backend().attention().softmax(y, new Matrix(m.in(n, 4, 100), rows, cols));
        });
        check.agree("cross-entropy", m -> {
            Buffer losses = m.out("losses", rows);
            Buffer lse = m.out("lse", rows);
            Matrix logits = new Matrix(m.in(n, 4, 0), rows, cols);
            m.backend().loss().crossEntropy(losses, lse, logits, new Labels(m.ints(labels), -100));
        });
        for (boolean accumulate : BOTH) {
            check.agree("softmax backward", m -> {
                Gradient dx = new Gradient(m.out("dx", n, accumulate), accumulate);
                Buffer dy = m.in(n);
                m.backend().attention().softmaxBackward(dx, dy, new Matrix(m.between(n, 0, 1), rows, cols));
            });
            check.agree("cross-entropy backward", m -> {
                Gradient d = new Gradient(m.out("d", n, accumulate), accumulate);
                Buffer g = m.of(0.125);
                Matrix logits = new Matrix(m.in(n, 2, 0), rows, cols);
                Buffer lse = m.between(rows, 5, 9);
                m.backend().loss().crossEntropyBackward(d, g, logits, lse, new Labels(m.ints(labels), -100));
            });
        }
        check.agree("in place", m -> {
            Buffer x = m.changed("x", m.in(n));
            m.backend().attention().softmax(x, new Matrix(x, rows, cols));
            Buffer d = m.changed("logits", m.in(n));
            Buffer g = m.of(0.5);
            Buffer lse = m.in(rows, 1, 4);
            Labels valid = new Labels(m.ints(labels), -100);
            m.backend().loss().crossEntropyBackward(new Gradient(d, false), g, new Matrix(d, rows, cols), lse, valid);
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
                AdamWStep step = new AdamWStep(m.of(0.01), m.ints(3), scale, 0.9, 0.999, 1e-8, 0.1);
                m.backend().optimizer().adamW(p, first, second, g, step);
            });
            for (boolean momentum : BOTH) {
                check.agree("sgd", m -> {
                    Buffer velocity = momentum ? m.changed("velocity", m.in(n)) : null;
                    Buffer scale = scaled ? m.of(0.25) : null;
                    Buffer p = m.changed("p", m.in(n));
                    m.backend().optimizer().sgd(p, velocity, m.in(n), m.of(0.1), scale, 0.9, 0.01);
                });
            }
        }
        check.agree("clip", m -> {
            Buffer norm = m.out("norm", 1);
            m.backend().optimizer().clipScale(norm, m.out("scale", 1), m.between(1, 4, 9), 1.0);
        });
    }
}
