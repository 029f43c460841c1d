package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Stop;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;
import picocli.CommandLine.Model.OptionSpec;

class HelpTest extends CommandLineTest {
    /// The default at the end of an option's description, if that is a value and not an explanation.
    private static final Pattern DEFAULT = Pattern.compile("\\(([\\w.+-]+)\\)$");

    private static CommandLine commands() {
        PrintStream none = new PrintStream(PrintStream.nullOutputStream());
        return Main.commandLine(new Output(none, none, false, new Stop()));
    }

    @Test
    void everyHelpFitsTheScreenAndExplainsEveryOption() {
        commands().getSubcommands().forEach((name, command) -> {
            assertThat(loran(name, "--help").out().lines()).as(name).allMatch(line -> line.length() <= 80);
            assertThat(command.getCommandSpec().usageMessage().description()).isNotEmpty();
            for (OptionSpec option : command.getCommandSpec().options()) {
                assertThat(option.description())
                        .as(name + " " + option.longestName())
                        .isNotEmpty();
            }
            assertThat(command.getCommandSpec().findOption("--quiet")).as(name).isNotNull();
        });
    }

    /// Runs each command that stores its options, without those that have a default.
    @Test
    void theDefaultsShownAreThoseUsed() throws IOException {
        Path out = folder.resolve("out");
        used("train", 12, out, "--model", encoder, "--task", "classify", "--train", train, "--steps", 1);
        used("quickstart", 12, out, "--model", encoder, "--rows", 10);
        used(
                "compare",
                10,
                out,
                "--methods",
                "lora",
                "--model",
                encoder,
                "--train",
                train,
                "--eval",
                held,
                "--steps",
                1);
        used("continual", 14, out, "--model", encoder, "--tasks", train + "," + held, "--steps", 1);
        used("pretrain", 8, out, "--train", train, "--hidden", 16, "--heads", 2, "--layers", 1);
    }

    private void used(String command, int least, Path out, Object... needed) throws IOException {
        List<Object> arguments = new ArrayList<>(List.of(command, "--out", out.resolve(command)));
        arguments.addAll(List.of(needed));
        Result result = loran(arguments.toArray());
        assertThat(result.code()).as(result.err()).isIn(0, 1);
        Path run = out.resolve(command.equals("compare") ? "compare/lora/run.json" : command + "/run.json");
        JsonNode options = JSON.readTree(Files.readString(run));
        int compared = 0;
        for (OptionSpec option : Objects.requireNonNull(
                        commands().getSubcommands().get(command))
                .getCommandSpec()
                .options()) {
            String shown = String.join("", option.description())
                    .replace("${DEFAULT-VALUE}", String.valueOf(option.defaultValueString()));
            Matcher m = DEFAULT.matcher(shown);
            JsonNode used = options.path(option.longestName().substring(2));
            // A word in place of a number says what the number means.
            boolean isWord = used.isNumber() && !shown.matches(".*\\([\\d.e-]+\\)");
            if (m.find() && !isWord && !used.isMissingNode() && !arguments.contains(option.longestName())) {
                String what = command + " " + option.longestName() + ": " + shown;
                if (used.isNumber()) {
                    assertThat(Double.parseDouble(m.group(1))).as(what).isEqualTo(used.doubleValue());
                } else {
                    assertThat(m.group(1)).as(what).isEqualTo(used.asText());
                }
                compared++;
            }
        }
        assertThat(compared).as(command).isGreaterThanOrEqualTo(least);
    }
}
