package dev.loran.engine.testing;

import static dev.loran.engine.testing.OpCase.Input.constant;
import static dev.loran.engine.testing.OpCase.Input.integers;
import static dev.loran.engine.testing.OpCase.Input.trainable;

import dev.loran.engine.Autograd;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase.Arguments;
import dev.loran.engine.testing.OpCase.Draw;
import dev.loran.engine.testing.OpCase.Input;
import dev.loran.engine.testing.OpCase.Role;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.BinaryOperator;
import java.util.function.Function;
import java.util.stream.IntStream;

/// Every operation of the engine as an [OpCase]. There is one method per operation, which takes sizes and options;
/// [#all] calls it at odd sizes for tests, [#benchmarks] at the sizes of a model.
public final class OpCases {
    private static final int IGNORE = Functional.IGNORE_INDEX;

    private OpCases() {}

    /// All operations, with optional arguments present and absent and with sizes that include 1, 7 and 33; small enough
    /// for the scalar reference.
    public static List<OpCase> all() {
        List<OpCase> cases = new ArrayList<>();
        cases.addAll(elementwise());
        cases.addAll(LinearCases.all());
        cases.addAll(RowCases.all());
        cases.addAll(AttentionCases.all());
        cases.addAll(layout());
        cases.addAll(losses());
        cases.addAll(checkpoints());
        return cases;
    }

    /// One case per operation worth timing, at the sizes of a small model: 8 x 128 tokens, hidden size 512, MLP size
    /// 2048, 8 heads, vocabulary 10000, rank 16.
    public static List<OpCase> benchmarks() {
        int n = 1024;
        int c = 512;
        return List.of(
                binary("add", Tensor::add, new int[] {n, c}, new int[] {n, c}),
                binary("mul", Tensor::mul, new int[] {n, c}, new int[] {c}),
                unary(UnaryFn.GELU, n, 4 * c),
                unary(UnaryFn.SILU, n, 4 * c),
                gated(UnaryFn.SILU, trainable("gate", n, 4 * c), trainable("up", n, 4 * c)),
                LinearCases.matmul(64, 128, 64, 128, false, true, false),
                LinearCases.linear(n, c, 4 * c, Role.PREPARED, true),
                LinearCases.loraLinear(n, c, c, 16, Role.PREPARED, Role.TRAINABLE, false, true),
                RowCases.softmax(n, n),
                RowCases.layerNorm(n, c),
                RowCases.rmsNorm(n, c),
                AttentionCases.rope(8, 128, 8, 64),
                embedding(10_000, c, false, 8, 128),
                AttentionCases.attention(8, 128, 128, 0, 8, 8, 64, true, false, false),
                dropout(n, c),
                permute(new int[] {8, 128, 8, 64}, 0, 2, 1, 3),
                RowCases.sum(0, n, c),
                crossEntropy(n, 10_000),
                linearCrossEntropy(n, c, 10_000, Role.PREPARED, Role.TRAINABLE));
    }

    /// Returns the case of [#benchmarks] for `op`.
    ///
    /// @throws IllegalArgumentException naming the available operations
    public static OpCase benchmark(String op) {
        List<OpCase> cases = benchmarks();
        return cases.stream()
                .filter(c -> c.op().equals(op))
                .findFirst()
                .orElseThrow(() -> new IllegalArgumentException("benchmark: no case for " + op + "; there are "
                        + cases.stream().map(OpCase::op).toList()));
    }

    // ---- element-wise

    private static List<OpCase> elementwise() {
        List<OpCase> cases = new ArrayList<>();
        int[][][] shapes = {
            {{7, 33}, {7, 33}},
            {{7, 33}, {33}},
            {{33}, {7, 33}},
            {{7, 33}, {7, 1}},
            {{7, 1}, {1, 33}},
            {{3, 1, 7}, {5, 1}},
            {{2, 3, 7}, {3, 1}},
            {{33}, {}},
            {{1}, {1}},
            {{}, {}}
        };
        for (int[][] s : shapes) {
            cases.add(binary("add", Tensor::add, s[0], s[1]));
            cases.add(binary("sub", Tensor::sub, s[0], s[1])
                    .composed(in -> in.get("a").add(in.get("b").scale(-1))));
            cases.add(binary("mul", Tensor::mul, s[0], s[1]));
            cases.add(binary("div", Tensor::div, s[0], s[1])
                    .composed(in -> in.get("a").mul(Functional.unary(UnaryFn.RECIPROCAL, in.get("b")))));
        }
        // Long enough for sums to be split into parts, and for the outer dimension to be split into groups.
        cases.add(binary("mul", Tensor::mul, new int[] {300, 257}, new int[] {257}));
        cases.add(binary("mul", Tensor::mul, new int[] {5, 300, 47}, new int[] {5, 1, 47}));
        cases.addAll(ofOneShape());
        return cases;
    }

    private static List<OpCase> ofOneShape() {
        List<OpCase> cases = new ArrayList<>();
        for (int[] s : new int[][] {{1}, {7, 33}, {3, 1, 7}}) {
            cases.add(OpCase.of(
                            "scale",
                            Shape.of(s).toString(),
                            Shape.of(s),
                            in -> in.get("x").scale(-0.75))
                    .with(trainable("x", s))
                    .flops(size(s), size(s)));
            cases.add(cast("", in -> roundTrip(in.get("x")), s));
            cases.add(cast(", beside x", in -> roundTrip(in.get("x")).add(in.get("x")), s));
            for (UnaryFn fn : UnaryFn.values()) {
                cases.add(unary(fn, s));
            }
            cases.add(dropout(s));
            for (UnaryFn fn : List.of(UnaryFn.SILU, UnaryFn.GELU)) {
                cases.add(gated(fn, trainable("gate", s), trainable("up", s)));
                cases.add(gated(fn, constant("gate", s), trainable("up", s)));
                cases.add(gated(fn, trainable("gate", s), constant("up", s)));
            }
        }
        // Both gradients go into the same tensor, the second added to the first.
        cases.add(OpCase.of(
                        "gated",
                        "silu, gate and up the same",
                        Shape.of(7, 33),
                        in -> Functional.gated(UnaryFn.SILU, in.get("x"), in.get("x")))
                .with(trainable("x", 7, 33))
                .composed(in -> Functional.silu(in.get("x")).mul(in.get("x"))));
        return cases;
    }

    /// Both inputs have the shape of `gate`.
    private static OpCase gated(UnaryFn fn, Input gate, Input up) {
        Shape s = gate.shape();
        String variant = fn.name().toLowerCase(Locale.ROOT) + " " + s + ", gate " + LinearCases.name(gate.role())
                + ", up " + LinearCases.name(up.role());
        return OpCase.of("gated", variant, s, in -> Functional.gated(fn, in.get("gate"), in.get("up")))
                .with(gate, up)
                .composed(in -> Functional.unary(fn, in.get("gate")).mul(in.get("up")))
                .flops(2 * s.size(), 5 * s.size());
    }

    /// `b` stays away from 0, for the sake of div.
    private static OpCase binary(String op, BinaryOperator<Tensor> fn, int[] a, int[] b) {
        Shape result = Shape.broadcast(op, Shape.of(a), Shape.of(b));
        return OpCase.of(op, Shape.of(a) + " and " + Shape.of(b), result, in -> fn.apply(in.get("a"), in.get("b")))
                .with(trainable("a", a), trainable("b", b).between(0.5, 2))
                .flops(result.size(), 2 * result.size());
    }

    /// Casts to F32 and back or, from F32, to BF16 and back. Forward is exact because the elements have so few digits;
    /// the gradient is rounded on the way.
    private static Tensor roundTrip(Tensor x) {
        DType there = x.dtype() == DType.F32 ? DType.BF16 : DType.F32;
        return Functional.cast(Functional.cast(x, there), x.dtype());
    }

    private static OpCase cast(String variant, Function<Arguments, Tensor> function, int... dims) {
        Draw sevenBits = (random, i) -> random.nextInt(-127, 128) / 128.0;
        return OpCase.of("cast", Shape.of(dims) + variant, Shape.of(dims), function)
                .with(trainable("x", dims).drawn(sevenBits))
                .flops(2L * size(dims), 2L * size(dims))
                .tolerance(DType.F32, Tolerance.of(DType.BF16).bound() / 8);
    }

    private static OpCase unary(UnaryFn fn, int... dims) {
        Draw draw = switch (fn) {
            case LOG, SQRT, RSQRT, RECIPROCAL -> (random, i) -> random.nextDouble(0.5, 3);
            // There is no derivative at 0: differences would straddle it.
            case ABS, RELU -> (random, i) -> (random.nextBoolean() ? 1 : -1) * random.nextDouble(0.01, 2);
            default -> (random, i) -> 2 * random.nextGaussian();
        };
        Shape s = Shape.of(dims);
        return OpCase.of(fn.name().toLowerCase(Locale.ROOT), s.toString(), s, in -> Functional.unary(fn, in.get("x")))
                .with(trainable("x", dims).drawn(draw))
                .flops(s.size(), 2 * s.size());
    }

    /// Drops a third; the composed form multiplies by an explicit mask.
    private static OpCase dropout(int... dims) {
        Shape s = Shape.of(dims);
        return OpCase.of("dropout", s.toString(), s, in -> Functional.dropout(in.get("x"), mask(in)))
                .with(trainable("x", dims), microStep())
                .composed(in -> in.get("x").mul(kept(in.get("x"), mask(in))))
                .flops(s.size(), s.size());
    }

    static Input microStep() {
        return integers("microStep", 0, 1000, 1);
    }

    static DropoutMask mask(Arguments in) {
        return new DropoutMask(
                1 / 3.0, 0x1234_5678_9abc_def0L, 5, in.get("microStep").buffer());
    }

    private static Tensor kept(Tensor x, DropoutMask mask) {
        int cols = x.shape().cols();
        double[] values = new double[Math.toIntExact(x.shape().size())];
        try (Tensor step = Tensor.own(Shape.of(1), mask.microStep().retain())) {
            int s = step.toInts()[0];
            for (int i = 0; i < values.length; i++) {
                values[i] = mask.keeps(s, i / cols, i % cols) ? mask.scale() : 0;
            }
        }
        return Tensor.of(x.backend(), x.dtype(), values, x.shape().dims());
    }

    // ---- layout

    private static List<OpCase> layout() {
        List<OpCase> cases = new ArrayList<>();
        cases.add(permute(new int[] {7, 33}, 1, 0));
        cases.add(permute(new int[] {2, 3, 5, 7}, 0, 2, 1, 3));
        cases.add(permute(new int[] {2, 3, 5, 7}, 3, 0, 2, 1));
        cases.add(permute(new int[] {3, 1, 7}, -1, 0, 1));
        cases.add(reshape(new int[] {7, 33}, 33, 7));
        cases.add(reshape(new int[] {6, 35}, 2, 3, -1, 7));
        cases.add(slice(new int[] {7, 33}, 0, 2, 5));
        cases.add(slice(new int[] {7, 33}, 1, 31, 33));
        cases.add(slice(new int[] {2, 7, 5}, -2, 0, 1));
        cases.add(slice(new int[] {1, 7, 5}, 1, 3, 7));
        cases.add(concat(0, new int[] {7, 5}, new int[] {1, 5}, new int[] {33, 5}));
        cases.add(concat(-1, new int[] {3, 7}, new int[] {3, 1}));
        cases.add(concat(1, new int[] {2, 3, 5}, new int[] {2, 0, 5}, new int[] {2, 7, 5}));
        cases.add(embedding(7, 33, false, 5));
        cases.add(embedding(33, 7, true, 3, 4));
        cases.add(embedding(1, 1, true, 7));
        cases.add(embedding(7, 5, true, 300));
        return cases;
    }

    private static OpCase permute(int[] dims, int... perm) {
        Shape s = Shape.of(dims);
        int[] result = IntStream.of(perm).map(s::dim).toArray();
        return OpCase.of(
                        "permute",
                        s + " to " + Shape.of(result),
                        Shape.of(result),
                        in -> in.get("x").permute(perm))
                .with(trainable("x", dims));
    }

    private static OpCase reshape(int[] dims, int... to) {
        int known = -IntStream.of(to).reduce(1, (a, b) -> a * b);
        int free = known < 0 ? 1 : Math.toIntExact(size(dims) / known);
        Shape result = Shape.of(IntStream.of(to).map(d -> d < 0 ? free : d).toArray());
        // The view is scaled so that its gradient differs from the incoming one.
        return OpCase.of(
                        "reshape",
                        Shape.of(dims) + " to " + result,
                        result,
                        in -> in.get("x").reshape(to).scale(3))
                .with(trainable("x", dims));
    }

    private static OpCase slice(int[] dims, int axis, int from, int to) {
        Shape s = Shape.of(dims);
        String variant = from + " to " + to + " of dimension " + axis + " of " + s;
        return OpCase.of(
                        "slice",
                        variant,
                        s.withDim(axis, to - from),
                        in -> in.get("x").slice(axis, from, to))
                .with(trainable("x", dims));
    }

    private static OpCase concat(int axis, int[]... parts) {
        int total = 0;
        List<Input> inputs = new ArrayList<>();
        for (int[] p : parts) {
            inputs.add(trainable("part" + inputs.size(), p));
            total += Shape.of(p).dim(axis);
        }
        Shape result = Shape.of(parts[0]).withDim(axis, total);
        return OpCase.of(
                        "concat",
                        parts.length + " to " + result + " along " + axis,
                        result,
                        in -> Functional.concat(
                                inputs.stream().map(i -> in.get(i.name())).toList(), axis))
                .with(inputs.toArray(Input[]::new));
    }

    /// Ids repeat; with `negative`, every third one is −1.
    private static OpCase embedding(int v, int c, boolean negative, int... ids) {
        int[] result = java.util.Arrays.copyOf(ids, ids.length + 1);
        result[ids.length] = c;
        return OpCase.of(
                        "embedding",
                        Shape.of(ids) + " of " + v + "x" + c + (negative ? ", negative ids" : ""),
                        Shape.of(result),
                        in -> Functional.embedding(in.get("table"), in.get("ids")))
                .with(trainable("table", v, c))
                .with(integers("ids", 0, v, ids).drawn((random, i) -> negative && i % 3 == 1 ? -1 : random.nextInt(v)));
    }

    // ---- losses

    private static List<OpCase> losses() {
        List<OpCase> cases = new ArrayList<>();
        cases.add(crossEntropy(7, 33));
        cases.add(crossEntropy(1, 1));
        cases.add(crossEntropy(33, 7));
        cases.add(allIgnored());
        for (Role weight : List.of(Role.TRAINABLE, Role.CONSTANT, Role.PREPARED)) {
            cases.add(linearCrossEntropy(7, 5, 33, weight, Role.TRAINABLE));
            cases.add(linearCrossEntropy(33, 7, 1, weight, Role.TRAINABLE));
        }
        cases.add(linearCrossEntropy(7, 5, 33, Role.TRAINABLE, Role.CONSTANT));
        // 32 rows per chunk at this vocabulary: two chunks, the second of one row.
        cases.add(linearCrossEntropy(33, 1, 1 << 15, Role.TRAINABLE, Role.TRAINABLE));
        cases.add(linearCrossEntropy(33, 5, 1 << 15, Role.PREPARED, Role.TRAINABLE, 1.5));
        cases.add(linearCrossEntropy(7, 5, 33, Role.TRAINABLE, Role.TRAINABLE, 1.5));
        return cases;
    }

    /// Every third label is ignored, but never the first.
    private static Input labels(int n, int v) {
        return integers("labels", 0, v, n).drawn((random, i) -> i % 3 == 2 ? IGNORE : random.nextInt(v));
    }

    private static OpCase crossEntropy(int n, int v) {
        return OpCase.of(
                        "crossEntropy",
                        n + "x" + v,
                        Shape.of(),
                        in -> Functional.crossEntropy(in.get("logits"), in.get("labels"), IGNORE))
                .with(trainable("logits", n, v).scaled(3), labels(n, v))
                .composed(in ->
                        negativeLogLikelihood(in.get("logits"), in.get("labels").toInts()))
                .flops(4L * n * v, 3L * n * v);
    }

    private static Tensor negativeLogLikelihood(Tensor logits, int[] labels) {
        int v = logits.shape().cols();
        double[] oneHot = new double[labels.length * v];
        int valid = 0;
        for (int i = 0; i < labels.length; i++) {
            if (labels[i] != IGNORE) {
                oneHot[i * v + labels[i]] = -1;
                valid++;
            }
        }
        Tensor chosen = Tensor.of(logits.backend(), logits.dtype(), oneHot, labels.length, v);
        Tensor logs = Functional.unary(UnaryFn.LOG, Functional.softmax(logits));
        return logs.mul(chosen).sum().scale(1.0 / valid);
    }

    private static OpCase allIgnored() {
        return OpCase.of(
                        "crossEntropy",
                        "all labels ignored",
                        Shape.of(),
                        in -> Functional.crossEntropy(in.get("logits"), in.get("labels"), IGNORE))
                .with(trainable("logits", 5, 7), integers("labels", IGNORE, IGNORE + 1, 5));
    }

    private static OpCase linearCrossEntropy(int n, int c, int v, Role weight, Role x) {
        return linearCrossEntropy(n, c, v, weight, x, 0);
    }

    private static OpCase linearCrossEntropy(int n, int c, int v, Role weight, Role x, double softCap) {
        String variant = n + "x" + c + " to " + v + ", weight " + LinearCases.name(weight) + ", x "
                + LinearCases.name(x) + (softCap == 0 ? "" : ", soft cap");
        long product = 2L * n * c * v;
        int products = (weight == Role.TRAINABLE ? 1 : 0) + (x == Role.TRAINABLE ? 1 : 0);
        return OpCase.of(
                        "linearCrossEntropy",
                        variant,
                        Shape.of(),
                        in -> Functional.linearCrossEntropy(
                                in.get("x"), in.get("weight"), in.get("labels"), IGNORE, softCap))
                .with(new Input("x", Shape.of(n, c), x, trainable("x").draw()))
                .with(LinearCases.weight("weight", weight, v, c), labels(n, v))
                .composed(in -> {
                    Tensor logits = Functional.linear(in.get("x"), in.get("weight"), null);
                    Tensor capped = softCap == 0
                            ? logits
                            : Functional.tanh(logits.scale(1 / softCap)).scale(softCap);
                    return Functional.crossEntropy(capped, in.get("labels"), IGNORE);
                })
                .flops(product, products * product);
    }

    // ---- checkpoint

    private static List<OpCase> checkpoints() {
        return List.of(
                checkpoint("x trainable", trainable("x", 7, 5)),
                checkpoint("x constant", constant("x", 7, 5)),
                OpCase.of(
                                "checkpoint",
                                "two inputs",
                                Shape.of(7, 5),
                                in -> Autograd.checkpoint(
                                        t -> t.get(0).mul(Functional.tanh(t.get(1))),
                                        List.of(in.get("x").scale(2), in.get("y"))))
                        .with(trainable("x", 7, 5), trainable("y", 7, 5))
                        .composed(in -> in.get("x").scale(2).mul(Functional.tanh(in.get("y")))));
    }

    private static OpCase checkpoint(String variant, Input x) {
        Function<Arguments, Function<Tensor, Tensor>> segment =
                in -> h -> Functional.gelu(Functional.linear(h, in.get("weight"), in.get("bias")))
                        .mul(h);
        return OpCase.of(
                        "checkpoint",
                        variant,
                        Shape.of(7, 5),
                        in -> Autograd.checkpoint(segment.apply(in)::apply, in.get("x")))
                .with(x, trainable("weight", 5, 5), trainable("bias", 5))
                .composed(in -> segment.apply(in).apply(in.get("x")));
    }

    static long size(int[] dims) {
        return Shape.of(dims).size();
    }
}
