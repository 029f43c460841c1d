package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.kernels.simd.vector.Vectors;
import org.junit.jupiter.api.Test;

/// Without this test, a build that lost its JVM flags would test the reference against itself, and pass.
class KernelsAvailableTest {
    /// The vector width that a test run expects; if absent, any.
    private static final String EXPECTED = "loran.test.vectorBits";

    @Test
    void theTestsRunOnVectors() {
        assertThat(Backends.describe()).startsWith("backend: simd");
        assertThat(Vectors.F.vectorBitSize()).isGreaterThanOrEqualTo(128);
        Integer bits = Integer.getInteger(EXPECTED);
        if (bits != null) {
            assertThat(Vectors.F.vectorBitSize()).isLessThanOrEqualTo(bits);
        }
    }
}
