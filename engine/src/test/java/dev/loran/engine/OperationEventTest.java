package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class OperationEventTest {
    private static final String NAME = "dev.loran.Operation";

    @TempDir
    Path folder;

    @Test
    void bothPassesOfEachOperation() throws IOException {
        List<RecordedEvent> events = record(true);
        assertThat(events.stream().map(e -> e.getString("pass") + " " + e.getString("operation")))
                .containsExactly(
                        "forward MatMulOp",
                        "forward SoftmaxOp",
                        "forward SumOp",
                        "backward SumOp",
                        "backward SoftmaxOp",
                        "backward MatMulOp");
        RecordedEvent product = events.getFirst();
        assertThat(product.getString("shape")).isEqualTo("(3, 5)");
        assertThat(product.getString("dtype")).isEqualTo("F64");
        assertThat(product.getLong("bytes")).isEqualTo(3 * 5 * 8);
        assertThat(product.getDuration()).isZero();
        assertThat(events.getLast().getDuration()).isPositive();
    }

    @Test
    void onlyOnDemand() throws IOException {
        assertThat(record(false)).isEmpty();
    }

    private List<RecordedEvent> record(boolean demanded) throws IOException {
        Path file = folder.resolve("operations.jfr");
        try (Recording recording = new Recording()) {
            if (demanded) {
                recording.enable(NAME);
            }
            recording.start();
            step();
            recording.stop();
            recording.dump(file);
        }
        return RecordingFile.readAllEvents(file).stream()
                .filter(e -> e.getEventType().getName().equals(NAME))
                .toList();
    }

    private static void step() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            SplittableRandom random = new SplittableRandom(7);
            Tensor x = Tensor.randn(backend, DType.F64, random, 1, 3, 4);
            Tensor w = Tensor.randn(backend, DType.F64, random, 1, 4, 5).requiresGrad(true);
            Functional.softmax(x.matmul(w)).sum().backward();
            w.close();
        }
    }
}
