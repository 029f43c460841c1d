package dev.loran.benchmarks;

import dev.loran.engine.Autograd;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import dev.loran.kernels.Backends;
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.DoubleSupplier;
import java.util.function.IntConsumer;
import java.util.function.LongSupplier;
import java.util.stream.DoubleStream;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/// `./loran bench roofline`: the peak rates of this machine, and the share of them that every operation reaches.
///
/// The roof of an operation is the lower of two: arithmetic in registers, and copying the bytes that it must move
/// (Williams et al., "Roofline", 2009); both are measured here, in the same run. A share above 1 means that the data
/// were in a cache.
@Command(
        name = "roofline",
        mixinStandardHelpOptions = true,
        description = "Measures peak arithmetic and copying, and every operation's share of them.")
final class RooflineCommand implements Callable<Integer> {
    private static final VectorSpecies<Float> S = FloatVector.SPECIES_PREFERRED;

    /// Long enough for C2 to compile and for clocks to settle.
    private static final int FMA_ROUNDS = 20_000_000;

    private static final int CHAINS = 12;

    /// Larger than any cache.
    private static final long COPIED = 256L << 20;

    private static final int REPEATS = 15;

    /// The best of a few runs: a roof is what is possible, not what is typical.
    private static final int ROOF_REPEATS = 5;

    @Option(names = "--threads", defaultValue = "0", description = "threads; 0 for all processors (${DEFAULT-VALUE})")
    private int threads;

    @Option(names = "--op", description = "one operation only")
    private List<String> ops = new ArrayList<>();

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Override
    public Integer call() {
        int used = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        double gflops = best(() -> peakGflops(used));
        double bf16 = best(() -> peakBf16(used));
        double gigabytes = best(() -> peakCopy(used));
        System.out.printf(
                Locale.ROOT,
                "%d threads: F32 fused multiply-adds %.1f GFLOP/s, BF16 dots %.1f,"
                        + " copying %.1f GB/s (read and written)%n%n",
                used,
                gflops,
                bf16,
                gigabytes);
        System.out.printf(Locale.ROOT, "%-46s %9s %9s %8s %6s%n", "forward", "ms", "GFLOP/s", "GB/s", "share");
        StringBuilder rows = new StringBuilder();
        try (Backend backend = Backends.best(used)) {
            for (OpCase c : OpCases.benchmarks()) {
                if (ops.isEmpty() || ops.contains(c.op())) {
                    rows.append(rows.isEmpty() ? "" : ",").append(measured(backend, c, gflops, gigabytes));
                }
            }
        }
        if (json) {
            System.out.printf(
                    Locale.ROOT,
                    "{\"threads\":%d,\"peak_gflops\":%.2f,\"peak_bf16_gflops\":%.2f,"
                            + "\"peak_gigabytes_per_second\":%.2f,\"ops\":[%s]}%n",
                    used,
                    gflops,
                    bf16,
                    gigabytes,
                    rows);
        }
        return 0;
    }

    /// Measures one case, prints its line of the table, and returns the same as JSON.
    private static String measured(Backend backend, OpCase c, double gflops, double gigabytes) {
        try (OpCase.Run run = c.on(backend, DType.F32);
                Autograd.Mode mode = Autograd.noGrad()) {
            Runnable forward = () -> {
                try (Tensor y = run.forward()) {
                    y.shape();
                }
            };
            double ms = Timing.of(REPEATS, List.of(forward)).getFirst().medianMs();
            double arithmetic = c.flops() / ms / 1e6;
            double traffic = c.bytes(DType.F32) / ms / 1e6;
            double share = Math.max(arithmetic / gflops, traffic / gigabytes);
            System.out.printf(Locale.ROOT, "%-46s %9.3f %9.1f %8.1f %6.2f%n", c, ms, arithmetic, traffic, share);
            return String.format(
                    Locale.ROOT,
                    "{\"op\":\"%s\",\"median_ms\":%.4f,\"gflops\":%.2f,\"gigabytes_per_second\":%.2f,\"share\":%.4f}",
                    c,
                    ms,
                    arithmetic,
                    traffic,
                    share);
        }
    }

    // ---- the roofs

    private static double best(DoubleSupplier roof) {
        return DoubleStream.generate(roof).limit(ROOF_REPEATS).max().orElseThrow();
    }

    /// Returns the arithmetic peak of `threads` threads, in GFLOP/s.
    static double bestGflops(int threads) {
        return best(() -> peakGflops(threads));
    }

    /// The same for BF16 operands accumulated in F32; 0 if no instruction does that.
    private static double peakBf16(int threads) {
        return peak(threads, Backends::dotsOfBf16);
    }

    /// Of the Vector API and of machine code, where there is some, the faster.
    private static double peakGflops(int threads) {
        double seconds = seconds(threads, t -> sink(fma(FMA_ROUNDS, 1 + t * 1e-9f)));
        return Math.max(
                2.0 * CHAINS * S.length() * FMA_ROUNDS * threads / seconds / 1e9,
                peak(threads, Backends::multiplyAddsOfF32));
    }

    private static double peak(int threads, LongSupplier loop) {
        AtomicLong operations = new AtomicLong();
        double seconds = seconds(threads, t -> operations.addAndGet(loop.getAsLong()));
        return operations.get() / seconds / 1e9;
    }

    /// Independent chains of multiply-adds in registers, more than needed to hide the latency of one.
    private static float fma(int rounds, float seed) {
        FloatVector x = FloatVector.broadcast(S, 0.999f * seed);
        FloatVector y = FloatVector.broadcast(S, 1e-3f);
        FloatVector a = y;
        FloatVector b = y;
        FloatVector c = y;
        FloatVector d = y;
        FloatVector e = y;
        FloatVector f = y;
        FloatVector g = y;
        FloatVector h = y;
        FloatVector i = y;
        FloatVector j = y;
        FloatVector k = y;
        FloatVector l = y;
        for (int r = 0; r < rounds; r++) {
            a = a.fma(x, y);
            b = b.fma(x, y);
            c = c.fma(x, y);
            d = d.fma(x, y);
            e = e.fma(x, y);
            f = f.fma(x, y);
            g = g.fma(x, y);
            h = h.fma(x, y);
            i = i.fma(x, y);
            j = j.fma(x, y);
            k = k.fma(x, y);
            l = l.fma(x, y);
        }
        FloatVector sum =
                a.add(b).add(c.add(d)).add(e.add(f)).add(g.add(h)).add(i.add(j)).add(k.add(l));
        return sum.lane(0);
    }

    /// Keeps an otherwise unused result from being optimized away.
    private static void sink(float value) {
        if (Float.isNaN(value)) {
            throw new IllegalStateException("roofline: the sum is no number");
        }
    }

    private static double peakCopy(int threads) {
        try (Arena arena = Arena.ofShared()) {
            long each = COPIED / threads;
            MemorySegment from = arena.allocate(COPIED, 64).fill((byte) 1);
            MemorySegment to = arena.allocate(COPIED, 64).fill((byte) 2);
            double seconds = seconds(threads, t -> to.asSlice(t * each, each).copyFrom(from.asSlice(t * each, each)));
            return 2.0 * each * threads / seconds / 1e9;
        }
    }

    private static double seconds(int threads, IntConsumer body) {
        try (Parallel parallel = new Parallel(threads)) {
            long start = System.nanoTime();
            parallel.parallelFor(threads, body);
            return (System.nanoTime() - start) / 1e9;
        }
    }
}
