package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import java.util.Arrays;
import java.util.function.BiConsumer;

/// DoRA: LoRA learns the direction of each output's weights, and their magnitude m (out) is learned separately:
///
/// ```
/// y = c ∘ (x·Wᵀ + s·x·Aᵀ·Bᵀ) + b,   c = m / n,   n = ‖W + s·B·A‖ of each row
/// ```
///
/// n carries no gradient (section 4.3 of the paper). m starts as n, so the layer initially computes what the frozen one
/// does. The product B·A is never formed:
///
/// ```
/// n² = ‖W‖² + 2s · rowsum((W·Aᵀ) ∘ B) + s² · rowsum((B·A·Aᵀ) ∘ B)
/// ```
///
/// where ‖W‖² of each row is cached, and n is cached until a weight is written: one product of W with r more rows per
/// step.
///
/// With active dropout, dropout affects the scaled terms but not the frozen layer's output, as in Hugging Face peft: y
/// = x·Wᵀ + b + (c − 1) ∘ (d·Wᵀ) + c ∘ (s·d·Aᵀ·Bᵀ) with d = dropout(x).
///
/// **Paper**: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equations 5 and 11.
final class DoraLinear extends LoraLinear {
    /// Added to n²: rows of zeros stay zero, and for any other row it is negligible.
    private static final double NO_ROW = 1e-30;

    private final Tensor magnitude;
    /// ‖W‖² of each row (out), for version `squaresOf` of W.
    private final Tensor squares;

    private int squaresOf;
    /// n (out), for versions `normOf` of W, A and B.
    private final Tensor norm;

    private int[] normOf = {};

    DoraLinear(Linear base, LoraConfig config, String module, Attachment to, int site) {
        super(base, config, module, to, site);
        Tensor w = weight(base);
        DType type = w.dtype().accumulator();
        int out = base.outFeatures();
        squares = Tensor.zeros(w.backend(), type, out).detachFromScope();
        norm = Tensor.zeros(w.backend(), type, out).detachFromScope();
        magnitude = Tensor.zeros(w.backend(), type, out).detachFromScope();
        measure(w);
        magnitude.copyFrom(norm(w));
    }

    @Override
    public Tensor forward(Linear base, Tensor x) {
        Tensor w = weight(base);
        DType type = x.dtype();
        Tensor c = Functional.cast(magnitude.div(norm(w)), type);
        Tensor a = Functional.cast(loraA, type);
        Tensor b = Functional.cast(loraB, type);
        DropoutMask mask = base.isTraining() ? dropout : null;
        if (mask == null) {
            Tensor y = Functional.loraLinear(x, w, null, a, b, scaling, null).mul(c);
            Tensor bias = base.bias(type);
            return bias == null ? y : y.add(bias);
        }
        Tensor dropped = Functional.dropout(x, mask);
        return Functional.linear(x.sub(dropped), w, base.bias(type))
                .add(Functional.loraLinear(dropped, w, null, a, b, scaling, null)
                        .mul(c));
    }

    @Override
    public Tensor after(Linear base, Tensor x, Tensor y) {
        Tensor c = Functional.cast(magnitude.div(norm(weight(base))), y.dtype());
        Tensor bias = base.bias(y.dtype());
        Tensor plain = withoutCut(x, bias == null ? y : y.sub(bias));
        Tensor scaled = plain.add(update(x)).mul(c);
        return bias == null ? scaled : scaled.add(bias);
    }

    /// The adapter's output depends on the layer's own output.
    @Override
    public boolean isTerm() {
        return false;
    }

    /// V = W + s · B·A, with its rows scaled to the length m.
    @Override
    public void merge(Linear base, Merge merge) {
        super.merge(base, merge);
        Tensor v = merge.value(base.weight());
        Tensor squaresOfRows = Functional.unary(UnaryFn.SQUARE, v).sum(1);
        Tensor tiny = Tensor.full(v.backend(), v.dtype(), NO_ROW, 1);
        Tensor scale = Merge.wide(magnitude).mul(Functional.unary(UnaryFn.RSQRT, squaresOfRows.add(tiny)));
        merge.put(base.weight(), v.mul(scale.reshape(-1, 1)));
    }

    private void measure(Tensor w) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            squares.copyFrom(Functional.unary(UnaryFn.SQUARE, Merge.wide(w)).sum(1));
        }
        squaresOf = w.version();
    }

    /// n of the current weights. Synchronized because several threads may compute it first.
    private synchronized Tensor norm(Tensor w) {
        if (squaresOf != w.version()) {
            measure(w);
        }
        int[] now = {w.version(), loraA.version(), loraB.version()};
        if (!Arrays.equals(now, normOf)) {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                Tensor aw = Functional.linear(Functional.cast(loraA, w.dtype()), w, null);
                Tensor wa = Functional.cast(aw, norm.dtype()).transpose(0, 1);
                Tensor baa = loraB.matmul(Functional.matmul(loraA, loraA, false, true));
                Tensor cross = wa.scale(2 * scaling).add(baa.scale(scaling * scaling));
                Tensor sum = squares.add(cross.mul(loraB).sum(1));
                Tensor tiny = Tensor.full(w.backend(), norm.dtype(), NO_ROW, 1);
                norm.copyFrom(
                        Functional.unary(UnaryFn.SQRT, Functional.relu(sum).add(tiny)));
            }
            normOf = now;
        }
        return norm;
    }

    @Override
    public void collect(BiConsumer<String, Tensor> visitor) {
        super.collect(visitor);
        visitor.accept("lora_magnitude_vector." + name + ".weight", magnitude);
    }

    @Override
    public void close() {
        super.close();
        magnitude.close();
        squares.close();
        norm.close();
    }
}
