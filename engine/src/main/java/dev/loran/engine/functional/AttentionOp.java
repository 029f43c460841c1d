package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Scaled dot-product attention with grouped-query heads and a prefix segment; see
/// [dev.loran.engine.backend.AttentionKernels#attention]. The output and lse (B, H, T) are kept, never the scores.
record AttentionOp(
        Tensor q,
        Tensor k,
        Tensor v,
        @Nullable Tensor prefixK,
        @Nullable Tensor prefixV,
        @Nullable Tensor mask,
        Tensor out,
        Tensor lse,
        Scoring scoring)
        implements Op {

    static Tensor forward(
            Tensor q,
            Tensor k,
            Tensor v,
            @Nullable Tensor prefixK,
            @Nullable Tensor prefixV,
            @Nullable Tensor mask,
            Scoring scoring) {
        check(q, k, v, prefixK, prefixV, mask, scoring);
        Shape s = q.shape();
        try (Scratch scratch = new Scratch(q.backend())) {
            Buffer y = scratch.like(q.buffer());
            Shape perQuery = Shape.of(s.dim(0), s.dim(2), s.dim(1));
            Buffer lse = scratch.allocate(q.dtype().accumulator(), perQuery.size());
            Tensor out = Tensor.own(s, y);
            AttentionOp op = new AttentionOp(q, k, v, prefixK, prefixV, mask, out, Tensor.own(perQuery, lse), scoring);
            q.backend().attention().attention(y, lse, op.problem());
            return Autograd.record(op, s, y.retain());
        }
    }

    private static void check(
            Tensor q,
            Tensor k,
            Tensor v,
            @Nullable Tensor prefixK,
            @Nullable Tensor prefixV,
            @Nullable Tensor mask,
            Scoring scoring) {
        boolean causal = scoring.causal();
        Checks.operand("attention", "q", q);
        Checks.operand("attention", "k", k, "q", q);
        Checks.operand("attention", "v", v, "q", q);
        Shape sq = q.shape();
        Shape sk = k.shape();
        boolean fits = sq.rank() == 4
                && sk.rank() == 4
                && sk.equals(v.shape())
                && sq.dim(0) == sk.dim(0)
                && sq.dim(3) == sk.dim(3)
                && sk.dim(2) > 0
                && sq.dim(2) % sk.dim(2) == 0
                && (!causal || sk.dim(1) >= sq.dim(1));
        if (!fits) {
            throw new ShapeException("attention: q is " + sq + ", k is " + sk + ", v is " + v.shape()
                    + "; needs (B, T, heads, D) and twice (B, S, kvHeads, D), heads a multiple of kvHeads"
                    + (causal ? ", S at least T" : ""));
        }
        if ((prefixK == null) != (prefixV == null)) {
            throw new IllegalArgumentException("attention: prefixK and prefixV come together");
        }
        if (prefixK != null && prefixV != null) {
            Checks.operand("attention", "prefixK", prefixK, "q", q);
            Checks.operand("attention", "prefixV", prefixV, "q", q);
            Shape sp = prefixK.shape();
            boolean shared = sp.rank() == 3;
            boolean right = (shared || sp.rank() == 4 && sp.dim(0) == sq.dim(0))
                    && sp.dim(-2) == sk.dim(2)
                    && sp.dim(-1) == sk.dim(3)
                    && sp.equals(prefixV.shape());
            if (!right) {
                throw new ShapeException("attention: prefixK is " + sp + ", prefixV is " + prefixV.shape()
                        + " but k is " + sk + "; needs (P, kvHeads, D) or (B, P, kvHeads, D)");
            }
        }
        if (scoring.packed() && (mask == null || sk.dim(1) != sq.dim(1))) {
            throw new ShapeException("attention: of packed rows, q is " + sq + " and k is " + sk
                    + (mask == null ? ", without a mask" : "")
                    + "; needs equal T and S, and the texts' numbers as mask");
        }
        if (mask != null) {
            Checks.ints("attention", "mask", mask, (long) sq.dim(0) * (prefixLength(prefixK) + sk.dim(1)), "k", k);
        }
    }

    private Problem problem() {
        Shape s = q.shape();
        int keys = k.shape().dim(1);
        Sizes sizes = new Sizes(
                s.dim(0),
                s.dim(1),
                keys,
                prefixLength(prefixK),
                s.dim(2),
                k.shape().dim(2),
                s.dim(3));
        return new Problem(
                q.buffer(), k.buffer(), v.buffer(), buffer(prefixK), buffer(prefixV), buffer(mask), sizes, scoring);
    }

    private static int prefixLength(@Nullable Tensor prefix) {
        return prefix == null ? 0 : prefix.shape().dim(-3);
    }

    private static @Nullable Buffer buffer(@Nullable Tensor t) {
        return t == null ? null : t.buffer();
    }

    @Override
    public List<Tensor> inputs() {
        return prefixK == null || prefixV == null ? List.of(q, k, v) : List.of(q, k, v, prefixK, prefixV);
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(inputs());
        saved.add(out);
        saved.add(lse);
        if (mask != null) {
            saved.add(mask);
        }
        return saved;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        boolean keys = gradients.wants(k) || gradients.wants(v);
        boolean prefix = prefixK != null && prefixV != null && (gradients.wants(prefixK) || gradients.wants(prefixV));
        try (Scratch scratch = new Scratch(q.backend())) {
            Buffer dq = gradients.wants(q) ? scratch.like(q.buffer()) : null;
            Buffer dk = keys ? scratch.like(k.buffer()) : null;
            Buffer dv = keys ? scratch.like(v.buffer()) : null;
            Buffer dpk = prefix && prefixK != null ? scratch.like(prefixK.buffer()) : null;
            Buffer dpv = prefix && prefixV != null ? scratch.like(prefixV.buffer()) : null;
            Slopes to = new Slopes(dq, dk, dv, dpk, dpv);
            q.backend().attention().attentionBackward(to, gradOut.buffer(), out.buffer(), lse.buffer(), problem());
            deliver(gradients, q, dq);
            deliver(gradients, k, dk);
            deliver(gradients, v, dv);
            deliver(gradients, prefixK, dpk);
            deliver(gradients, prefixV, dpv);
        }
    }

    private static void deliver(Gradients gradients, @Nullable Tensor input, @Nullable Buffer gradient) {
        if (input != null && gradient != null && gradients.wants(input)) {
            gradients.pass(input, gradient);
        }
    }
}
