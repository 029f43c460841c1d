package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.FrozenWeightTest;
import dev.loran.kernels.simd.gemm.InterpretedTiles;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/// Blockwise attention against composed attention in double precision.
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
        // A single query: heads processed four vectors at a time, one at a time, and as part of one.
        "2, 1, 33, 7, 4, 2, 80, true, true, true",
        "3, 1, 5, 2, 2, 2, 8, false, false, true",
        // More than one block of queries and of keys, in both directions and with the offset of a cache.
        "1, 129, 129, 0, 4, 2, 80, true, false, false",
        "1, 300, 333, 20, 2, 1, 8, true, false, false",
        "2, 289, 289, 0, 2, 2, 16, false, false, true",
        "1, 160, 417, 0, 1, 1, 33, true, false, true",
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
        int[] shown = new Random(4)
                .ints((long) batch * (p + s), 0, 4)
                .map(i -> Math.min(i, 1))
                .toArray();
        // The first keys of the first row are hidden, so its first causal queries see nothing.
        for (int i = 0; i < Math.min(5, p + s - 1); i++) {
            shown[i] = 0;
        }
        Sizes sizes = new Sizes(batch, t, s, p, heads, kvHeads, d);
        agree(sizes, new Scoring(causal, 1 / Math.sqrt(d)), perRow, masked ? shown : null);
    }

    @ParameterizedTest
    @CsvSource({
        // batch, t, s, p, heads, kvHeads, d, causal, window, soft cap, packed
        "2, 9, 9, 0, 2, 2, 5, true, 3, 0, false",
        "2, 300, 300, 20, 2, 1, 8, true, 50, 0, false",
        "1, 290, 290, 0, 1, 1, 33, false, 40, 0, false",
        "2, 70, 90, 3, 2, 1, 16, true, 33, 2, false",
        "2, 1, 70, 5, 4, 2, 80, true, 20, 1.5, false",
        "2, 65, 65, 5, 2, 2, 24, false, 0, 1.5, false",
        "2, 300, 300, 0, 2, 1, 16, true, 0, 0, true",
        "1, 417, 417, 20, 2, 2, 8, true, 100, 2, true",
        "2, 150, 150, 3, 1, 1, 33, false, 0, 0, true",
        "2, 1, 1, 7, 2, 1, 8, true, 0, 0, true",
    })
    void agreesWithComposedForOtherScores(
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            int window,
            double softCap,
            boolean packed) {
        Random random = new Random(5);
        int[] mask = new int[batch * (p + s)];
        for (int i = 0, text = 1; i < mask.length; i++) {
            // Padding at the end of each row, longer than a block of queries.
            boolean padded = i % (p + s) > 0.6 * (p + s);
            text += random.nextInt(30) / 29;
            mask[i] = padded || random.nextInt(9) == 0 ? 0 : packed ? text : 1;
        }
        agree(
                new Sizes(batch, t, s, p, heads, kvHeads, d),
                new Scoring(causal, window, 0.4, softCap, packed),
                true,
                mask);
    }

    private void agree(Sizes sizes, Scoring scoring, boolean perRow, int @Nullable [] shown) {
        long queries = (long) sizes.batch() * sizes.t() * sizes.heads() * sizes.d();
        long keys = (long) sizes.batch() * sizes.s() * sizes.kvHeads() * sizes.d();
        int p = sizes.p();
        long prefix = (long) (perRow ? sizes.batch() : 1) * p * sizes.kvHeads() * sizes.d();
        long statistics = (long) sizes.batch() * sizes.heads() * sizes.t();
        check.agree("attention", m -> {
            Buffer q = m.in(queries);
            Buffer k = m.in(keys);
            Buffer v = m.in(keys);
            Buffer prefixK = p == 0 ? null : m.in(prefix);
            Buffer prefixV = p == 0 ? null : m.in(prefix);
            Buffer mask = shown == null ? null : m.ints(shown);
            Buffer out = m.out("out", queries);
            Buffer lse = shown == null ? m.out("lse", statistics) : m.in(statistics);
            Problem problem = new Problem(q, k, v, prefixK, prefixV, mask, sizes, scoring);
            m.backend().attention().attention(out, lse, problem);
            Buffer dOut = m.in(queries);
            Slopes slopes = new Slopes(
                    m.out("dq", queries),
                    m.out("dk", keys),
                    m.out("dv", keys),
                    p == 0 ? null : m.out("dPrefixK", prefix),
                    p == 0 ? null : m.out("dPrefixV", prefix));
            m.backend().attention().attentionBackward(slopes, dOut, out, lse, problem);
        });
    }

    static List<Arguments> roundedProblems() {
        // t, s, p, heads, kvHeads, d, causal, prefix per row, mask; for others than plain scores also window, tenths of
        // the soft cap, packed
        int[][] small = {
            {7, 7, 0, 2, 2, 7, 0, 0, 0},
            {33, 33, 0, 2, 1, 33, 1, 0, 1},
            {15, 15, 3, 2, 2, 32, 0, 1, 1},
            {50, 65, 5, 1, 1, 16, 1, 0, 0},
            {50, 50, 5, 2, 1, 16, 1, 0, 1, 20, 15, 1}
        };
        int[][] large = {
            {64, 65, 0, 2, 1, 16, 1, 0, 0},
            {97, 97, 20, 4, 2, 64, 1, 0, 1},
            {130, 150, 49, 2, 2, 64, 1, 1, 1},
            {160, 417, 0, 1, 1, 80, 1, 0, 1},
            {289, 289, 0, 2, 2, 24, 0, 0, 1},
            {17, 17, 0, 1, 1, 600, 1, 0, 0},
            {300, 333, 20, 2, 1, 24, 1, 0, 0, 60, 0, 0},
            {160, 160, 0, 2, 2, 64, 1, 0, 0, 0, 20, 0},
            {289, 289, 9, 2, 2, 24, 0, 0, 1, 0, 0, 1},
            {417, 417, 0, 1, 1, 80, 1, 0, 1, 0, 0, 1}
        };
        List<Arguments> all = new ArrayList<>();
        for (Named<Bf16Tiles> tiles : FrozenWeightTest.tiles()) {
            boolean interpreted = tiles.getPayload() instanceof InterpretedTiles;
            Stream.concat(Stream.of(small), interpreted ? Stream.empty() : Stream.of(large))
                    .forEach(s -> all.add(Arguments.of(tiles, s)));
        }
        return all;
    }

    /// With every kind of tiles, against the F32 kernel: the difference must be no larger than rounding operands and
    /// weights to 8 bits explains, even if scratch memory is full of NaN.
    @ParameterizedTest
    @MethodSource("roundedProblems")
    void operandsOfBf16GiveNearlyTheSame(Bf16Tiles tiles, int[] s) {
        int batch = 2;
        int t = s[0];
        int keys = s[1];
        int p = s[2];
        int heads = s[3];
        int kvHeads = s[4];
        int d = s[5];
        Random random = new Random(17);
        try (Parallel parallel = new Parallel(2);
                Arena arena = Arena.ofShared()) {
            long queries = (long) batch * t * heads * d;
            long reals = (long) batch * keys * kvHeads * d;
            long prefixes = (long) (s[7] == 1 ? batch : 1) * p * kvHeads * d;
            MemorySegment mask = arena.allocate(4L * batch * (p + keys));
            for (int i = 0; i < batch * (p + keys); i++) {
                boolean hidden = i % (p + keys) > 0 && random.nextInt(4) == 0;
                int text = s.length > 9 && s[11] == 1 ? 1 + i % (p + keys) / 37 : 1;
                mask.setAtIndex(ValueLayout.JAVA_INT, i, hidden ? 0 : text);
            }
            MemorySegment prefixK = p == 0 ? null : normal(arena, random, prefixes);
            MemorySegment prefixV = p == 0 ? null : normal(arena, random, prefixes);
            AttentionSimd.Inputs problem = new AttentionSimd.Inputs(
                    normal(arena, random, queries),
                    normal(arena, random, reals),
                    normal(arena, random, reals),
                    prefixK,
                    prefixV,
                    s[8] == 1 ? mask : null,
                    batch,
                    t,
                    keys,
                    p,
                    heads,
                    kvHeads,
                    d,
                    s.length > 9
                            ? new Scoring(s[6] == 1, s[9], 1 / Math.sqrt(d), s[10] / 10.0, s[11] == 1)
                            : new Scoring(s[6] == 1, 1 / Math.sqrt(d)));
            MemorySegment dOut = normal(arena, random, queries);
            List<MemorySegment> exact = new ArrayList<>();
            for (Bf16Tiles of : new Bf16Tiles[] {null, tiles}) {
                parallel.parallelFor(
                        2 * parallel.threads(),
                        i -> parallel.workspace()
                                .segment(Workspace.Slot.ATTENTION, 8 << 20)
                                .fill((byte) -1));
                MemorySegment out = arena.allocate(4 * queries, 64);
                MemorySegment lse = arena.allocate(4L * batch * heads * t, 64);
                MemorySegment dq = arena.allocate(4 * queries, 64);
                MemorySegment dk = arena.allocate(4 * reals, 64);
                MemorySegment dv = arena.allocate(4 * reals, 64);
                MemorySegment dPrefixK = arena.allocate(4 * prefixes, 64);
                MemorySegment dPrefixV = arena.allocate(4 * prefixes, 64);
                MemorySegment toK = p == 0 ? null : dPrefixK;
                MemorySegment toV = p == 0 ? null : dPrefixV;
                AttentionSimd.Backward to = new AttentionSimd.Backward(dq, dk, dv, toK, toV, dOut, out, lse);
                AttentionSimd.forward(parallel, out, lse, problem, of);
                AttentionSimd.backward(parallel, to, problem, of);
                List<MemorySegment> results = List.of(out, lse, dq, dk, dv, dPrefixK, dPrefixV);
                if (of == null) {
                    exact.addAll(results);
                } else {
                    for (int i = 0; i < results.size(); i++) {
                        near("result " + i, results.get(i), exact.get(i));
                    }
                }
            }
        }
    }

    static MemorySegment normal(Arena arena, Random random, long n) {
        MemorySegment x = arena.allocate(4 * n, 64);
        for (long i = 0; i < n; i++) {
            x.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) random.nextGaussian());
        }
        return x;
    }

    /// Errors of at most 3 % of the largest element, and 0.6 % in the root mean square.
    static void near(String name, MemorySegment actual, MemorySegment expected) {
        float[] is = actual.toArray(ValueLayout.JAVA_FLOAT);
        float[] should = expected.toArray(ValueLayout.JAVA_FLOAT);
        double largest = 0;
        double squares = 0;
        double errors = 0;
        for (int i = 0; i < is.length; i++) {
            // A query that sees no key.
            boolean none = should[i] == AttentionSoftmax.NONE;
            assertThat(is[i] == AttentionSoftmax.NONE).as(name).isEqualTo(none);
            largest = Math.max(largest, none ? 0 : Math.abs(should[i]));
            squares += none ? 0 : should[i] * should[i];
            errors += Math.pow(is[i] - should[i], 2);
        }
        for (int i = 0; i < is.length; i++) {
            assertThat((double) is[i]).as("%s at %d", name, i).isCloseTo(should[i], within(0.03 * largest));
        }
        assertThat(Math.sqrt(errors)).as(name).isLessThanOrEqualTo(0.006 * Math.sqrt(squares));
    }

    /// What a mask hides at the end of a block is not computed; its gradients must be zeros, not what memory held
    /// before.
    @Test
    void hiddenKeysGetNoGradient() {
        int keys = 150;
        int d = 16;
        int[] shown = new int[keys];
        Arrays.fill(shown, 0, 85, 1);
        Arrays.fill(shown, 100, 101, 1);
        try (SimdBackend backend = new SimdBackend(1)) {
            double[] nan = new double[keys * d];
            Arrays.fill(nan, Double.NaN);
            // Leaves NaN in scratch memory.
            hiddenGradient(backend, nan, shown, keys, d);
            double[] x = new Random(7).doubles((long) keys * d, -1, 1).toArray();
            double[] dk = hiddenGradient(backend, x, shown, keys, d);
            assertThat(Arrays.copyOfRange(dk, 0, 85 * d)).doesNotContain(0.0);
            assertThat(Arrays.copyOfRange(dk, 85 * d, 100 * d)).containsOnly(0.0);
            assertThat(Arrays.copyOfRange(dk, 100 * d, 101 * d)).doesNotContain(0.0);
            assertThat(Arrays.copyOfRange(dk, 101 * d, keys * d)).containsOnly(0.0);
        }
    }

    private static double[] hiddenGradient(SimdBackend backend, double[] x, int[] shown, int keys, int d) {
        Buffer q = backend.of(DType.F32, x);
        Buffer mask = backend.ofInts(shown);
        Buffer out = backend.allocate(DType.F32, (long) keys * d);
        Buffer lse = backend.allocate(DType.F32, keys);
        Buffer dk = backend.allocate(DType.F32, (long) keys * d);
        Buffer dv = backend.allocate(DType.F32, (long) keys * d);
        Problem problem = new Problem(q, q, q, null, null, mask, new Sizes(1, keys, keys, 0, 1, 1, d), false, 0.25);
        backend.attention().attention(out, lse, problem);
        backend.attention().attentionBackward(new Slopes(null, dk, dv, null, null), q, out, lse, problem);
        double[] gradient = KernelCheck.read(dk);
        for (Buffer b : new Buffer[] {q, mask, out, lse, dk, dv}) {
            b.release();
        }
        return gradient;
    }

    @Test
    void largeScoresDoNotOverflow() {
        check.agree("attention", m -> {
            Buffer q = m.in(2 * 40 * 16, 10, 0);
            Buffer out = m.out("out", 2 * 40 * 16);
            Buffer lse = m.out("lse", 2 * 40);
            Buffer k = m.in(2 * 40 * 16, 10, 0);
            Buffer v = m.in(2 * 40 * 16);
            Problem problem = new Problem(q, k, v, null, null, null, new Sizes(1, 40, 40, 0, 2, 2, 16), true, 1);
            m.backend().attention().attention(out, lse, problem);
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
                Problem problem = new Problem(q, k, v, pk, pv, null, new Sizes(2, 9, 9, 3, 1, 1, 8), false, 0.3);
                m.backend().attention().attention(out, lse, problem);
                Slopes slopes = new Slopes(
                        part == 0 ? null : m.out("dq", n),
                        part == 1 ? null : m.out("dk", n),
                        part == 1 ? null : m.out("dv", n),
                        part == 2 ? null : m.out("dpk", 3 * 8),
                        part == 2 ? null : m.out("dpv", 3 * 8));
                m.backend().attention().attentionBackward(slopes, m.in(n), out, lse, problem);
            });
        }
    }
}
