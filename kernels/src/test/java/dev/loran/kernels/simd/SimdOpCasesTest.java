package dev.loran.kernels.simd;

import dev.loran.engine.testing.BackendCase;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import java.util.Collection;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Every operation, forward and backward, and every guarantee of a backend, against the reference in double precision.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SimdOpCasesTest {
    private SimdBackend backend;

    @BeforeAll
    void open() {
        backend = new SimdBackend(2);
    }

    @AfterAll
    void close() {
        backend.close();
    }

    static Collection<OpCase> operations() {
        return OpCases.all();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("operations")
    void agreesWithReference(OpCase c) {
        c.check(backend);
    }

    static Collection<BackendCase> promises() {
        return BackendCase.all();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("promises")
    void keeps(BackendCase c) {
        c.check(backend);
    }
}
