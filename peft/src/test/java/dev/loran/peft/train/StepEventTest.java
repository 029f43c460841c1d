package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.engine.backend.ReferenceBackend;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class StepEventTest {
    @Test
    void aStepIsRecorded(@TempDir Path folder) throws IOException {
        Path file = folder.resolve("steps.jfr");
        try (Recording recording = new Recording();
                ReferenceBackend backend = new ReferenceBackend()) {
            recording.enable("dev.loran.Step");
            recording.start();
            TinyRun.train(folder.resolve("run"), backend);
            recording.stop();
            recording.dump(file);
        }
        List<RecordedEvent> events = RecordingFile.readAllEvents(file).stream()
                .filter(e -> e.getEventType().getName().equals("dev.loran.Step"))
                .toList();
        assertThat(events).hasSize(1);
        RecordedEvent event = events.getFirst();
        JsonNode line = new RunFolder(folder.resolve("run")).metrics().getFirst();
        assertThat(event.getInt("step")).isEqualTo(1);
        assertThat(event.getDouble("loss")).isEqualTo(line.get("loss").doubleValue());
        assertThat(event.getDouble("gradNorm")).isEqualTo(line.get("grad_norm").doubleValue());
        assertThat(event.getInt("tokens")).isEqualTo(line.get("tokens").intValue());
        assertThat(event.getDuration("reading").toNanos() / 1e9)
                .isCloseTo(line.get("data_seconds").doubleValue(), within(1e-6));
        assertThat(event.getLong("peakBytes")).isPositive();
        assertThat(event.getDuration()).isPositive();
    }
}
