package dev.loran.engine.testing;

import static dev.loran.engine.testing.OpCase.Input.trainable;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import java.util.stream.IntStream;

/// Operations along rows: softmax, norms, sums.
final class RowCases {
    /// Large enough to affect every result, and to keep a norm over one element, whose gradient vanishes with eps,
    /// well-conditioned.
    private static final double EPS = 0.05;

    private RowCases() {}

    static List<OpCase> all() {
        List<OpCase> cases = new ArrayList<>();
        for (int[] s : new int[][] {{1, 1}, {7, 33}, {33, 7}, {1, 100}}) {
            cases.add(softmax(s[0], s[1]));
            cases.add(layerNorm(s[0], s[1]));
            cases.add(rmsNorm(s[0], s[1]));
            cases.add(addLayerNorm(s[0], s[1]));
            cases.add(addRmsNorm(s[0], s[1]));
        }
        for (int axis : new int[] {0, 1, 2, -1}) {
            cases.add(sum(axis, 3, 7, 5));
        }
        cases.add(reduceAll("sum", Tensor::sum, 7, 33));
        cases.add(reduceAll("sum", Tensor::sum, 1));
        cases.add(reduceAll("mean", Tensor::mean, 7, 33));
        cases.add(OpCase.of(
                        "mean",
                        "dimension 1 of (3, 7, 5)",
                        Shape.of(3, 5),
                        in -> in.get("x").mean(1))
                .with(trainable("x", 3, 7, 5))
                .composed(in -> in.get("x").sum(1).scale(1 / 7.0))
                .flops(105, 105));
        return cases;
    }

    static OpCase softmax(int n, int c) {
        return OpCase.of("softmax", n + "x" + c, Shape.of(n, c), in -> Functional.softmax(in.get("x")))
                .with(trainable("x", n, c).scaled(3))
                .composed(in -> {
                    Tensor e = Functional.unary(UnaryFn.EXP, in.get("x"));
                    return e.div(e.sum(1).reshape(n, 1));
                })
                .flops(5L * n * c, 4L * n * c);
    }

    static OpCase layerNorm(int n, int c) {
        return OpCase.of(
                        "layerNorm",
                        n + "x" + c,
                        Shape.of(n, c),
                        in -> Functional.layerNorm(in.get("x"), in.get("weight"), in.get("bias"), EPS))
                .with(trainable("x", n, c), trainable("weight", c), trainable("bias", c))
                .composed(in -> {
                    Tensor x = in.get("x");
                    Tensor centred = x.sub(x.mean(1).reshape(n, 1));
                    return normalised(centred, centred).mul(in.get("weight")).add(in.get("bias"));
                })
                .flops(8L * n * c, 14L * n * c);
    }

    static OpCase rmsNorm(int n, int c) {
        return OpCase.of(
                        "rmsNorm",
                        n + "x" + c,
                        Shape.of(n, c),
                        in -> Functional.rmsNorm(in.get("x"), in.get("weight"), EPS))
                .with(trainable("x", n, c), trainable("weight", c))
                .composed(in -> normalised(in.get("x"), in.get("x")).mul(in.get("weight")))
                .flops(4L * n * c, 10L * n * c);
    }

    private static OpCase addLayerNorm(int n, int c) {
        return OpCase.of(
                        "addLayerNorm",
                        n + "x" + c,
                        Shape.of(n, c),
                        in -> both(Functional.addLayerNorm(
                                in.get("x"), in.get("residual"), in.get("weight"), in.get("bias"), EPS)))
                .with(trainable("x", n, c), trainable("residual", n, c), trainable("weight", c), trainable("bias", c))
                .composed(in -> {
                    Tensor sum = in.get("x").add(in.get("residual"));
                    return sum.add(Functional.layerNorm(sum, in.get("weight"), in.get("bias"), EPS));
                })
                .flops(10L * n * c, 16L * n * c);
    }

    private static OpCase addRmsNorm(int n, int c) {
        return OpCase.of(
                        "addRmsNorm",
                        n + "x" + c,
                        Shape.of(n, c),
                        in -> both(Functional.addRmsNorm(in.get("x"), in.get("residual"), in.get("weight"), EPS)))
                .with(trainable("x", n, c), trainable("residual", n, c), trainable("weight", c))
                .composed(in -> {
                    Tensor sum = in.get("x").add(in.get("residual"));
                    return sum.add(Functional.rmsNorm(sum, in.get("weight"), EPS));
                })
                .flops(6L * n * c, 12L * n * c);
    }

    /// A single tensor that depends on both results of a norm with a residual.
    private static Tensor both(Functional.NormedSum of) {
        return of.sum().add(of.norm());
    }

    /// x / √(mean over the columns of of² + EPS).
    private static Tensor normalised(Tensor x, Tensor of) {
        Tensor square =
                Functional.unary(UnaryFn.SQUARE, of).mean(1).reshape(of.shape().rows(), 1);
        Tensor shift = Tensor.full(x.backend(), x.dtype(), EPS, 1);
        return x.mul(Functional.unary(UnaryFn.RSQRT, square.add(shift)));
    }

    static OpCase sum(int axis, int... dims) {
        Shape s = Shape.of(dims);
        int a = s.axis(axis);
        int[] result = IntStream.range(0, dims.length)
                .filter(i -> i != a)
                .map(i -> dims[i])
                .toArray();
        return OpCase.of(
                        "sum",
                        "dimension " + axis + " of " + s,
                        Shape.of(result),
                        in -> in.get("x").sum(axis))
                .with(trainable("x", dims))
                .flops(s.size(), 0);
    }

    private static OpCase reduceAll(String op, Function<Tensor, Tensor> fn, int... dims) {
        Shape s = Shape.of(dims);
        return OpCase.of(op, "all of " + s, Shape.of(), in -> fn.apply(in.get("x")))
                .with(trainable("x", dims))
                .flops(s.size(), 0);
    }
}
