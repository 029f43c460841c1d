package dev.loran.benchmarks;

import dev.loran.benchmarks.Rank4Update.Kernel;
import dev.loran.engine.Autograd;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.testing.OpCase;
import dev.loran.kernels.Backends;
import java.util.concurrent.TimeUnit;
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

/// The optimization steps of [Rank4Update]: `./loran bench jmh Rank4Benchmark`.
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(
        value = 3,
        jvmArgsAppend = {
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            "-XX:+IgnoreUnrecognizedVMOptions",
            "-XX:-UseProfiledLoopPredicate"
        })
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class Rank4Benchmark {
    @Param({"scalar", "vector", "blocked", "parallel"})
    public String step;

    private Backend backend;
    private OpCase.Run run;

    @Setup(Level.Trial)
    public void setUp() {
        backend = Backends.simd(2);
        run = Rank4Update.opCase(1024, 2048, kernel(step)).on(backend, DType.F32);
    }

    /// Returns the kernel of the given step.
    static Kernel kernel(String step) {
        return switch (step) {
            case "scalar" -> Rank4Update::scalar;
            case "vector" -> Rank4Update::vector;
            case "blocked" -> Rank4Update::blocked;
            case "parallel" -> Rank4Update::parallel;
            default -> throw new IllegalArgumentException("rank4: no step " + step);
        };
    }

    @TearDown(Level.Trial)
    public void tearDown() {
        run.close();
        backend.close();
    }

    @Benchmark
    public void forward() {
        try (Autograd.Mode mode = Autograd.noGrad();
                Tensor y = run.forward()) {
            y.shape();
        }
    }
}
