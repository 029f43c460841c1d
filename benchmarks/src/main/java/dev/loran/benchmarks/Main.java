package dev.loran.benchmarks;

import dev.loran.engine.backend.BackendException;
import dev.loran.peft.cli.Version;
import dev.loran.peft.cli.console.Output;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.Unmatched;

/// `./loran bench`: all measurements of the project, one subcommand each.
@Command(
        name = "loran bench",
        mixinStandardHelpOptions = true,
        versionProvider = Version.class,
        description = "Measures kernels and whole training steps; answers beside peers.",
        subcommands = {
            GemmCommand.class,
            StepCommand.class,
            RooflineCommand.class,
            GpuCommand.class,
            AnswersCommand.class,
            PerplexityCommand.class,
            Main.Jmh.class
        })
public final class Main implements Runnable {
    @Spec
    private CommandSpec spec;

    /// Runs one measurement. The exit status is 2 if the command line names nothing to run, or something that cannot
    /// run here.
    public static void main(String[] args) {
        Output.takeStandardError();
        System.exit(commandLine().execute(args));
    }

    /// Reports invalid sizes, or what is missing on this machine, in one line; any other exception comes with its stack
    /// trace.
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

    /// The JMH benchmarks of this module; all arguments after `jmh` go to JMH (`jmh -l` lists the benchmarks, `jmh -h`
    /// explains the options).
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
