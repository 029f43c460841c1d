package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.ReferenceBackend;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.io.TempDir;

/// Tests on a backend that must own no buffer in the end, with a folder for files.
abstract class NothingLeft {
    final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }
}
