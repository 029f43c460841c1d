package dev.loran.peft.watch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.train.MemoryPlan;
import java.lang.foreign.Arena;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;

class ProcessMemoryTest {
    private static final long MIB = 1 << 20;

    @Test
    void refusesARunThatDoesNotFit() {
        MemoryPlan plan = new MemoryPlan(300 * MIB, 700 * MIB, 5 * MIB, 1001 * MIB);
        assertThatCode(() -> ProcessMemory.requireRoom(plan, 1001 * MIB, 16, 128))
                .doesNotThrowAnyException();
        assertThatThrownBy(() -> ProcessMemory.requireRoom(plan, 1000 * MIB, 16, 128))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "the tensors of this run need 1,001 MiB (weights 300.0 MiB, activations 700.0 MiB, gradients"
                                + " and optimizer 5.0 MiB), and there are 1,000 MiB here; lower --batch-size (16) or --max-length"
                                + " (128), keep less with --gradient-checkpointing, or halve the weights with --dtype bf16;"
                                + " --ignore-memory tries all the same");
    }

    @Test
    @EnabledOnOs(OS.LINUX)
    void countsFromAReset() {
        // Fresh native memory is zeroed, and is therefore resident until it is freed.
        try (Arena arena = Arena.ofConfined()) {
            assertThat(arena.allocate(256 * MIB).byteSize()).isEqualTo(256 * MIB);
        }
        double before = ProcessMemory.peakMib(0);
        assertThat(ProcessMemory.resetPeak()).isTrue();
        assertThat(ProcessMemory.peakMib(0)).isLessThan(before - 128);
    }

    @Test
    void knowsTheMachine() {
        assertThat(ProcessMemory.totalBytes()).isGreaterThan(64 * MIB);
        assertThat(ProcessMemory.peakMib(0)).isBetween(10.0, ProcessMemory.totalBytes() / (double) MIB);
    }
}
