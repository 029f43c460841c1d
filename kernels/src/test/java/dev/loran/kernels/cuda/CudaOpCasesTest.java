package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.DType;
import dev.loran.engine.testing.BackendCase;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import java.util.Collection;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Compares every operation, forward and backward, and every guarantee of a backend with the reference in double
/// precision, in every storage type; on the CPU stand-in.
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

    /// The cases with a composed form, except division, which is not a fused operation, checkpointing, which computes
    /// twice on purpose, and attention with windows, soft caps or packed rows, which has no kernel here.
    static Stream<OpCase> fused() {
        Set<String> others = Set.of("div", "checkpoint");
        return OpCases.all().stream()
                .filter(c -> c.composed() != null && !others.contains(c.op()))
                .filter(c -> Stream.of("window", "soft cap", "packed").noneMatch(c.variant()::contains));
    }

    /// The purpose of a fused operation.
    @ParameterizedTest(name = "{0}")
    @MethodSource("fused")
    void handsOverNoMoreThanItsParts(OpCase c) {
        long whole = submissions(c);
        long parts = submissions(new OpCase(
                c.op(),
                c.variant(),
                c.result(),
                Objects.requireNonNull(c.composed()),
                null,
                c.inputs(),
                c.flops(),
                c.backwardFlops(),
                c.tolerances(),
                c.unsupported()));
        assertThat(whole)
                .as("launches, products and copies, forward and backward")
                .isBetween(1L, parts);
    }

    private long submissions(OpCase c) {
        try (OpCase.Run run = c.on(backend, DType.F32)) {
            long before = backend.submissions();
            run.step();
            return backend.submissions() - before;
        }
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
