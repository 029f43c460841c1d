package dev.loran.kernels;

import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import java.util.Collection;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Every operation against the reference in double precision, forward and backward.
class SimdOpCasesTest {
    static Collection<OpCase> all() {
        return OpCases.all();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("all")
    void agreesWithReference(OpCase c) {
        try (SimdBackend backend = new SimdBackend(2)) {
            c.check(backend);
        }
    }
}
