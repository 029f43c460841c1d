package dev.loran.benchmarks;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.testing.OpCase;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class Rank4UpdateTest {
    private static final int[][] SIZES = {{1, 1}, {7, 33}, {130, 65}, {5, 16}};

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "vector", "blocked", "parallel"})
    void everyStepIsTheSameOperation(String step) {
        try (Backend backend = Backends.simd(2)) {
            for (int[] size : SIZES) {
                OpCase c = Rank4Update.opCase(size[0], size[1], Rank4Benchmark.kernel(step));
                c.checkReference();
                c.check(backend);
            }
        }
    }

    /// Runs on the CPU stand-in, which executes `src-cuda/standin/rank4.cu` under the name of the PTX kernel.
    @Test
    void theKernelInPtxIsTheSameOperation() {
        Path standIn = Path.of("..", "kernels", "target", "standin");
        assumeTrue(Files.exists(standIn.resolve("libcublas.so.12")), "the CPU stand-in was not built");
        try (Backend backend = CudaBackend.standIn(standIn, DType.F32)) {
            for (int[] size : SIZES) {
                Rank4Update.opCase(size[0], size[1], Rank4Update::scalar).check(backend);
            }
        }
    }
}
