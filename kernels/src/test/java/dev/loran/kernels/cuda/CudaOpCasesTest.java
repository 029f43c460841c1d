package dev.loran.kernels.cuda;

import dev.loran.engine.testing.BackendCase;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import java.util.Collection;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Every operation, forward and backward, and every promise of a backend, against the reference in double precision, in
/// every storage type; on the CPU stand-in.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaOpCasesTest {
    private CudaBackend backend;

    @BeforeAll
    void open() {
        backend = StandIn.open();
    }

    @AfterAll
    void close() {
        if (backend != null) {
            backend.close();
        }
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
