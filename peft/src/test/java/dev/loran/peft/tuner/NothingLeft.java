package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.ReferenceBackend;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.io.TempDir;

/// Base of tests on a backend that must have no live buffer at the end, with a temporary folder.
abstract class NothingLeft {
    final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }
}
