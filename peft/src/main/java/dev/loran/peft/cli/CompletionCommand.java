package dev.loran.peft.cli;

import dev.loran.peft.cli.console.Output;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.TrainerConfig.Optimization;
import dev.loran.peft.train.TrainerConfig.Schedule;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import picocli.AutoComplete;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/// `loran completion`: a script for a shell that completes commands, options, their values and files.
@Command(
        name = "completion",
        description = "Prints a script that lets a shell complete Loran's commands, options and values by the Tab key.",
        footer = {
            "",
            "For bash, in this shell:     source <(./loran completion bash)",
            "in every new one, once:      ./loran completion bash > ~/.loran.bash",
            "and in ~/.bashrc:            source ~/.loran.bash",
            "For zsh, in ~/.zshrc:        source <(PATH-TO/loran completion zsh)"
        })
final class CompletionCommand implements Callable<Integer> {
    private static final List<String> SHELLS = List.of("bash", "zsh");

    /// Options with paths that are read as texts, because they may also be names, or several paths.
    private static final List<String> PATHS = List.of("--model", "--tasks", "--eval", "--adapters");

    private final Output output;

    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "SHELL", completionCandidates = Shells.class, description = "bash or zsh")
    private String shell;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    /// The shells for which there is a script.
    private static final class Shells implements Iterable<String> {
        @Override
        public Iterator<String> iterator() {
            return SHELLS.iterator();
        }
    }

    CompletionCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        if (!SHELLS.contains(shell)) {
            throw new ParameterException(
                    spec.commandLine(), "\"" + shell + "\" is not known; choose " + String.join(" or ", SHELLS));
        }
        CommandLine loran = Main.commandLine(output);
        Map<String, CommandLine> commands = loran.getSubcommands();
        // These pass on the options of another command.
        adopt(commands, "sweep", "train");
        adopt(commands, "example", "compare");
        commands.values().forEach(command -> describe(command.getCommandSpec()));
        loran.addSubcommand("bench", CommandSpec.create());
        // Both shells understand it: zsh through bashcompinit, which the script loads.
        output.out().println(AutoComplete.bash("loran", loran));
        return Main.DONE;
    }

    private static void adopt(Map<String, CommandLine> commands, String name, String other) {
        CommandSpec spec = Objects.requireNonNull(commands.get(name)).getCommandSpec();
        CommandSpec from = Objects.requireNonNull(commands.get(other)).getCommandSpec();
        from.options().stream()
                .filter(option -> spec.findOption(option.longestName()) == null)
                .forEach(option -> spec.addOption(OptionSpec.builder(option).build()));
    }

    /// Tells the script which values options take. An option that takes a name or a path completes paths.
    private static void describe(CommandSpec spec) {
        for (OptionSpec option : List.copyOf(spec.options())) {
            String name = option.longestName();
            List<String> values = values(name);
            if (!values.isEmpty()) {
                spec.remove(option);
                // The script keeps values by label, so no two options may share one.
                spec.addOption(option.toBuilder()
                        .paramLabel(name.substring(2))
                        .completionCandidates(values)
                        .build());
            } else if (PATHS.contains(name)) {
                spec.remove(option);
                spec.addOption(OptionSpec.builder(name).type(Path.class).build());
            }
        }
    }

    private static List<String> values(String option) {
        return switch (option) {
            case "--method", "--methods" -> names(Method.values());
            case "--task" -> Task.shipped().stream().map(Task::name).toList();
            case "--dtype" -> List.of("f32", "bf16");
            case "--device" -> List.of("auto", "cpu", "cuda");
            case "--schedule" -> names(Schedule.values());
            case "--optimizer" -> names(Optimization.Kind.values());
            case "--encoder" -> List.of("mlp", "lstm", "transformer");
            case "--strategy" -> List.of("sequential", "separate", "rehearsal", "l2", "ewc", "olora");
            case "--format" -> List.of("jsonl", "json", "csv", "tsv", "txt");
            case "--pooling" -> names(Pooling.values());
            default -> List.of();
        };
    }

    private static List<String> names(Object[] values) {
        return Arrays.stream(values).map(String::valueOf).toList();
    }
}
