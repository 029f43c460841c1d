package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Stream;
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

    /// What the documents say to type has options that exist; those of JMH are JMH's.
    @Test
    void theCommandsInTheDocumentsAreAccepted() throws IOException {
        Path root = Path.of("").toAbsolutePath();
        while (!Files.isRegularFile(root.resolve("README.md"))) {
            root = Objects.requireNonNull(root.getParent(), "the folder of README.md");
        }
        List<Path> documents = new ArrayList<>(List.of(root.resolve("README.md"), root.resolve("CONTRIBUTING.md")));
        try (Stream<Path> guides = Files.list(root.resolve("docs"))) {
            guides.forEach(documents::add);
        }
        int found = 0;
        for (Path document : documents) {
            for (MatchResult command : Pattern.compile("\\./loran bench ([^`\n]+)")
                    .matcher(Files.readString(document))
                    .results()
                    .toList()) {
                Main.commandLine().parseArgs(command.group(1).strip().split(" +"));
                found++;
            }
        }
        assertThat(found).isGreaterThan(5);
    }
}
