package dev.loran.benchmarks;

import dev.loran.engine.Backend;
import dev.loran.engine.testing.OpCase;
import dev.loran.kernels.Backends;
import dev.loran.kernels.simd.vector.Parallel;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class Rank4UpdateTest {
    private static final int[][] SIZES = {{1, 1}, {7, 33}, {130, 65}, {5, 16}};

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "vector", "blocked", "parallel"})
    void everyStepIsTheSameOperation(String step) {
        try (Parallel parallel = new Parallel(2);
                Backend backend = Backends.simd(2)) {
            for (int[] size : SIZES) {
                OpCase c = Rank4Update.opCase(size[0], size[1], Rank4Benchmark.kernel(step, parallel));
                c.checkReference();
                c.check(backend);
            }
        }
    }
}
