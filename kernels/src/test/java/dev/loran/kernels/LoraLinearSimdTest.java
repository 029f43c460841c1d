package dev.loran.kernels;

import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DropoutMask;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/// The linear layer with LoRA against the composed one in double precision, at sizes of several blocks.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class LoraLinearSimdTest {
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
        "1, 1, 1, 1, true, false",
        "7, 33, 5, 1, true, true",
        "33, 7, 33, 3, false, true",
        "65, 64, 48, 8, true, false",
        "70, 130, 65, 16, false, false",
        "300, 100, 64, 16, true, true",
        // Enough rows for one thread, and for two, to take blocks through the frozen weight as well; sums in several
        // blocks.
        "700, 100, 64, 16, true, true",
        "600, 2100, 33, 3, false, false",
    })
    void agreesWithComposed(int n, int in, int out, int r, boolean dropout, boolean accumulate) {
        check.agree("loraLinear", m -> {
            Buffer x = m.in((long) n * in);
            Buffer w = m.prepared(m.in((long) out * in, 1 / Math.sqrt(in), 0), out, in);
            Buffer bias = accumulate ? m.in(out) : null;
            Buffer a = m.in((long) r * in, 1 / Math.sqrt(in), 0);
            Buffer b = m.in((long) out * r);
            Buffer dy = m.in((long) n * out);
            DropoutMask mask = dropout ? new DropoutMask(0.3, 77, 5, m.ints(9)) : null;
            Buffer t = m.out("t", (long) n * r);
            m.backend().loraLinear(m.out("y", (long) n * out), t, x, w, bias, a, b, mask, n, in, out, r, 1.5);
            m.backend()
                    .loraLinearBackward(
                            m.out("dx", (long) n * in, accumulate),
                            m.out("da", (long) r * in, accumulate),
                            m.out("db", (long) out * r, accumulate),
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            accumulate,
                            accumulate,
                            accumulate);
            m.backend()
                    .loraLinearBackward(
                            null,
                            m.out("da alone", (long) r * in),
                            null,
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            false,
                            false,
                            false);
            m.backend()
                    .loraLinearBackward(
                            m.out("dx alone", (long) n * in),
                            null,
                            null,
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            false,
                            false,
                            false);
        });
    }

    /// Layers of one input, with and without a low-rank part, packed or not: with few rows and with many.
    @ParameterizedTest
    @CsvSource({"7, 33, true", "700, 100, true", "700, 100, false", "600, 2100, true"})
    void projectionsAgreeWithLayersOfTheirOwn(int n, int in, boolean packed) {
        int[] outs = {48, 65, 7};
        check.agree("projections", m -> {
            Buffer x = m.in((long) n * in);
            Buffer counter = m.ints(9);
            List<Backend.Projection> layers = new ArrayList<>();
            for (int i = 0; i < outs.length; i++) {
                int out = outs[i];
                int r = 3 + i;
                Buffer w = m.in((long) out * in, 1 / Math.sqrt(in), 0);
                Backend.LowRank lowRank = i == 2
                        ? null
                        : new Backend.LowRank(
                                m.out("t " + i, (long) n * r),
                                m.in((long) r * in, 1 / Math.sqrt(in), 0),
                                m.in((long) out * r),
                                i == 0 ? new DropoutMask(0.3, 77, 5, counter) : null,
                                r,
                                1.5);
                layers.add(new Backend.Projection(
                        m.out("y " + i, (long) n * out),
                        packed || i == 1 ? m.prepared(w, out, in) : w,
                        i == 1 ? null : m.in(out),
                        out,
                        lowRank));
            }
            m.backend().projections(layers, x, n, in);
        });
    }

    static List<Arguments> roundedProblems() {
        // n, in, out, r, dropout
        int[][] small = {{1, 1, 1, 1, 1}, {33, 7, 33, 3, 0}, {65, 64, 48, 8, 1}, {70, 130, 65, 16, 1}};
        int[][] large = {{300, 100, 64, 16, 0}, {1100, 384, 200, 12, 1}};
        List<Arguments> all = new ArrayList<>();
        for (Named<Bf16Tiles> tiles : FrozenWeightBf16Test.tiles()) {
            boolean interpreted = tiles.getPayload() instanceof InterpretedTiles;
            Stream.concat(Stream.of(small), interpreted ? Stream.empty() : Stream.of(large))
                    .forEach(s -> all.add(Arguments.of(tiles, s)));
        }
        return all;
    }

    /// With every kind of tiles, against the F32 kernel: no more apart than rounding to 8 bits explains.
    @ParameterizedTest
    @MethodSource("roundedProblems")
    void operandsOfBf16GiveNearlyTheSame(Bf16Tiles tiles, int[] s) {
        int n = s[0];
        int in = s[1];
        int out = s[2];
        int r = s[3];
        Random random = new Random(23);
        DropoutSimd.Keep keep = s[4] == 0 ? null : new DropoutSimd.Keep(9, 5, 77, 1, 0x4ccccccdL, 1 / 0.7f);
        try (Parallel parallel = new Parallel(2);
                Arena arena = Arena.ofShared()) {
            MemorySegment x = AttentionSimdTest.normal(arena, random, (long) n * in);
            MemorySegment a = AttentionSimdTest.normal(arena, random, (long) r * in);
            MemorySegment b = AttentionSimdTest.normal(arena, random, (long) r * out);
            MemorySegment w = AttentionSimdTest.normal(arena, random, (long) out * in);
            MemorySegment dy = AttentionSimdTest.normal(arena, random, (long) n * out);
            MemorySegment before = AttentionSimdTest.normal(arena, random, Math.max(n, out) * (long) Math.max(in, r));
            List<MemorySegment> exact = new ArrayList<>();
            for (Bf16Tiles of : new Bf16Tiles[] {null, tiles}) {
                MemorySegment y = arena.allocate(4L * n * out, 64);
                MemorySegment t = arena.allocate(4L * n * r, 64);
                MemorySegment dx = arena.allocate(4L * n * in, 64).copyFrom(before.asSlice(0, 4L * n * in));
                MemorySegment da = arena.allocate(4L * r * in, 64);
                MemorySegment db = arena.allocate(4L * out * r, 64).copyFrom(before.asSlice(0, 4L * out * r));
                LoraLinearSimd.LowRank lowRank = new LoraLinearSimd.LowRank(t, a, b, keep, r, 1.5f);
                FrozenWeight frozen = new FrozenWeight(parallel, w, out, in, bytes -> arena.allocate(bytes, 64), of);
                LoraLinearSimd.Layer layer = new LoraLinearSimd.Layer(y, out, frozen.forward(), null, lowRank);
                LoraLinearSimd.forward(parallel, of, List.of(layer), x, n, in);
                LoraLinearSimd.backward(
                        parallel,
                        of,
                        frozen.backward(parallel),
                        dx,
                        da,
                        db,
                        dy,
                        x,
                        t,
                        a,
                        b,
                        keep,
                        n,
                        in,
                        out,
                        r,
                        1.5f,
                        true,
                        false,
                        true);
                List<MemorySegment> results = List.of(y, t, dx, da, db);
                if (of == null) {
                    exact.addAll(results);
                } else {
                    for (int i = 0; i < results.size(); i++) {
                        AttentionSimdTest.near("result " + i, results.get(i), exact.get(i));
                    }
                }
            }
        }
    }
}
