package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCase.Run;
import dev.loran.engine.testing.OpCases;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Every operation, at every size and with every option that its cases describe.
class OpCasesTest {
    static Collection<OpCase> all() {
        return OpCases.all();
    }

    /// Cases small enough to run once per allocation.
    static Collection<OpCase> small() {
        return all().stream().filter(c -> c.flops() < 100_000).toList();
    }

    /// Gradients against finite differences, fused against composed; nothing kept under noGrad, no buffer left.
    @ParameterizedTest(name = "{0}")
    @MethodSource("all")
    void reference(OpCase c) {
        c.checkReference();
    }

    /// The reference in F32 against the reference in F64, forward and backward.
    @ParameterizedTest(name = "{0}")
    @MethodSource("all")
    void singlePrecision(OpCase c) {
        try (ReferenceBackend backend = new ReferenceBackend()) {
            c.check(backend);
        }
    }

    /// Whichever allocation fails in forward or backward, what was allocated before it must be released.
    @ParameterizedTest(name = "{0}")
    @MethodSource("small")
    void outOfMemory(OpCase c) {
        FailingBackend backend = new FailingBackend();
        try (Run run = c.on(backend, DType.F64)) {
            int before = backend.liveBuffers();
            int failures = 0;
            for (boolean failed = true; failed; failures++) {
                backend.failAfter(failures);
                failed = fails(run);
                run.arguments().values().forEach(Tensor::zeroGrad);
                assertThat(backend.liveBuffers())
                        .as("after %d allocations", failures)
                        .isEqualTo(before);
            }
            assertThat(failures).as("runs until the one that succeeds").isGreaterThan(1);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static boolean fails(Run run) {
        try {
            run.step();
            return false;
        } catch (BackendException e) {
            assertThat(e).hasMessage("test: out of memory");
            return true;
        }
    }

    @Test
    void everyOperationAppearsOnTheTape() throws IOException {
        Set<String> seen = new TreeSet<>();
        try (ReferenceBackend backend = new ReferenceBackend()) {
            for (OpCase c : OpCases.all()) {
                try (Run run = c.on(backend, DType.F64);
                        Tensor y = run.forward()) {
                    ArrayDeque<Tensor> todo = new ArrayDeque<>(List.of(y));
                    while (!todo.isEmpty()) {
                        Node node = todo.poll().node();
                        if (node != null) {
                            seen.add(node.op.getClass().getSimpleName());
                            todo.addAll(node.op.inputs());
                        }
                    }
                }
            }
        }
        Set<String> missing = new TreeSet<>();
        try (Stream<Path> files = Files.walk(Path.of("src/main/java/dev/loran/engine"))) {
            for (Path file : files.filter(f -> f.toString().endsWith(".java")).toList()) {
                if (Files.readString(file).contains("implements Op {")) {
                    missing.add(file.getFileName().toString().replace(".java", ""));
                }
            }
        }
        assertThat(missing).hasSizeGreaterThan(25).containsAll(seen);
        missing.removeAll(seen);
        assertThat(missing).as("operations that no OpCase reaches").isEmpty();
    }
}
