package dev.loran.engine.testing;

import static dev.loran.engine.testing.OpCase.Input.prepared;
import static dev.loran.engine.testing.OpCase.Input.trainable;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase.Draw;
import dev.loran.engine.testing.OpCase.Input;
import dev.loran.engine.testing.OpCase.Role;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/// Matrix products: plain, with a weight that is trainable, frozen or prepared, and with a low-rank adapter.
final class LinearCases {
    private LinearCases() {}

    static List<OpCase> all() {
        List<OpCase> cases = new ArrayList<>();
        for (int flags = 0; flags < 4; flags++) {
            boolean transA = (flags & 1) != 0;
            boolean transB = (flags & 2) != 0;
            cases.add(matmul(0, 7, 33, 5, transA, transB, false));
            cases.add(matmul(0, 1, 7, 33, transA, transB, false));
            cases.add(matmul(3, 7, 5, 9, transA, transB, false));
        }
        cases.add(matmul(3, 7, 5, 9, false, false, true));
        cases.add(matmul(3, 7, 5, 9, false, true, true));
        int[][] sizes = {{7, 33, 5}, {1, 1, 1}, {33, 7, 33}, {5, 64, 48}};
        for (int[] s : sizes) {
            for (Role weight : List.of(Role.TRAINABLE, Role.CONSTANT, Role.PREPARED)) {
                cases.add(linear(s[0], s[1], s[2], weight, true));
                cases.add(linear(s[0], s[1], s[2], weight, false));
            }
            for (int flags = 0; flags < 8; flags++) {
                Role weight = (flags & 1) == 0 ? Role.CONSTANT : Role.PREPARED;
                cases.add(loraLinear(s[0], s[1], s[2], 3, weight, Role.TRAINABLE, (flags & 2) != 0, (flags & 4) != 0));
            }
            cases.add(loraLinear(s[0], s[1], s[2], 8, Role.PREPARED, Role.CONSTANT, true, true));
        }
        cases.add(loraLinear(7, 33, 5, 1, Role.CONSTANT, Role.CONSTANT, false, false));
        cases.add(projections(7, 33, Role.CONSTANT));
        cases.add(projections(5, 64, Role.PREPARED));
        cases.add(segmented(Role.CONSTANT, Role.TRAINABLE));
        cases.add(segmented(Role.PREPARED, Role.TRAINABLE));
        cases.add(segmented(Role.PREPARED, Role.CONSTANT));
        cases.addAll(bottlenecks());
        return cases;
    }

    /// op(a) · op(b) of (m, k) by (k, n); `batch` is the number of products, 0 for plain matrices; with `one`, all
    /// share one b.
    static OpCase matmul(int batch, int m, int k, int n, boolean transA, boolean transB, boolean one) {
        String variant = (batch == 0 ? "" : batch + " times ") + m + "x" + k + "x" + n
                + (transA ? ", a transposed" : "") + (transB ? ", b transposed" : "") + (one ? ", one b" : "");
        int[] a = transA ? new int[] {k, m} : new int[] {m, k};
        int[] b = transB ? new int[] {n, k} : new int[] {k, n};
        long products = 2L * Math.max(1, batch) * m * k * n;
        return OpCase.of(
                        "matmul",
                        variant,
                        Shape.of(batched(batch, m, n)),
                        in -> Functional.matmul(in.get("a"), in.get("b"), transA, transB))
                .with(trainable("a", batched(batch, a)), trainable("b", batched(one ? 0 : batch, b)))
                .flops(products, 2 * products);
    }

    private static int[] batched(int batch, int... dims) {
        return batch == 0 ? dims : new int[] {batch, dims[0], dims[1]};
    }

    static OpCase linear(int n, int in, int out, Role weight, boolean bias) {
        String variant = n + "x" + in + " to " + out + ", weight " + name(weight) + (bias ? ", bias" : "");
        long product = 2L * n * in * out;
        OpCase c = OpCase.of(
                        "linear",
                        variant,
                        Shape.of(n, out),
                        t -> Functional.linear(t.get("x"), t.get("weight"), t.find("bias")))
                .with(trainable("x", n, in), weight("weight", weight, out, in))
                .flops(product, weight == Role.TRAINABLE ? 2 * product : product);
        if (weight != Role.PREPARED) {
            c = c.composed(t -> {
                Tensor y = Functional.matmul(t.get("x"), t.get("weight"), false, true);
                Tensor b = t.find("bias");
                return b == null ? y : y.add(b);
            });
        }
        return bias ? c.with(trainable("bias", out)) : c;
    }

    private static List<OpCase> bottlenecks() {
        List<OpCase> cases = new ArrayList<>();
        int[][] sizes = {{7, 33, 5}, {1, 1, 1}, {33, 7, 33}, {5, 64, 48}};
        for (UnaryFn fn : List.of(UnaryFn.RELU, UnaryFn.GELU, UnaryFn.SILU)) {
            for (int[] s : sizes) {
                for (Residual residual : Residual.values()) {
                    boolean bias = residual != Residual.NONE;
                    cases.add(bottleneck(fn, s[0], s[1], s[2], Role.TRAINABLE, residual, bias, !bias, 1));
                    cases.add(bottleneck(fn, s[0], s[1], s[2], Role.TRAINABLE, residual, !bias, bias, 4));
                }
            }
        }
        // The first adapter of a model (x is constant), and a sum that is split into parts.
        cases.add(bottleneck(UnaryFn.SILU, 7, 33, 5, Role.CONSTANT, Residual.X, true, true, 4));
        cases.add(bottleneck(UnaryFn.GELU, 300, 7, 5, Role.TRAINABLE, Residual.X, true, true, 1));
        return cases;
    }

    /// What the branch of a bottleneck is added to.
    enum Residual {
        X,
        OTHER,
        NONE
    }

    /// A bottleneck from `d` dimensions to m and back.
    static OpCase bottleneck(
            UnaryFn fn, int n, int d, int m, Role x, Residual residual, boolean bias, boolean dropout, double scaling) {
        String variant = fn.name().toLowerCase(Locale.ROOT) + " " + n + "x" + d + " by " + m + ", x " + name(x)
                + ", residual " + residual.name().toLowerCase(Locale.ROOT) + (bias ? ", bias" : "")
                + (dropout ? ", dropout" : "") + ", scaling " + scaling;
        // There is no derivative at 0: a unit there would be on in one backend and off in another.
        boolean kink = fn == UnaryFn.RELU;
        OpCase c = OpCase.of(
                        "bottleneck",
                        variant,
                        Shape.of(n, d),
                        t -> Functional.bottleneck(
                                fn,
                                t.get("x"),
                                to(residual, t),
                                t.get("down"),
                                t.find("downBias"),
                                t.get("up"),
                                t.find("upBias"),
                                scaling,
                                dropout ? OpCases.mask(t) : null))
                .with(new Input(
                        "x",
                        Shape.of(n, d),
                        x,
                        kink ? signed(d, 1) : trainable("x").draw()))
                .with(trainable("down", m, d)
                        .drawn(kink ? signed(d, d) : prepared("down", m, d).draw()))
                .with(trainable("up", d, m).scaled(1 / Math.sqrt(m)))
                .composed(t -> {
                    Tensor h = Functional.unary(fn, Functional.linear(t.get("x"), t.get("down"), t.find("downBias")));
                    h = dropout ? Functional.dropout(h, OpCases.mask(t)) : h;
                    Tensor y =
                            Functional.linear(h, t.get("up"), t.find("upBias")).scale(scaling);
                    Tensor r = to(residual, t);
                    return r == null ? y : r.add(y);
                })
                .flops(4L * n * d * m, x == Role.TRAINABLE ? 8L * n * d * m : 6L * n * d * m);
        c = residual == Residual.OTHER ? c.with(trainable("residual", n, d)) : c;
        c = bias ? c.with(trainable("downBias", m).between(-0.2, 0.2), trainable("upBias", d)) : c;
        // As in `loraLinear`, for a result of a single element.
        c = n * d == 1 ? c.tolerance(DType.BF16, 0.1) : c;
        return dropout ? c.with(OpCases.microStep()) : c;
    }

    /// Elements around 1 / `by` in magnitude, with the same sign within a row of `cols` and alternating from row to
    /// row.
    private static Draw signed(int cols, double by) {
        return (random, i) -> (i / cols % 2 == 0 ? 1 : -1) * random.nextDouble(0.5, 1.5) / by;
    }

    private static @Nullable Tensor to(Residual residual, OpCase.Arguments t) {
        return residual == Residual.X ? t.get("x") : t.find("residual");
    }

    /// A weight (out, in) with elements from N(0, 1 / in).
    static Input weight(String name, Role role, int out, int in) {
        return new Input(name, Shape.of(out, in), role, prepared(name, out, in).draw());
    }

    static String name(Role role) {
        return role.name().toLowerCase(Locale.ROOT);
    }

    static OpCase loraLinear(int n, int in, int out, int r, Role weight, Role x, boolean bias, boolean dropout) {
        double scaling = 2;
        String variant = n + "x" + in + " to " + out + ", r " + r + ", weight " + name(weight) + ", x " + name(x)
                + (bias ? ", bias" : "") + (dropout ? ", dropout" : "");
        long base = 2L * n * in * out;
        long low = 2L * n * r * (in + out);
        OpCase c = OpCase.of(
                        "loraLinear",
                        variant,
                        Shape.of(n, out),
                        t -> Functional.loraLinear(
                                t.get("x"),
                                t.get("weight"),
                                t.find("bias"),
                                t.get("loraA"),
                                t.get("loraB"),
                                scaling,
                                dropout ? OpCases.mask(t) : null))
                .with(new Input("x", Shape.of(n, in), x, trainable("x").draw()))
                .with(weight("weight", weight, out, in))
                .with(trainable("loraA", r, in).scaled(1 / Math.sqrt(in)), trainable("loraB", out, r))
                .composed(t -> {
                    Tensor d = dropout ? Functional.dropout(t.get("x"), OpCases.mask(t)) : t.get("x");
                    Tensor h = Functional.matmul(d, t.get("loraA"), false, true);
                    Tensor delta =
                            Functional.matmul(h, t.get("loraB"), false, true).scale(scaling);
                    return Functional.linear(t.get("x"), t.get("weight"), t.find("bias"))
                            .add(delta);
                })
                .flops(base + low, x == Role.TRAINABLE ? base + 2 * low : 2 * low);
        c = bias ? c.with(trainable("bias", out)) : c;
        // With a single element the two terms may cancel, and there is no larger element to measure their rounding
        // against.
        c = n * out == 1 ? c.tolerance(DType.BF16, 0.1) : c;
        return dropout ? c.with(OpCases.microStep()) : c;
    }

    /// Layers of one x, with their results concatenated: two with low-rank parts, one of which has dropout, and a
    /// trainable one.
    static OpCase projections(int n, int in, Role frozen) {
        int r = 3;
        int[] outs = {5, 17, 8};
        return OpCase.of("projections", n + "x" + in + ", weight " + name(frozen), Shape.of(n, 30), t -> {
                    Functional.Lora first = new Functional.Lora(t.get("a0"), t.get("b0"), 2, OpCases.mask(t));
                    Functional.Lora second = new Functional.Lora(t.get("a1"), t.get("b1"), 0.5, null);
                    return Functional.concat(
                            Functional.projections(
                                    t.get("x"),
                                    List.of(
                                            new Functional.Projection(t.get("w0"), null, first),
                                            new Functional.Projection(t.get("w1"), t.get("bias1"), second),
                                            new Functional.Projection(t.get("w2"), t.get("bias2"), null))),
                            1);
                })
                .with(trainable("x", n, in))
                .with(weight("w0", frozen, outs[0], in), weight("w1", frozen, outs[1], in))
                .with(weight("w2", Role.TRAINABLE, outs[2], in))
                .with(trainable("a0", r, in).scaled(1 / Math.sqrt(in)), trainable("b0", outs[0], r))
                .with(trainable("a1", r, in).scaled(1 / Math.sqrt(in)), trainable("b1", outs[1], r))
                .with(trainable("bias1", outs[1]), trainable("bias2", outs[2]))
                .with(OpCases.microStep())
                .composed(t -> Functional.concat(
                        List.of(
                                Functional.loraLinear(
                                        t.get("x"), t.get("w0"), null, t.get("a0"), t.get("b0"), 2, OpCases.mask(t)),
                                Functional.loraLinear(
                                        t.get("x"), t.get("w1"), t.get("bias1"), t.get("a1"), t.get("b1"), 0.5, null),
                                Functional.linear(t.get("x"), t.get("w2"), t.get("bias2"))),
                        1));
    }

    /// Three segments of rows: with dropout, plain, and of another rank.
    static OpCase segmented(Role weight, Role x) {
        int in = 33;
        int out = 17;
        return OpCase.of(
                        "segmentedLoraLinear",
                        "7x3x33 to 17, weight " + name(weight) + ", x " + name(x),
                        Shape.of(7, 3, out),
                        t -> Functional.segmentedLoraLinear(
                                t.get("x"),
                                t.get("weight"),
                                t.get("bias"),
                                List.of(
                                        new Functional.LoraSegment(
                                                3, new Functional.Lora(t.get("a0"), t.get("b0"), 2, OpCases.mask(t))),
                                        new Functional.LoraSegment(2, null),
                                        new Functional.LoraSegment(
                                                2, new Functional.Lora(t.get("a1"), t.get("b1"), 0.5, null)))))
                .with(new Input("x", Shape.of(7, 3, in), x, trainable("x").draw()))
                .with(weight("weight", weight, out, in), trainable("bias", out))
                .with(trainable("a0", 3, in).scaled(1 / Math.sqrt(in)), trainable("b0", out, 3))
                .with(trainable("a1", 8, in).scaled(1 / Math.sqrt(in)), trainable("b1", out, 8))
                .with(OpCases.microStep())
                .composed(t -> Functional.concat(
                        List.of(
                                Functional.loraLinear(
                                        t.get("x").slice(0, 0, 3),
                                        t.get("weight"),
                                        t.get("bias"),
                                        t.get("a0"),
                                        t.get("b0"),
                                        2,
                                        OpCases.mask(t)),
                                Functional.linear(t.get("x").slice(0, 3, 5), t.get("weight"), t.get("bias")),
                                Functional.loraLinear(
                                        t.get("x").slice(0, 5, 7),
                                        t.get("weight"),
                                        t.get("bias"),
                                        t.get("a1"),
                                        t.get("b1"),
                                        0.5,
                                        null)),
                        0));
    }
}
