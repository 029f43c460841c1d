package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.jupiter.api.Test;

class MainTest {
    @Test
    void sizesThatDoNotFitAreSaidInOneLine() {
        StringWriter errors = new StringWriter();
        int status = Main.commandLine()
                .setErr(new PrintWriter(errors))
                .execute("step", "--hidden", "20", "--heads", "3", "--steps", "1");
        assertThat(errors.toString().lines())
                .containsExactly("bench step: hidden_size is 20, must be a multiple of num_attention_heads 3");
        assertThat(status).isEqualTo(2);
    }
}
