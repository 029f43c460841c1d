package dev.loran.benchmarks;

import dev.loran.engine.backend.BackendException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.Unmatched;

/// `./loran bench`: every measurement of the project, each a subcommand.
@Command(
        name = "loran bench",
        mixinStandardHelpOptions = true,
        description = "Measures kernels and whole training steps; answers beside peers.",
        subcommands = {
            GemmCommand.class,
            StepCommand.class,
            RooflineCommand.class,
            GpuCommand.class,
            AnswersCommand.class,
            Main.Jmh.class
        })
public final class Main implements Runnable {
    @Spec
    private CommandSpec spec;

    /// Runs one measurement; exit status 2 for a command line that says nothing to run, or what cannot be run here.
    public static void main(String[] args) {
        System.exit(commandLine().execute(args));
    }

    /// Says in one line what is wrong with sizes, or missing on this machine; anything else comes with its stack.
    static CommandLine commandLine() {
        return new CommandLine(new Main()).setExecutionExceptionHandler((e, command, parsed) -> {
            if (!(e instanceof IllegalArgumentException || e instanceof BackendException)) {
                throw e;
            }
            command.getErr().println("bench " + command.getCommandName() + ": " + e.getMessage());
            return command.getCommandSpec().exitCodeOnInvalidInput();
        });
    }

    @Override
    public void run() {
        throw new ParameterException(spec.commandLine(), "bench: name what to measure");
    }

    /// The JMH benchmarks of this module; everything after `jmh` is JMH's own (`jmh -l` lists them, `jmh -h` explains).
    @Command(name = "jmh", description = "Runs the JMH benchmarks; takes JMH's own options.")
    static final class Jmh implements Callable<Integer> {
        @Unmatched
        private List<String> arguments = new ArrayList<>();

        @Override
        public Integer call() throws Exception {
            org.openjdk.jmh.Main.main(arguments.toArray(String[]::new));
            return 0;
        }
    }
}
