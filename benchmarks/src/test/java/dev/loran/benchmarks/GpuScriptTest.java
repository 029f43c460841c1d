package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

/// `gpu.sh` runs on machines where it cannot be tried out first, so everything it refers to must exist.
class GpuScriptTest {
    private static String script() throws IOException {
        return Files.readString(Path.of("gpu.sh"));
    }

    private static List<String> matches(String regex, String text) {
        return Pattern.compile(regex)
                .matcher(text)
                .results()
                .map(MatchResult::group)
                .toList();
    }

    @Test
    void itsClassesExist() throws IOException {
        List<String> names = matches("dev\\.loran(\\.[a-z]+)+\\.[A-Z]\\w+", script());
        assertThat(names).contains(Main.class.getName()).hasSizeGreaterThan(5);
        for (String name : names) {
            String file = name.replace('.', '/') + ".java";
            assertThat(List.of("main", "test"))
                    .as(name)
                    .anyMatch(set -> List.of("kernels", "peft", "benchmarks").stream()
                            .anyMatch(module -> Files.isRegularFile(Path.of("..", module, "src", set, "java", file))));
        }
    }

    @Test
    void itsCommandsTakeItsOptions() throws IOException {
        String script = script().replace("\\\n", " ");
        CommandLine main = new CommandLine(new Main());
        for (String name : List.of("gpu", "step")) {
            CommandLine command = Objects.requireNonNull(main.getSubcommands().get(name));
            List<String> lines = script.lines()
                    .filter(l ->
                            l.contains("benchmarks.Main " + name) || l.strip().startsWith(name + " '"))
                    .toList();
            List<String> sizes = name.equals("gpu") ? matches("sizes='[^']*'", script) : List.of();
            assertThat(lines).isNotEmpty();
            List<String> options = lines.stream()
                    .flatMap(l -> matches("--[a-z-]+", l).stream())
                    .toList();
            assertThat(options).contains("--json");
            assertThat(command.getCommandSpec().optionsMap().keySet())
                    .containsAll(options)
                    .containsAll(matches("--[a-z-]+", String.join(" ", sizes)));
        }
    }

    @Test
    void theShellReadsIt() throws Exception {
        Process shell = new ProcessBuilder("sh", "-n", "gpu.sh")
                .redirectErrorStream(true)
                .start();
        String said = new String(shell.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(shell.waitFor()).as(said).isZero();
    }
}
