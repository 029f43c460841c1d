package dev.loran.engine.functional;

import dev.loran.engine.MatMulOp;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.UnaryFn;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The operations that are not methods of [Tensor]. Each method checks its arguments and then records the operation.
/// All are differentiable in every floating-point argument except position tables; none modifies an argument.
///
/// If arguments do not fit, every method throws a [dev.loran.engine.backend.ShapeException],
/// [dev.loran.engine.backend.DTypeException] or [dev.loran.engine.backend.BackendException] that names the operation,
/// the argument and both shapes.
public final class Functional {
    /// The label that [#crossEntropy] ignores by convention (torch's `ignore_index`).
    public static final int IGNORE_INDEX = -100;

    private Functional() {}

    /// Converts x to the floating-point type `to`, rounding to nearest even; returns x itself if it already has that
    /// type. The gradient is converted back to x's type, so a parameter trained in F32 can be cast to BF16 where it is
    /// used. **Saved for backward**: nothing.
    public static Tensor cast(Tensor x, DType to) {
        return CastOp.forward(x, to);
    }

    /// y = x · weightᵀ + bias.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | x | (…, in) |
    /// | weight | (out, in), row-major or prepared |
    /// | bias | (out) or null |
    /// | result | (…, out) |
    ///
    /// **Saved for backward**: x if the weight is trainable, the weight if x requires a gradient.
    public static Tensor linear(Tensor x, Tensor weight, @Nullable Tensor bias) {
        return LinearOp.forward(x, weight, bias);
    }

    /// y = x · weightᵀ + bias + scaling · (dropout(x) · loraAᵀ) · loraBᵀ for a frozen weight; the low-rank factors are
    /// never multiplied out to (out, in).
    ///
    /// | argument | shape |
    /// |---|---|
    /// | x | (…, in) |
    /// | weight | (out, in), frozen, row-major or prepared |
    /// | bias | (out) or null |
    /// | loraA, loraB | (r, in), (out, r) |
    /// | mask | dropout over the rows and columns of x; null for none |
    /// | result | (…, out) |
    ///
    /// **Saved for backward**: x, weight, loraA, loraB and t = dropout(x) · loraAᵀ (N, r). **Paper**: Hu et al., "LoRA:
    /// Low-Rank Adaptation of Large Language Models", 2021, equation 3.
    public static Tensor loraLinear(
            Tensor x,
            Tensor weight,
            @Nullable Tensor bias,
            Tensor loraA,
            Tensor loraB,
            double scaling,
            @Nullable DropoutMask mask) {
        Lora lora = new Lora(loraA, loraB, scaling, mask);
        return projections(x, List.of(new Projection(weight, bias, lora))).getFirst();
    }

    /// One of several linear layers that share their input: the weight and bias of [#linear] and, if it has a low-rank
    /// part, the arguments of [#loraLinear].
    public record Projection(
            Tensor weight, @Nullable Tensor bias, @Nullable Lora lora) {}

    /// The low-rank part of [#loraLinear].
    public record Lora(
            Tensor loraA,
            Tensor loraB,
            double scaling,
            @Nullable DropoutMask mask) {}

    /// Rows of [#segmentedLoraLinear] with a low-rank part of their own.
    ///
    /// @param rows how many, counted along the first dimension of x
    /// @param lora null for none
    public record LoraSegment(int rows, @Nullable Lora lora) {}

    /// [#loraLinear] with another low-rank part for each of several segments of rows, which follow one another along
    /// the first dimension of x (B, …, in): the product with the frozen weight is one for all of them. Each segment's
    /// result is the same as if it were alone; its dropout counts rows from its own first one.
    ///
    /// **Saved for backward**: x, weight, and of each segment loraA, loraB and t.
    public static Tensor segmentedLoraLinear(
            Tensor x, Tensor weight, @Nullable Tensor bias, List<LoraSegment> segments) {
        return SegmentedLoraLinearOp.forward(x, weight, bias, segments);
    }

    /// Applies several linear layers to one x (…, in), such as the query, key and value projections of attention, in a
    /// single pass over x if the backend can. Each result (…, out) is the same as that of [#linear] or [#loraLinear].
    ///
    /// **Saved for backward**: what those operations save.
    public static List<Tensor> projections(Tensor x, List<Projection> layers) {
        return LinearOp.forward(x, layers);
    }

    /// op(a) · op(b) over the last two dimensions, where op transposes if requested. See [Tensor#matmul].
    public static Tensor matmul(Tensor a, Tensor b, boolean transA, boolean transB) {
        return MatMulOp.forward(a, b, transA, transB);
    }

    /// fn of each element.
    public static Tensor unary(UnaryFn fn, Tensor x) {
        return UnaryFnOp.forward(fn, x);
    }

    /// x · Φ(x), using the exact error function.
    public static Tensor gelu(Tensor x) {
        return unary(UnaryFn.GELU, x);
    }

    /// The tanh approximation of [#gelu].
    public static Tensor geluTanh(Tensor x) {
        return unary(UnaryFn.GELU_TANH, x);
    }

    /// x · σ(x).
    public static Tensor silu(Tensor x) {
        return unary(UnaryFn.SILU, x);
    }

    /// max(x, 0).
    public static Tensor relu(Tensor x) {
        return unary(UnaryFn.RELU, x);
    }

    /// tanh x.
    public static Tensor tanh(Tensor x) {
        return unary(UnaryFn.TANH, x);
    }

    /// 1 / (1 + e⁻ˣ).
    public static Tensor sigmoid(Tensor x) {
        return unary(UnaryFn.SIGMOID, x);
    }

    /// fn(gate) · up, both of the same shape; with silu this is the SwiGLU of gated feed-forward networks. **Saved for
    /// backward**: gate and up. **Paper**: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
    public static Tensor gated(UnaryFn fn, Tensor gate, Tensor up) {
        return GatedOp.forward(fn, gate, up);
    }

    /// A bottleneck adapter: residual + scaling · (dropout(fn(x · downᵀ + downBias)) · upᵀ + upBias).
    ///
    /// | argument | shape |
    /// |---|---|
    /// | x | (…, in) |
    /// | residual, result | (…, out); residual may be null, or x itself |
    /// | down, downBias | (m, in), (m) or null |
    /// | up, upBias | (out, m), (out) or null |
    /// | mask | dropout over the rows and columns of fn's result; null for none |
    ///
    /// **Saved for backward**: x, down, up, the input of fn, and the input of the second product (N, m), each only if a
    /// gradient needs it. **Paper**: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, section
    /// 2.1.
    public static Tensor bottleneck(
            UnaryFn fn,
            Tensor x,
            @Nullable Tensor residual,
            Tensor down,
            @Nullable Tensor downBias,
            Tensor up,
            @Nullable Tensor upBias,
            double scaling,
            @Nullable DropoutMask mask) {
        return BottleneckOp.forward(fn, x, residual, down, downBias, up, upBias, scaling, mask);
    }

    /// Softmax over the last dimension. **Saved for backward**: the result.
    public static Tensor softmax(Tensor x) {
        return SoftmaxOp.forward(x);
    }

    /// (x − mean) / √(variance + eps) · weight + bias over the last dimension C; weight and bias are (C). **Saved for
    /// backward**: x, weight, and mean and 1 / √(variance + eps) of each row. **Paper**: Ba, Kiros, Hinton, "Layer
    /// Normalization", 2016.
    public static Tensor layerNorm(Tensor x, Tensor weight, Tensor bias, double eps) {
        return LayerNormOp.forward(x, weight, bias, eps);
    }

    /// x / √(mean(x²) + eps) · weight over the last dimension C; weight is (C). **Saved for backward**: x, weight, and
    /// 1 / √(mean(x²) + eps) of each row. **Paper**: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019,
    /// equation 4.
    public static Tensor rmsNorm(Tensor x, Tensor weight, double eps) {
        return RmsNormOp.forward(x, weight, eps);
    }

    /// The results of [#addLayerNorm] and [#addRmsNorm]: x + residual, and its norm, both of x's shape.
    public record NormedSum(Tensor sum, Tensor norm) {}

    /// Computes x + residual, two tensors of the same shape, and the [#layerNorm] of that sum, in one pass: what a
    /// residual stream and the layer after it need. Gradients are those of `x.add(residual)` followed by the norm.
    /// **Saved for backward**: the sum, weight, and mean and 1 / √(variance + eps) of each row.
    public static NormedSum addLayerNorm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps) {
        return LayerNormOp.forward(x, residual, weight, bias, eps);
    }

    /// As [#addLayerNorm], but with [#rmsNorm].
    public static NormedSum addRmsNorm(Tensor x, Tensor residual, Tensor weight, double eps) {
        return RmsNormOp.forward(x, residual, weight, eps);
    }

    /// Rotary position embedding in rotate-half layout of x (B, T, H, D), D even, with tables cos and sin (T, D / 2);
    /// row t of the tables belongs to position t of x. **Paper**: Su et al., "RoFormer", 2021, equation 34.
    public static Tensor rope(Tensor x, Tensor cos, Tensor sin) {
        return RopeOp.forward(x, cos, sin);
    }

    /// Looks up rows `ids` (…) I32 of `table` (V, C), giving (…, C). A negative id gives zeros. An id of V or more is
    /// reported as an error by the backend. This is also the way to gather rows.
    public static Tensor embedding(Tensor table, Tensor ids) {
        return EmbeddingOp.forward(table, ids);
    }

    /// softmax(scale · q·kᵀ) · v with grouped-query heads, causal and padding masks, and a prefix of keys and values.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | q, result | (B, T, heads, D) |
    /// | k, v | (B, S, kvHeads, D); heads is a multiple of kvHeads |
    /// | prefixK, prefixV | (P, kvHeads, D) for every row of the batch or (B, P, kvHeads, D); or both null |
    /// | mask | I32 (B, P + S), 0 hides a key from every query; or null |
    ///
    /// With `causal`, query i sees keys j ≤ i + (S − T) and the whole prefix. A query that sees no key yields zeros.
    /// **Saved for backward**: q, k, v, the prefix, the result, and log Σ exp of each query's scores; never the scores.
    /// **Paper**: Vaswani et al., 2017, equation 1; Dao et al., "FlashAttention", 2022; the prefix: Li and Liang,
    /// "Prefix-Tuning", 2021.
    public static Tensor attention(
            Tensor q,
            Tensor k,
            Tensor v,
            @Nullable Tensor prefixK,
            @Nullable Tensor prefixV,
            @Nullable Tensor mask,
            boolean causal,
            double scale) {
        return attention(q, k, v, prefixK, prefixV, mask, new Scoring(causal, scale));
    }

    /// As above, optionally with a window, a soft cap or packed rows: see [Scoring].
    public static Tensor attention(
            Tensor q,
            Tensor k,
            Tensor v,
            @Nullable Tensor prefixK,
            @Nullable Tensor prefixV,
            @Nullable Tensor mask,
            Scoring scoring) {
        return AttentionOp.forward(q, k, v, prefixK, prefixV, mask, scoring);
    }

    /// x · mask / (1 − p); the rows are all dimensions but the last. **Saved for backward**: nothing.
    public static Tensor dropout(Tensor x, DropoutMask mask) {
        return DropoutOp.forward(x, mask);
    }

    /// Concatenates the tensors along `axis`.
    public static Tensor concat(List<Tensor> tensors, int axis) {
        return ConcatOp.forward(tensors, axis);
    }

    /// Mean cross-entropy: minus the log-softmax of the label, averaged over the rows whose label is not `ignoreIndex`;
    /// 0 if there are none. logits are (…, V); labels are I32 with one entry per row, each in [0, V) or `ignoreIndex`;
    /// the result is a scalar.
    public static Tensor crossEntropy(Tensor logits, Tensor labels, int ignoreIndex) {
        return CrossEntropyOp.forward(logits, labels, ignoreIndex);
    }

    /// [#crossEntropy] of x · weightᵀ, computed in chunks of rows so that the logits of the whole batch are never held
    /// in memory. x is (…, C); weight is (V, C), row-major, or prepared if it is frozen. Gradients are computed in the
    /// forward pass. **Saved for backward**: the gradients of x and of a trainable weight.
    public static Tensor linearCrossEntropy(Tensor x, Tensor weight, Tensor labels, int ignoreIndex) {
        return linearCrossEntropy(x, weight, labels, ignoreIndex, 0);
    }

    /// As above, where a logit y becomes softCap · tanh(y / softCap); 0 for no such limit.
    public static Tensor linearCrossEntropy(Tensor x, Tensor weight, Tensor labels, int ignoreIndex, double softCap) {
        return LinearCrossEntropyOp.forward(x, weight, labels, ignoreIndex, softCap);
    }
}
