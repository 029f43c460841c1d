package dev.loran.peft.cli.console;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class ProgressTest {
    private static final List<String> PARTS = List.of("loss 0.7401", "1:38 left", "0.45 steps/s", "lr 1.1e-04");

    @Test
    void theLineFitsTheTerminal() {
        assertThat(Progress.line(3, 45, PARTS, 80))
                .isEqualTo("█░░░░░░░░░░░░░░░░░  3/45   6 %  loss 0.7401  1:38 left  0.45 steps/s  lr 1.1e-04");
        assertThat(Progress.line(3, 45, PARTS, 40)).isEqualTo(" 3/45   6 %  loss 0.7401  1:38 left     ");
        assertThat(Progress.line(45, 45, PARTS, 20)).isEqualTo("████████ 45/45 100 %");
        assertThat(Progress.line(45, 45, PARTS, 5)).isEqualTo("45/45");
        for (int width = 0; width < 200; width++) {
            assertThat(Progress.line(7, 12345, PARTS, width)).hasSize(width);
        }
    }
}
