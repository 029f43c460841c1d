package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/// The script for bash, run by bash.
class CompletionCommandTest extends CommandLineTest {
    /// What bash offers for the last of `words`.
    private List<String> offered(String... words) throws IOException, InterruptedException {
        Path script = folder.resolve("completion.bash");
        if (!Files.exists(script)) {
            Result result = loran("completion", "bash");
            assertThat(result.code()).as(result.err()).isZero();
            Files.writeString(script, result.out() + """
                            compopt() { :; }
                            COMP_WORDS=("$@")
                            COMP_CWORD=$(($# - 1))
                            _complete_loran
                            printf '%s\\n' "${COMPREPLY[@]}"
                            """);
        }
        List<String> command = new ArrayList<>(List.of("bash", script.toString()));
        command.addAll(List.of(words));
        Process bash = new ProcessBuilder(command)
                .directory(folder.toFile())
                .redirectErrorStream(true)
                .start();
        String out = new String(bash.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        bash.waitFor();
        return out.lines().filter(line -> !line.isEmpty()).toList();
    }

    @Test
    void bashCompletesCommandsOptionsValuesAndFiles() throws IOException, InterruptedException {
        assumeTrue(Files.isExecutable(Path.of("/bin/bash")), "there is no bash");
        assertThat(offered("loran", "")).contains("train", "sweep", "doctor", "completion", "bench");
        assertThat(offered("./loran", "tr")).containsExactly("train");
        assertThat(offered("loran", "train", "--met")).containsExactly("--method");
        assertThat(offered("loran", "train", "--method", "ad")).containsExactlyInAnyOrder("adalora", "adapter");
        assertThat(offered("loran", "train", "--task", ""))
                .containsExactly("classify", "regress", "tag", "embed", "rerank", "generate", "chat", "prefer", "lm");
        assertThat(offered("loran", "train", "--dtype", "b")).containsExactly("bf16");
        assertThat(offered("loran", "train", "--train", "train.")).containsExactly("train.jsonl");
        assertThat(offered("loran", "train", "--model", "enc")).containsExactly("encoder");
        // Options that are passed on to another command.
        assertThat(offered("loran", "sweep", "--weight-d")).containsExactly("--weight-decay");
        assertThat(offered("loran", "example", "--method")).containsExactly("--methods");
        assertThat(offered("loran", "completion", "")).containsExactlyInAnyOrder("bash", "zsh");
    }

    @Test
    void anUnknownShellIsRefused() {
        assertRefused(
                loran("completion", "csh"),
                "loran completion: \"csh\" is not known; choose bash or zsh (see loran completion --help)");
    }
}
