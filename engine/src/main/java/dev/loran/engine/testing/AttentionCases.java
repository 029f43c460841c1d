package dev.loran.engine.testing;

import static dev.loran.engine.testing.OpCase.Input.constant;
import static dev.loran.engine.testing.OpCase.Input.integers;
import static dev.loran.engine.testing.OpCase.Input.trainable;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase.Arguments;
import dev.loran.engine.testing.OpCase.Input;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Attention and rotary positions. The composed forms are written from the formulas, independently of the backends'
/// defaults.
final class AttentionCases {
    private AttentionCases() {}

    static List<OpCase> all() {
        List<OpCase> cases = new ArrayList<>();
        // b, t, s, p, heads, kvHeads, d, causal, prefix per row, mask
        cases.add(attention(2, 7, 7, 0, 2, 2, 5, false, false, false));
        cases.add(attention(2, 7, 7, 0, 2, 2, 5, true, false, false));
        cases.add(attention(1, 1, 1, 0, 1, 1, 1, true, false, false));
        cases.add(attention(2, 3, 7, 0, 4, 2, 8, true, false, false));
        cases.add(attention(2, 7, 3, 0, 4, 1, 8, false, false, false));
        cases.add(attention(2, 7, 7, 0, 2, 2, 5, true, false, true));
        cases.add(attention(2, 7, 7, 0, 6, 3, 5, false, false, true));
        cases.add(attention(2, 7, 7, 3, 2, 2, 5, true, false, false));
        cases.add(attention(2, 7, 7, 3, 4, 2, 5, true, true, false));
        cases.add(attention(2, 5, 7, 1, 4, 2, 8, true, false, false));
        cases.add(attention(3, 5, 7, 4, 4, 2, 8, true, false, true));
        cases.add(attention(2, 5, 7, 3, 4, 2, 8, false, true, true));
        cases.add(attention(1, 33, 33, 0, 1, 1, 16, true, false, false));
        cases.add(attention(1, 33, 70, 5, 2, 1, 7, true, false, true));
        cases.add(attention(2, 9, 9, 0, 4, 2, 5, new Scoring(true, 4, 0.4, 0), false, false));
        cases.add(attention(2, 5, 7, 3, 2, 1, 8, new Scoring(true, 3, 0.4, 0), true, true));
        cases.add(attention(2, 9, 9, 0, 2, 2, 5, new Scoring(false, 3, 0.4, 0), false, true));
        cases.add(attention(1, 1, 7, 5, 2, 1, 8, new Scoring(true, 6, 0.4, 1.5), false, false));
        cases.add(attention(2, 7, 7, 0, 4, 2, 5, new Scoring(true, 0, 0.4, 1.5), false, true));
        cases.add(attention(1, 70, 70, 3, 2, 1, 16, new Scoring(true, 33, 0.25, 2), false, false));
        cases.add(attention(2, 9, 9, 0, 4, 2, 5, new Scoring(true, 0, 0.4, 0, true), false, true));
        cases.add(attention(2, 7, 7, 3, 4, 2, 5, new Scoring(false, 0, 0.4, 0, true), true, true));
        cases.add(attention(1, 70, 70, 3, 2, 1, 16, new Scoring(true, 33, 0.25, 2, true), false, true));
        cases.add(rope(1, 1, 1, 2));
        cases.add(rope(2, 7, 3, 8));
        return cases;
    }

    /// Unless rows are packed, the mask shows about two keys out of three. In the last row of the batch it hides all
    /// but the last key, so a causal query sees nothing until it reaches that key; in the first row it hides the first
    /// key, which is the only one that the first causal query could see.
    static OpCase attention(
            int b,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            boolean prefixPerRow,
            boolean mask) {
        return attention(b, t, s, p, heads, kvHeads, d, new Scoring(causal, 1 / Math.sqrt(d)), prefixPerRow, mask);
    }

    private static OpCase attention(
            int b,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            Scoring scoring,
            boolean prefixPerRow,
            boolean mask) {
        boolean causal = scoring.causal();
        int keys = p + s;
        String variant = b + "x" + t + " queries, " + s + " keys, " + heads + "/" + kvHeads + " heads of " + d
                + (causal ? ", causal" : "")
                + (scoring.window() > 0 ? ", window " + scoring.window() : "")
                + (scoring.softCap() > 0 ? ", soft cap" : "") + (scoring.packed() ? ", packed" : "")
                + (mask ? ", mask" : "")
                + (p == 0 ? "" : ", prefix " + p + (prefixPerRow ? " per row" : " shared"));
        long pairs = causal ? (long) t * (p + s - t) + (long) t * (t + 1) / 2 : (long) t * keys;
        long product = 2L * b * heads * pairs * d;
        OpCase c = OpCase.of(
                        "attention",
                        variant,
                        Shape.of(b, t, heads, d),
                        in -> Functional.attention(
                                in.get("q"),
                                in.get("k"),
                                in.get("v"),
                                in.find("prefixK"),
                                in.find("prefixV"),
                                in.find("mask"),
                                scoring))
                .with(trainable("q", b, t, heads, d))
                .with(trainable("k", b, s, kvHeads, d), trainable("v", b, s, kvHeads, d))
                .composed(in -> composed(in, scoring))
                .flops(2 * product, 5 * product);
        if (!scoring.isPlain()) {
            // Composed where there is no kernel for it, which rounds the scores as well.
            c = c.tolerance(DType.BF16, 8e-2).tolerance(DType.F16, 1.5e-2);
        }
        if (p > 0) {
            int[] prefix = prefixPerRow ? new int[] {b, p, kvHeads, d} : new int[] {p, kvHeads, d};
            c = c.with(trainable("prefixK", prefix), trainable("prefixV", prefix));
        }
        if (mask) {
            c = c.with(scoring.packed() ? texts(b, p, keys) : mask(b, keys));
        }
        return c;
    }

    private static Input mask(int b, int keys) {
        return integers("mask", 0, 2, b, keys).drawn((random, i) -> {
            int row = i / keys;
            int key = i % keys;
            boolean hidden = b > 1 && row == b - 1 ? key < keys - 1 : key == 0 || random.nextInt(3) == 0;
            return hidden ? 0 : 1;
        });
    }

    /// The numbers of texts of four keys each, which need not ascend; some keys are hidden.
    private static Input texts(int b, int p, int keys) {
        return integers("mask", 0, keys, b, keys).drawn((random, i) -> {
            int key = i % keys;
            return key < p || random.nextInt(5) > 0 ? 1 + key / 4 * 3 % 5 : 0;
        });
    }

    private static Tensor composed(Arguments in, Scoring scoring) {
        Tensor q = in.get("q");
        int b = q.shape().dim(0);
        int t = q.shape().dim(1);
        int heads = q.shape().dim(2);
        Tensor k = keysByHead(in.get("k"), in.find("prefixK"), heads);
        Tensor v = keysByHead(in.get("v"), in.find("prefixV"), heads);
        int keys = k.shape().dim(2);
        Tensor mask = in.find("mask");
        int[] shown = mask == null ? null : mask.toInts();
        double[] sees = new double[b * t * keys];
        double[] hide = new double[b * t * keys];
        for (int i = 0; i < sees.length; i++) {
            int key = i % keys;
            int query = i / keys % t;
            int ahead = key - (query + keys - t);
            boolean far = scoring.causal() && ahead > 0 || scoring.window() > 0 && Math.abs(ahead) >= scoring.window();
            int row = i / keys / t * keys;
            boolean hidden = shown != null && shown[row + key] == 0
                    || shown != null
                            && scoring.packed()
                            && key >= keys - t
                            && shown[row + key] != shown[row + keys - t + query];
            sees[i] = far || hidden ? 0 : 1;
            hide[i] = far || hidden ? -1e4 : 0;
        }
        Tensor scores = Functional.matmul(q.permute(0, 2, 1, 3), k, false, true).scale(scoring.scale());
        if (scoring.softCap() > 0) {
            scores = Functional.tanh(scores.scale(1 / scoring.softCap())).scale(scoring.softCap());
        }
        Tensor probabilities = Functional.softmax(scores.add(Tensor.of(q.backend(), q.dtype(), hide, b, 1, t, keys)));
        // Affects only the row of a query that sees no key, where softmax is uniform.
        probabilities = probabilities.mul(Tensor.of(q.backend(), q.dtype(), sees, b, 1, t, keys));
        return probabilities.matmul(v).permute(0, 2, 1, 3);
    }

    /// Returns [prefix; x] as (B, heads, P + S, D).
    private static Tensor keysByHead(Tensor x, @Nullable Tensor prefix, int heads) {
        int b = x.shape().dim(0);
        int kvHeads = x.shape().dim(2);
        int d = x.shape().dim(3);
        Tensor all = x;
        if (prefix != null) {
            int p = prefix.shape().dim(-3);
            all = Functional.concat(
                    List.of(
                            Tensor.zeros(x.backend(), x.dtype(), b, p, kvHeads, d)
                                    .add(prefix),
                            x),
                    1);
        }
        int keys = all.shape().dim(1);
        Tensor repeated = Tensor.zeros(x.backend(), x.dtype(), b, keys, kvHeads, heads / kvHeads, d)
                .add(all.reshape(b, keys, kvHeads, 1, d));
        return repeated.reshape(b, keys, heads, d).permute(0, 2, 1, 3);
    }

    /// The angles in the tables are drawn from U(−π, π), unlike in any model, so that no symmetry hides an error.
    static OpCase rope(int b, int t, int h, int d) {
        int half = d / 2;
        double[] angles = new double[t * half];
        for (int i = 0; i < angles.length; i++) {
            angles[i] = (i * 2.399963) % (2 * Math.PI) - Math.PI;
        }
        Input cos = constant("cos", t, half).drawn((random, i) -> Math.cos(angles[i]));
        Input sin = constant("sin", t, half).drawn((random, i) -> Math.sin(angles[i]));
        return OpCase.of(
                        "rope",
                        b + "x" + t + ", " + h + " heads of " + d,
                        Shape.of(b, t, h, d),
                        in -> Functional.rope(in.get("x"), in.get("cos"), in.get("sin")))
                .with(trainable("x", b, t, h, d), cos, sin)
                .composed(in -> {
                    Tensor x = in.get("x");
                    Tensor c = in.get("cos").reshape(t, 1, half);
                    Tensor s = in.get("sin").reshape(t, 1, half);
                    Tensor x1 = x.slice(3, 0, half);
                    Tensor x2 = x.slice(3, half, d);
                    return Functional.concat(
                            List.of(x1.mul(c).sub(x2.mul(s)), x2.mul(c).add(x1.mul(s))), 3);
                })
                .flops(3L * b * t * h * d, 3L * b * t * h * d);
    }
}
