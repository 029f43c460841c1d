package dev.loran.benchmarks;

import dev.loran.engine.Autograd;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import dev.loran.kernels.Backends;
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

/// Every operation of [OpCases#benchmarks] on the fastest backend, forward alone and with its backward pass:
/// `./loran bench jmh OpBenchmark -p op=attention`. Besides the time, it reports GFLOP/s and GB/s, based on the case's
/// own cost; `./loran bench roofline` says what share of the machine's peak that is.
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
public class OpBenchmark {
    /// The operation; a test checks that this list matches [OpCases#benchmarks].
    @Param({
        "add",
        "mul",
        "gelu",
        "silu",
        "gated",
        "matmul",
        "linear",
        "loraLinear",
        "softmax",
        "layerNorm",
        "rmsNorm",
        "rope",
        "embedding",
        "attention",
        "dropout",
        "permute",
        "sum",
        "crossEntropy",
        "linearCrossEntropy"
    })
    public String op;

    @Param({"1", "2"})
    public int threads;

    private Backend backend;
    private OpCase opCase;
    private OpCase.Run run;

    /// The work done by the passes, in units of 10⁹; JMH divides by the time.
    @AuxCounters(AuxCounters.Type.OPERATIONS)
    @State(Scope.Thread)
    public static class Work {
        public double gflop;
        public double gigabyte;

        /// Resets the counters for each iteration.
        @Setup(Level.Iteration)
        public void clear() {
            gflop = 0;
            gigabyte = 0;
        }

        void add(long flops, long bytes) {
            gflop += flops / 1e9;
            gigabyte += bytes / 1e9;
        }
    }

    @Setup(Level.Trial)
    public void setUp() {
        backend = Backends.simd(threads);
        opCase = OpCases.benchmark(op);
        run = opCase.on(backend, DType.F32);
    }

    @TearDown(Level.Trial)
    public void tearDown() {
        run.close();
        backend.close();
    }

    @Benchmark
    public void forward(Work work) {
        try (Autograd.Mode mode = Autograd.noGrad();
                Tensor y = run.forward()) {
            work.add(opCase.flops(), opCase.bytes(DType.F32));
        }
    }

    @Benchmark
    public void forwardAndBackward(Work work) {
        run.step();
        work.add(opCase.flops() + opCase.backwardFlops(), opCase.bytes(DType.F32) + opCase.backwardBytes(DType.F32));
    }
}
