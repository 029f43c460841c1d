package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import java.util.List;
import java.util.function.Function;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// The messages given when an argument does not fit: their text is part of the interface. Nothing may be left
/// allocated.
class DoorsTest {
    /// A call that must be rejected, and how.
    record Refusal(Class<? extends RuntimeException> type, String message, Function<Make, Object> call) {
        @Override
        public String toString() {
            return message;
        }
    }

    /// Creates arguments.
    record Make(PackingBackend backend, ReferenceBackend other) {
        Tensor f(int... dims) {
            return Tensor.full(backend, DType.F32, 1, dims);
        }

        Tensor f64(int... dims) {
            return Tensor.full(backend, DType.F64, 1, dims);
        }

        Tensor bf16(int... dims) {
            return Tensor.full(backend, DType.BF16, 1, dims);
        }

        Tensor elsewhere(int... dims) {
            return Tensor.full(other, DType.F32, 1, dims);
        }

        Tensor ints(int value, int... dims) {
            return Tensor.full(backend, DType.I32, value, dims);
        }

        Tensor prepared(int out, int in) {
            Tensor w = f(out, in);
            w.prepare();
            return w;
        }

        Tensor closed(int... dims) {
            Tensor t = f(dims);
            t.close();
            return t;
        }

        DropoutMask mask() {
            return new DropoutMask(0.5, 1, 2, ints(0, 1).buffer());
        }
    }

    private static Refusal shape(String message, Function<Make, Object> call) {
        return new Refusal(ShapeException.class, message, call);
    }

    private static Refusal dtype(String message, Function<Make, Object> call) {
        return new Refusal(DTypeException.class, message, call);
    }

    private static Refusal backend(String message, Function<Make, Object> call) {
        return new Refusal(BackendException.class, message, call);
    }

    private static Refusal argument(String message, Function<Make, Object> call) {
        return new Refusal(IllegalArgumentException.class, message, call);
    }

    private static Refusal state(String message, Function<Make, Object> call) {
        return new Refusal(IllegalStateException.class, message, call);
    }

    static Stream<Refusal> everyDoor() {
        return Stream.of(
                        operands().stream(),
                        elementwise().stream(),
                        products().stream(),
                        rows().stream(),
                        attention().stream(),
                        layout().stream(),
                        losses().stream(),
                        tensors().stream())
                .flatMap(s -> s);
    }

    /// The checks that all operations share, each through a different one.
    private static List<Refusal> operands() {
        return List.of(
                dtype("softmax: x is I32, but packing computes with [F64, F32]", m -> Functional.softmax(m.ints(1, 3))),
                dtype("gelu: x is BF16, but packing computes with [F64, F32]", m -> Functional.gelu(m.bf16(3))),
                dtype("add: b is F64 but a is F32; copyFrom() converts", m -> m.f(3).add(m.f64(3))),
                backend(
                        "mul: b lives on reference but a on packing; copy the elements over",
                        m -> m.f(3).mul(m.elsewhere(3))),
                backend(
                        "matmul: b (3, 2) is prepared for linear operations and has no readable elements; restore() it "
                                + "first",
                        m -> m.f(2, 3).matmul(m.prepared(3, 2))),
                backend(
                        "linear: x (2, 3) is prepared for linear operations and has no readable elements; restore() it "
                                + "first",
                        m -> Functional.linear(m.prepared(2, 3), m.f(4, 3), null)),
                backend(
                        "scale: x (3) is closed; keep() it, or take it out of its scope by detachFromScope()",
                        m -> m.closed(3).scale(2)));
    }

    private static List<Refusal> elementwise() {
        return List.of(
                shape(
                        "add: shapes (2, 3) and (4) do not broadcast (dimension -1: 3 and 4)",
                        m -> m.f(2, 3).add(m.f(4))),
                shape(
                        "sub: shapes (2, 3) and (3, 3) do not broadcast (dimension -2: 2 and 3)",
                        m -> m.f(2, 3).sub(m.f(3, 3))),
                dtype(
                        "cast: x is I32 and asked for as F32; only floating types are cast, copyFrom() converts others",
                        m -> Functional.cast(m.ints(1, 2), DType.F32)),
                dtype(
                        "cast: x is F32 and asked for as I32; only floating types are cast, copyFrom() converts others",
                        m -> Functional.cast(m.f(2), DType.I32)),
                backend(
                        "cast: x (2, 3) is prepared for linear operations and has no readable elements; restore() it "
                                + "first",
                        m -> Functional.cast(m.prepared(2, 3), DType.BF16)),
                shape("mul: shapes (2) and (3) do not broadcast (dimension -1: 2 and 3)", m -> m.f(2).mul(m.f(3))),
                shape("div: shapes (2) and (3) do not broadcast (dimension -1: 2 and 3)", m -> m.f(2).div(m.f(3))),
                dtype(
                        "div: a is I32, but packing computes with [F64, F32]",
                        m -> m.ints(1, 2).div(m.ints(1, 2))),
                dtype(
                        "dropout: x is I32, but packing computes with [F64, F32]",
                        m -> Functional.dropout(m.ints(1, 2), m.mask())),
                backend(
                        "dropout: the mask's microStep lives on packing but x on reference",
                        m -> Functional.dropout(m.elsewhere(2), m.mask())),
                argument(
                        "dropout: p must be in [0, 1), got 1.0",
                        m -> new DropoutMask(1, 0, 0, m.ints(0, 1).buffer())),
                argument(
                        "dropout: p must be in [0, 1), got NaN",
                        m -> new DropoutMask(Double.NaN, 0, 0, m.ints(0, 1).buffer())),
                argument(
                        "dropout: microStep is 2 of I32, needs one element of I32",
                        m -> new DropoutMask(0.1, 0, 0, m.ints(0, 2).buffer())),
                argument(
                        "dropout: microStep is 1 of F32, needs one element of I32",
                        m -> new DropoutMask(0.1, 0, 0, m.f(1).buffer())));
    }

    private static List<Refusal> products() {
        String needs = "; needs (…, m, k) by (…, k, n), or by (k, n) for all of a";
        return List.of(
                shape(
                        "matmul: a is (2, 3) but b is (4, 5)" + needs,
                        m -> m.f(2, 3).matmul(m.f(4, 5))),
                shape(
                        "matmul: a is (3, 2) transposed but b is (4, 5) transposed" + needs,
                        m -> Functional.matmul(m.f(3, 2), m.f(4, 5), true, true)),
                shape("matmul: a is (3) but b is (3, 5)" + needs, m -> m.f(3).matmul(m.f(3, 5))),
                shape(
                        "matmul: a is (2, 2, 3) but b is (4, 3, 5)" + needs,
                        m -> m.f(2, 2, 3).matmul(m.f(4, 3, 5))),
                shape(
                        "matmul: a is (2, 3) but b is (4, 3, 5)" + needs,
                        m -> m.f(2, 3).matmul(m.f(4, 3, 5))),
                shape(
                        "matmul: a is (2, 3, 2) transposed but b is (3, 5)" + needs,
                        m -> Functional.matmul(m.f(2, 3, 2), m.f(3, 5), true, false)),
                shape(
                        "linear: weight is (4, 7) as (out, in) but x is (3, 5)",
                        m -> Functional.linear(m.f(3, 5), m.f(4, 7), null)),
                shape(
                        "linear: weight is (5) as (out, in) but x is (3, 5)",
                        m -> Functional.linear(m.f(3, 5), m.f(5), null)),
                shape(
                        "linear: bias is (5) but x is (3, 5); needs (4)",
                        m -> Functional.linear(m.f(3, 5), m.f(4, 5), m.f(5))),
                dtype(
                        "linear: weight is F64 but x is F32; copyFrom() converts",
                        m -> Functional.linear(m.f(3, 5), m.f64(4, 5), null)),
                backend(
                        "linear: weight lives on reference but x on packing; copy the elements over",
                        m -> Functional.linear(m.f(3, 5), m.elsewhere(4, 5), null)),
                shape(
                        "loraLinear: weight is (4, 7) as (out, in) but x is (3, 5)",
                        m -> Functional.loraLinear(m.f(3, 5), m.f(4, 7), null, m.f(2, 5), m.f(4, 2), 1, null)),
                shape(
                        "loraLinear: loraA is (2, 4) and loraB is (4, 2) but weight is (4, 5); needs (r, 5) and (4, r)",
                        m -> Functional.loraLinear(m.f(3, 5), m.f(4, 5), null, m.f(2, 4), m.f(4, 2), 1, null)),
                shape(
                        "loraLinear: loraA is (2, 5) and loraB is (4, 3) but weight is (4, 5); needs (r, 5) and (4, r)",
                        m -> Functional.loraLinear(m.f(3, 5), m.f(4, 5), null, m.f(2, 5), m.f(4, 3), 1, null)),
                argument(
                        "loraLinear: weight (4, 5) requires a gradient; freeze it, or compose linear and the low-rank "
                                + "product",
                        m -> Functional.loraLinear(
                                m.f(3, 5), m.f(4, 5).requiresGrad(true), null, m.f(2, 5), m.f(4, 2), 1, null)),
                dtype(
                        "loraLinear: loraB is F64 but x is F32; copyFrom() converts",
                        m -> Functional.loraLinear(m.f(3, 5), m.f(4, 5), null, m.f(2, 5), m.f64(4, 2), 1, null)),
                shape(
                        "bottleneck: down is (2, 4) as (m, in) and up is (5, 2) as (out, m) but x is (3, 5) as (…, in)",
                        m -> bottleneck(m.f(3, 5), null, m.f(2, 4), null, m.f(5, 2))),
                shape(
                        "bottleneck: down is (2, 5) as (m, in) and up is (5, 3) as (out, m) but x is (3, 5) as (…, in)",
                        m -> bottleneck(m.f(3, 5), null, m.f(2, 5), null, m.f(5, 3))),
                shape(
                        "bottleneck: residual is (3, 4) but the result is (3, 5)",
                        m -> bottleneck(m.f(3, 5), m.f(3, 4), m.f(2, 5), null, m.f(5, 2))),
                shape(
                        "bottleneck: downBias is (5) but x is (3, 5); needs (2)",
                        m -> bottleneck(m.f(3, 5), null, m.f(2, 5), m.f(5), m.f(5, 2))),
                dtype(
                        "bottleneck: up is F64 but x is F32; copyFrom() converts",
                        m -> bottleneck(m.f(3, 5), null, m.f(2, 5), null, m.f64(5, 2))));
    }

    private static Tensor bottleneck(
            Tensor x, @Nullable Tensor residual, Tensor down, @Nullable Tensor downBias, Tensor up) {
        return Functional.bottleneck(UnaryFn.SILU, x, residual, down, downBias, up, null, 1, null);
    }

    private static List<Refusal> rows() {
        return List.of(
                shape(
                        "layerNorm: weight is (4) but x is (2, 3); needs (3)",
                        m -> Functional.layerNorm(m.f(2, 3), m.f(4), m.f(3), 1e-5)),
                shape(
                        "layerNorm: bias is (4) but x is (2, 3); needs (3)",
                        m -> Functional.layerNorm(m.f(2, 3), m.f(3), m.f(4), 1e-5)),
                shape(
                        "rmsNorm: weight is (4) but x is (2, 3); needs (3)",
                        m -> Functional.rmsNorm(m.f(2, 3), m.f(4), 1e-5)),
                dtype(
                        "rmsNorm: weight is F64 but x is F32; copyFrom() converts",
                        m -> Functional.rmsNorm(m.f(2, 3), m.f64(3), 1e-5)),
                shape(
                        "addRmsNorm: residual is (3) but x is (2, 3); they must have one shape",
                        m -> Functional.addRmsNorm(m.f(2, 3), m.f(3), m.f(3), 1e-5)
                                .sum()),
                shape(
                        "addLayerNorm: residual is (2, 4) but x is (2, 3); they must have one shape",
                        m -> Functional.addLayerNorm(m.f(2, 3), m.f(2, 4), m.f(3), m.f(3), 1e-5)
                                .sum()),
                dtype(
                        "addRmsNorm: residual is F64 but x is F32; copyFrom() converts",
                        m -> Functional.addRmsNorm(m.f(2, 3), m.f64(2, 3), m.f(3), 1e-5)
                                .sum()),
                shape(
                        "sum: dimension 2 does not exist in (2, 3)",
                        m -> m.f(2, 3).sum(2)),
                shape(
                        "mean: dimension -3 does not exist in (2, 3)",
                        m -> m.f(2, 3).mean(-3)),
                dtype(
                        "sum: x is I32, but packing computes with [F64, F32]",
                        m -> m.ints(1, 3).sum()),
                shape(
                        "rope: x is (1, 2, 3, 5), needs (B, T, H, D) with D even",
                        m -> Functional.rope(m.f(1, 2, 3, 5), m.f(2, 2), m.f(2, 2))),
                shape(
                        "rope: cos is (2, 2) and sin is (2, 3) but x is (1, 2, 3, 4); needs (2, 2)",
                        m -> Functional.rope(m.f(1, 2, 3, 4), m.f(2, 2), m.f(2, 3))),
                dtype(
                        "rope: sin is F64 but x is F32; copyFrom() converts",
                        m -> Functional.rope(m.f(1, 2, 3, 4), m.f(2, 2), m.f64(2, 2))));
    }

    private static List<Refusal> attention() {
        String needs = "; needs (B, T, heads, D) and twice (B, S, kvHeads, D), heads a multiple of kvHeads";
        return List.of(
                shape(
                        "attention: q is (2, 3, 4, 5), k is (2, 3, 3, 5), v is (2, 3, 3, 5)" + needs,
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5), m.f(2, 3, 3, 5), m.f(2, 3, 3, 5), null, null, null, false, 1)),
                shape(
                        "attention: q is (2, 3, 4, 5), k is (2, 3, 4, 5), v is (2, 4, 4, 5)" + needs,
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5), m.f(2, 3, 4, 5), m.f(2, 4, 4, 5), null, null, null, false, 1)),
                shape(
                        "attention: q is (2, 3, 4, 5), k is (2, 2, 4, 5), v is (2, 2, 4, 5)" + needs + ", S at least T",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5), m.f(2, 2, 4, 5), m.f(2, 2, 4, 5), null, null, null, true, 1)),
                argument(
                        "attention: prefixK and prefixV come together",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5), m.f(2, 3, 4, 5), m.f(2, 3, 4, 5), m.f(1, 4, 5), null, null, false, 1)),
                shape(
                        "attention: prefixK is (3, 1, 4, 5), prefixV is (3, 1, 4, 5) but k is (2, 3, 4, 5); needs "
                                + "(P, kvHeads, D) or (B, P, kvHeads, D)",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(3, 1, 4, 5),
                                m.f(3, 1, 4, 5),
                                null,
                                false,
                                1)),
                dtype(
                        "attention: prefixV is F64 but q is F32; copyFrom() converts",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(1, 4, 5),
                                m.f64(1, 4, 5),
                                null,
                                false,
                                1)),
                shape(
                        "attention: mask is (2, 3) but k is (2, 3, 4, 5); needs 8 entries",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(2, 3, 4, 5),
                                m.f(1, 4, 5),
                                m.f(1, 4, 5),
                                m.ints(1, 2, 3),
                                false,
                                1)),
                dtype(
                        "attention: mask is F32, needs I32",
                        m -> Functional.attention(
                                m.f(2, 3, 4, 5), m.f(2, 3, 4, 5), m.f(2, 3, 4, 5), null, null, m.f(2, 3), false, 1)));
    }

    private static List<Refusal> layout() {
        return List.of(
                shape("concat: no tensors given", m -> Functional.concat(List.of(), 0)),
                shape(
                        "concat: (2, 4) does not fit (2, 3) outside dimension 0",
                        m -> Functional.concat(List.of(m.f(2, 3), m.f(2, 4)), 0)),
                shape(
                        "concat: (2) does not fit (2, 3) outside dimension 1",
                        m -> Functional.concat(List.of(m.f(2, 3), m.f(2)), -1)),
                shape("concat: dimension 2 does not exist in (2, 3)", m -> Functional.concat(List.of(m.f(2, 3)), 2)),
                dtype(
                        "concat: a tensor is F64 but the first is F32; copyFrom() converts",
                        m -> Functional.concat(List.of(m.f(2), m.f64(2)), 0)),
                shape(
                        "permute: [0, 0] is no permutation of the dimensions of (2, 3)",
                        m -> m.f(2, 3).permute(0, 0)),
                shape(
                        "permute: [0] is no permutation of the dimensions of (2, 3)",
                        m -> m.f(2, 3).permute(0)),
                shape(
                        "permute: [-3, 1] is no permutation of the dimensions of (2, 3)",
                        m -> m.f(2, 3).permute(-3, 1)),
                shape(
                        "transpose: dimension 2 does not exist in (2, 3)",
                        m -> m.f(2, 3).transpose(0, 2)),
                shape(
                        "reshape: x is (2, 3) with 6 elements, [4, -1] does not hold them",
                        m -> m.f(2, 3).reshape(4, -1)),
                shape(
                        "reshape: x is (2, 3) with 6 elements, [-1, -6] does not hold them",
                        m -> m.f(2, 3).reshape(-1, -6)),
                shape(
                        "reshape: x is (2, 3) with 6 elements, [5] does not hold them",
                        m -> m.f(2, 3).reshape(5)),
                shape(
                        "slice: 1 to 4 of dimension 1 does not lie in (2, 3)",
                        m -> m.f(2, 3).slice(-1, 1, 4)),
                shape(
                        "slice: 2 to 1 of dimension 0 does not lie in (2, 3)",
                        m -> m.f(2, 3).slice(0, 2, 1)),
                shape(
                        "slice: dimension 2 does not exist in (2, 3)",
                        m -> m.f(2, 3).slice(2, 0, 1)),
                shape("embedding: table is (7), needs (V, C)", m -> Functional.embedding(m.f(7), m.ints(1, 2))),
                dtype("embedding: ids is F32, needs I32", m -> Functional.embedding(m.f(7, 2), m.f(2))),
                backend(
                        "gatherRows: id 7 does not exist in a table of 7 rows",
                        m -> Functional.embedding(m.f(7, 2), m.ints(7, 2))));
    }

    private static List<Refusal> losses() {
        return List.of(
                shape(
                        "crossEntropy: labels is (3) but logits is (2, 5); needs 2 entries",
                        m -> Functional.crossEntropy(m.f(2, 5), m.ints(1, 3), -100)),
                dtype("crossEntropy: labels is F32, needs I32", m -> Functional.crossEntropy(m.f(2, 5), m.f(2), -100)),
                backend(
                        "crossEntropy: label 5 does not lie in [0, 5)",
                        m -> Functional.crossEntropy(m.f(2, 5), m.ints(5, 2), -100)),
                backend(
                        "crossEntropy: label -1 does not lie in [0, 5)",
                        m -> Functional.linearCrossEntropy(
                                m.f(2, 3).requiresGrad(true), m.f(5, 3).requiresGrad(true), m.ints(-1, 2), -100)),
                shape(
                        "linearCrossEntropy: weight is (5, 4) as (out, in) but x is (2, 3)",
                        m -> Functional.linearCrossEntropy(m.f(2, 3), m.f(5, 4), m.ints(1, 2), -100)),
                shape(
                        "linearCrossEntropy: labels is (3) but x is (2, 3); needs 2 entries",
                        m -> Functional.linearCrossEntropy(m.f(2, 3), m.f(5, 3), m.ints(1, 3), -100)));
    }

    private static List<Refusal> tensors() {
        return List.of(
                shape(
                        "tensor: 3 values do not fill shape (2, 2)",
                        m -> Tensor.of(m.backend, DType.F32, new double[3], 2, 2)),
                shape("tensor: 3 values do not fill shape (2, 2)", m -> Tensor.of(m.backend, new float[3], 2, 2)),
                shape("tensor: 3 values do not fill shape (2, 2)", m -> Tensor.ofInts(m.backend, new int[3], 2, 2)),
                shape(
                        "tensor: shape (2, 2) needs 4 elements, the buffer has 3",
                        m -> Tensor.own(Shape.of(2, 2), m.f(3).buffer())),
                shape("shape: dimensions must not be negative, got [2, -1]", m -> m.f(2, -1)),
                shape(
                        "shape: dimension 2 does not exist in (2, 3)",
                        m -> m.f(2, 3).shape().dim(2)),
                shape("item: tensor has shape (2), needs one element", m -> m.f(2).item()),
                dtype("toInts: dtype is F32, needs I32", m -> m.f(2).toInts()),
                dtype(
                        "requiresGrad: dtype I32 carries no gradient",
                        m -> m.ints(1, 2).requiresGrad(true)),
                state(
                        "requiresGrad: tensor (2) is no leaf; detach() it first",
                        m -> m.f(2).requiresGrad(true).scale(2).requiresGrad(false)),
                shape("copyFrom: source is (3) but the tensor is (2)", m -> m.f(2).copyFrom(m.f(3))),
                backend(
                        "copyFrom: source lives on reference, the tensor on packing; move it first",
                        m -> m.f(2).copyFrom(m.elsewhere(2))),
                state(
                        "copyFrom: tensor (2) is the result of an operation",
                        m -> m.f(2).requiresGrad(true).scale(2).copyFrom(m.f(2))),
                backend(
                        "copyFrom: source (2, 3) is prepared for linear operations and has no readable elements; "
                                + "restore() it first",
                        m -> m.f(2, 3).copyFrom(m.prepared(2, 3))),
                shape("assign: shape (2, 2) does not fit a buffer of 3", m -> {
                    m.f(3).assign(Shape.of(2, 2), m.f(3).buffer());
                    return m;
                }),
                state("assign: tensor (2) is the result of an operation", m -> {
                    m.f(2).requiresGrad(true).scale(2).assign(Shape.of(3), m.f(3).buffer());
                    return m;
                }));
    }

    @ParameterizedTest
    @MethodSource("everyDoor")
    void says(Refusal r) {
        Make make = new Make(new PackingBackend(), new ReferenceBackend());
        try (Scope scope = Scope.open()) {
            assertThatThrownBy(() -> r.call.apply(make)).isInstanceOf(r.type).hasMessage(r.message);
        }
        assertThat(make.backend.liveBuffers() + make.other.liveBuffers()).isZero();
    }
}
