package dev.loran.peft.io;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class NearestTest {
    private static final List<String> METHODS =
            List.of("full", "lora", "adalora", "p-tuning", "prompt", "prefix", "ia3");

    @Test
    void isTheNameWithTheFewestEdits() {
        assertThat(Nearest.to("lroa", METHODS)).contains("lora");
        assertThat(Nearest.to("adlora", METHODS)).contains("adalora");
        assertThat(Nearest.to("LoRA", METHODS)).contains("lora");
        assertThat(Nearest.to("P_Tuning", METHODS)).contains("p-tuning");
        assertThat(Nearest.to("prefix-tuning", METHODS)).contains("prefix");
        assertThat(Nearest.to("prompt_tuning", METHODS)).contains("prompt");
    }

    @Test
    void isNoneWhereNoneIsNear() {
        assertThat(Nearest.to("magic", METHODS)).isEmpty();
        assertThat(Nearest.to("", METHODS)).isEmpty();
        assertThat(Nearest.to("lora", List.of())).isEmpty();
    }

    @Test
    void countsASwapAsOneEdit() {
        assertThat(Nearest.edits("query", "qurey")).isEqualTo(1);
        assertThat(Nearest.edits("query", "key")).isEqualTo(3);
        assertThat(Nearest.edits("", "abc")).isEqualTo(3);
        assertThat(Nearest.edits("kitten", "sitting")).isEqualTo(3);
    }

    @Test
    void hintsAtEachNameOnce() {
        assertThat(Nearest.hint(List.of("lroa", "lorra", "magic", "ful"), METHODS))
                .isEqualTo("; did you mean lora, full?");
        assertThat(Nearest.hint(List.of("magic"), METHODS)).isEmpty();
    }
}
