package dev.loran.benchmarks;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import java.util.SplittableRandom;
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

/// C = A · B in F32 next to OpenBLAS, in one run. `./loran bench jmh GemmBenchmark`; GFLOP/s = 2·m·n·k / time.
// Three forks, because inlining by C2 and the placement of memory differ from one process to the next. Five warm-up
// iterations of two seconds: C2 has compiled the tiles after about one second.
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
@Warmup(iterations = 5, time = 2)
@Measurement(iterations = 5, time = 1)
public class GemmBenchmark {
    /// m x n x k: cubes, and the two skinny shapes of LoRA.
    @Param({"512x512x512", "1024x1024x1024", "2048x2048x2048", "2048x16x2048", "2048x2048x16"})
    public String shape;

    @Param({"1", "2"})
    public int threads;

    private int m;
    private int n;
    private int k;
    private Backend backend;
    private Tensor a;
    private Tensor b;
    private Tensor c;
    private OpenBlas openBlas;

    @Setup(Level.Trial)
    public void setUp() {
        String[] sizes = shape.split("x", -1);
        m = Integer.parseInt(sizes[0]);
        n = Integer.parseInt(sizes[1]);
        k = Integer.parseInt(sizes[2]);
        SplittableRandom random = new SplittableRandom(1);
        backend = Backends.simd(threads);
        a = Tensor.uniform(backend, DType.F32, random, 1, m, k);
        b = Tensor.uniform(backend, DType.F32, random, 1, k, n);
        c = Tensor.empty(backend, DType.F32, m, n);
        openBlas = new OpenBlas(a.toFloats(), b.toFloats(), m, n, k, threads);
    }

    @TearDown(Level.Trial)
    public void tearDown() {
        openBlas.close();
        a.close();
        b.close();
        c.close();
        backend.close();
    }

    @Benchmark
    public Tensor simd() {
        backend.gemm(c.matrix(), a.matrix(), b.matrix(), 1, 0);
        return c;
    }

    @Benchmark
    public void openBlas() {
        openBlas.gemm(false);
    }
}
