package dev.loran.benchmarks;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.AuxCounters;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/// Attention forward and backward, measured separately: `./loran bench jmh AttentionBenchmark`. Besides the time, it
/// reports GFLOP/s, counting only pairs of query and key that see each other, and their share of the arithmetic peak
/// measured in the same process.
// Three forks, because C2 compiles differently from one process to the next; it takes about five seconds for all tiles.
@State(Scope.Benchmark)
@BenchmarkMode(Mode.Throughput)
@OutputTimeUnit(TimeUnit.SECONDS)
@Fork(
        value = 3,
        jvmArgsAppend = {
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            "-XX:+IgnoreUnrecognizedVMOptions",
            "-XX:-UseProfiledLoopPredicate"
        })
@Warmup(iterations = 3, time = 2)
@Measurement(iterations = 5, time = 1)
public class AttentionBenchmark {
    /// batch, queries, keys, prefix, heads, key heads, d, and 1 for causal: a decoder, an encoder, a prefix, grouped
    /// heads, a long sequence, and a single query with a cache.
    @Param({
        "8x128x128x0x8x8x64x1",
        "32x96x96x0x12x12x32x0",
        "8x128x128x20x8x8x64x1",
        "8x128x128x0x8x2x64x1",
        "2x1024x1024x0x8x8x64x1",
        "4x1x512x0x8x8x64x1"
    })
    public String shape;

    @Param({"1", "2"})
    public int threads;

    private int[] size;
    private int prefix;
    private double peak;
    private double product;
    private Backend backend;
    private Tensor q;
    private Tensor k;
    private Tensor v;
    private Tensor prefixK;
    private Tensor prefixV;
    private Tensor out;
    private Tensor lse;
    private Tensor[] gradients;

    /// The work done by the passes; JMH divides by the time.
    @AuxCounters(AuxCounters.Type.OPERATIONS)
    @State(Scope.Thread)
    public static class Work {
        public double gflop;
        public double shareOfPeak;

        /// Resets the counters for each iteration.
        @Setup(Level.Iteration)
        public void clear() {
            gflop = 0;
            shareOfPeak = 0;
        }

        void add(double flops, double peak) {
            gflop += flops / 1e9;
            shareOfPeak += flops / 1e9 / peak;
        }
    }

    @Setup(Level.Trial)
    public void setUp() {
        size = Arrays.stream(shape.split("x", -1)).mapToInt(Integer::parseInt).toArray();
        int batch = size[0];
        int t = size[1];
        int s = size[2];
        prefix = size[3];
        int heads = size[4];
        int kvHeads = size[5];
        int d = size[6];
        long pairs = size[7] == 1 ? (long) t * (prefix + s - t) + (long) t * (t + 1) / 2 : (long) t * (prefix + s);
        product = 2.0 * batch * heads * pairs * d;
        peak = RooflineCommand.bestGflops(threads);
        backend = Backends.simd(threads);
        SplittableRandom random = new SplittableRandom(1);
        q = Tensor.uniform(backend, DType.F32, random, 1, batch, t, heads, d);
        k = Tensor.uniform(backend, DType.F32, random, 1, batch, s, kvHeads, d);
        v = Tensor.uniform(backend, DType.F32, random, 1, batch, s, kvHeads, d);
        // If there is no prefix, one row that is not used.
        prefixK = Tensor.uniform(backend, DType.F32, random, 1, Math.max(1, prefix), kvHeads, d);
        prefixV = Tensor.uniform(backend, DType.F32, random, 1, Math.max(1, prefix), kvHeads, d);
        out = Tensor.empty(backend, DType.F32, batch, t, heads, d);
        lse = Tensor.empty(backend, DType.F32, batch, heads, t);
        gradients = new Tensor[] {
            Tensor.uniform(backend, DType.F32, random, 1, batch, t, heads, d),
            Tensor.empty(backend, DType.F32, batch, t, heads, d),
            Tensor.empty(backend, DType.F32, batch, s, kvHeads, d),
            Tensor.empty(backend, DType.F32, batch, s, kvHeads, d),
            Tensor.empty(backend, DType.F32, Math.max(1, prefix), kvHeads, d),
            Tensor.empty(backend, DType.F32, Math.max(1, prefix), kvHeads, d)
        };
        run();
    }

    @TearDown(Level.Trial)
    public void tearDown() {
        for (Tensor x : new Tensor[] {q, k, v, prefixK, prefixV, out, lse}) {
            x.close();
        }
        for (Tensor x : gradients) {
            x.close();
        }
        backend.close();
    }

    private Problem problem() {
        return new Problem(
                q.buffer(),
                k.buffer(),
                v.buffer(),
                prefix == 0 ? null : prefixK.buffer(),
                prefix == 0 ? null : prefixV.buffer(),
                null,
                new Sizes(size[0], size[1], size[2], prefix, size[4], size[5], size[6]),
                size[7] == 1,
                1 / Math.sqrt(size[6]));
    }

    private void run() {
        backend.attention().attention(out.buffer(), lse.buffer(), problem());
    }

    @Benchmark
    public Tensor forward(Work work) {
        run();
        work.add(2 * product, peak);
        return out;
    }

    @Benchmark
    public Tensor backward(Work work) {
        Slopes slopes = new Slopes(
                gradients[1].buffer(),
                gradients[2].buffer(),
                gradients[3].buffer(),
                prefix == 0 ? null : gradients[4].buffer(),
                prefix == 0 ? null : gradients[5].buffer());
        backend.attention().attentionBackward(slopes, gradients[0].buffer(), out.buffer(), lse.buffer(), problem());
        work.add(5 * product, peak);
        return gradients[1];
    }
}
