package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.kernels.simd.vector.Vectors;
import org.junit.jupiter.api.Test;

/// Without this a build whose flags got lost would test the reference against itself, and pass.
class KernelsAvailableTest {
    /// The width that an execution of the tests asks for; absent: any.
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
