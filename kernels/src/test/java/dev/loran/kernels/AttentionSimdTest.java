package dev.loran.kernels;

import dev.loran.engine.Buffer;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Blockwise attention against the composed one in double precision.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class AttentionSimdTest {
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
    @CsvSource({
        // batch, t, s, p, heads, kvHeads, d, causal, prefix per row, mask
        "1, 1, 1, 0, 1, 1, 1, true, false, false",
        "2, 7, 7, 0, 2, 2, 7, false, false, false",
        "2, 33, 33, 0, 4, 2, 33, true, false, true",
        "1, 64, 65, 0, 2, 1, 16, true, false, false",
        "1, 1, 130, 0, 4, 2, 64, true, false, true",
        "1, 130, 7, 0, 2, 1, 8, false, false, false",
        "2, 97, 97, 20, 4, 2, 32, true, false, true",
        "2, 130, 150, 49, 2, 2, 64, true, true, true",
        "3, 65, 65, 5, 2, 1, 24, false, true, false",
        "3, 65, 65, 5, 3, 3, 65, false, false, true",
        "1, 200, 200, 0, 1, 1, 128, true, false, false",
    })
    void agreesWithComposed(
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            boolean perRow,
            boolean masked) {
        long queries = (long) batch * t * heads * d;
        long keys = (long) batch * s * kvHeads * d;
        long prefix = (long) (perRow ? batch : 1) * p * kvHeads * d;
        double scale = 1 / Math.sqrt(d);
        int[] shown = new Random(4)
                .ints((long) batch * (p + s), 0, 4)
                .map(i -> Math.min(i, 1))
                .toArray();
        // The first keys of the first row are hidden, so that its first causal queries see nothing.
        for (int i = 0; i < Math.min(5, p + s - 1); i++) {
            shown[i] = 0;
        }
        check.agree("attention", m -> {
            Buffer q = m.in(queries);
            Buffer k = m.in(keys);
            Buffer v = m.in(keys);
            Buffer prefixK = p == 0 ? null : m.in(prefix);
            Buffer prefixV = p == 0 ? null : m.in(prefix);
            Buffer mask = masked ? m.ints(shown) : null;
            Buffer out = m.out("out", queries);
            Buffer lse = masked ? m.in((long) batch * heads * t) : m.out("lse", (long) batch * heads * t);
            m.backend()
                    .attention(
                            out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal,
                            scale);
            Buffer dOut = m.in(queries);
            m.backend()
                    .attentionBackward(
                            m.out("dq", queries),
                            m.out("dk", keys),
                            m.out("dv", keys),
                            p == 0 ? null : m.out("dPrefixK", prefix),
                            p == 0 ? null : m.out("dPrefixV", prefix),
                            dOut,
                            out,
                            lse,
                            q,
                            k,
                            v,
                            prefixK,
                            prefixV,
                            mask,
                            batch,
                            t,
                            s,
                            p,
                            heads,
                            kvHeads,
                            d,
                            causal,
                            scale);
        });
    }

    @Test
    void largeScoresDoNotOverflow() {
        check.agree("attention", m -> {
            Buffer q = m.in(2 * 40 * 16, 10, 0);
            m.backend()
                    .attention(
                            m.out("out", 2 * 40 * 16),
                            m.out("lse", 2 * 40),
                            q,
                            m.in(2 * 40 * 16, 10, 0),
                            m.in(2 * 40 * 16),
                            null,
                            null,
                            null,
                            1,
                            40,
                            40,
                            0,
                            2,
                            2,
                            16,
                            true,
                            1);
        });
    }

    @Test
    void anyGradientMayBeAbsent() {
        int n = 2 * 9 * 8;
        for (int absent = 0; absent < 3; absent++) {
            int part = absent;
            check.agree("gradients without part " + part, m -> {
                Buffer q = m.in(n);
                Buffer k = m.in(n);
                Buffer v = m.in(n);
                Buffer pk = m.in(3 * 8);
                Buffer pv = m.in(3 * 8);
                Buffer out = m.out("out", n);
                Buffer lse = m.out("lse", 18);
                m.backend().attention(out, lse, q, k, v, pk, pv, null, 2, 9, 9, 3, 1, 1, 8, false, 0.3);
                m.backend()
                        .attentionBackward(
                                part == 0 ? null : m.out("dq", n),
                                part == 1 ? null : m.out("dk", n),
                                part == 1 ? null : m.out("dv", n),
                                part == 2 ? null : m.out("dpk", 3 * 8),
                                part == 2 ? null : m.out("dpv", 3 * 8),
                                m.in(n),
                                out,
                                lse,
                                q,
                                k,
                                v,
                                pk,
                                pv,
                                null,
                                2,
                                9,
                                9,
                                3,
                                1,
                                1,
                                8,
                                false,
                                0.3);
            });
        }
    }
}
