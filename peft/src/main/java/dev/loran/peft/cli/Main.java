package dev.loran.peft.cli;

import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Stop;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.train.DivergedException;
import dev.loran.peft.train.RunFolder;
import java.io.Console;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Stream;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.UsageMessageSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ScopeType;
import picocli.CommandLine.Spec;
import picocli.CommandLine.UnmatchedArgumentException;

/// The entry point.
///
/// Exit codes: 0 success; 2 unusable input, explained in one line on standard error; 130 and 143 ended by Ctrl-C and by
/// SIGTERM; 1 anything else.
@Command(
        name = "loran",
        versionProvider = Version.class,
        description = "Fine-tunes transformers on the JVM. Start with: loran quickstart",
        synopsisSubcommandLabel = "COMMAND",
        optionListHeading = "%nOptions:%n",
        commandListHeading = "%nCommands:%n",
        footer = {"", "Each command has a --help of its own; loran bench measures kernels and training steps."})
public final class Main implements Runnable {
    static final int DONE = 0;
    static final int FAILED = 1;
    static final int INPUT_ERROR = 2;
    /// The same code as after Ctrl-C.
    static final int STOPPED = 130;

    private static final String LOG_LEVEL = "org.slf4j.simpleLogger.defaultLogLevel";
    private static final String USUAL_LOG = "warn";

    @Spec
    private CommandSpec spec;

    private final Output output;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    @Option(
            names = {"-V", "--version"},
            versionHelp = true,
            description = "print the versions of Loran and the JDK, and what computes")
    boolean version;

    private Main(Output output) {
        this.output = output;
    }

    @Option(
            names = {"-q", "--quiet"},
            scope = ScopeType.INHERIT,
            description = "print errors and the result only")
    void quiet(boolean asked) {
        if (asked) {
            output.level(Output.Level.QUIET);
            logLevel("error");
        }
    }

    @Option(
            names = {"-v", "--verbose"},
            scope = ScopeType.INHERIT,
            description = "print details, times, and what the libraries log")
    void verbose(boolean asked) {
        if (asked) {
            output.level(Output.Level.VERBOSE);
            logLevel("debug");
        }
    }

    public static void main(String[] args) {
        Output.takeStandardError();
        // Commands report their own choices; libraries log only problems.
        if (System.getProperty(LOG_LEVEL) == null) {
            System.setProperty(LOG_LEVEL, USUAL_LOG);
        }
        boolean terminal = Boolean.parseBoolean(System.getProperty(
                "loran.terminal",
                String.valueOf(Optional.ofNullable(System.console())
                        .map(Console::isTerminal)
                        .orElse(false))));
        Stop stop = Stop.onSignals();
        int code = run(new Output(System.out, System.err, terminal, stop), args);
        stop.end();
        System.exit(code);
    }

    /// Replaces the usual level of what libraries log, unless the user has chosen one.
    private static void logLevel(String level) {
        if (USUAL_LOG.equals(System.getProperty(LOG_LEVEL))) {
            System.setProperty(LOG_LEVEL, level);
        }
    }

    /// Runs a command line and returns its exit code.
    public static int run(String[] args, PrintStream out, PrintStream err) {
        return run(new Output(out, err, false, new Stop()), args);
    }

    /// The command line with all commands.
    static CommandLine commandLine(Output output) {
        CommandLine loran = new CommandLine(new Main(output));
        loran.addSubcommand(QuickstartCommand.spec(output));
        loran.addSubcommand(new ExampleCommand(output));
        loran.addSubcommand(new TrainCommand(output));
        loran.addSubcommand(PretrainCommand.spec(output));
        loran.addSubcommand(new SweepCommand(output));
        loran.addSubcommand(new ContinualCommand(output));
        loran.addSubcommand(new EvalCommand(output));
        loran.addSubcommand(new PredictCommand(output));
        loran.addSubcommand(GenerateCommand.spec(output));
        loran.addSubcommand(CompareCommand.spec(output));
        loran.addSubcommand(new ReportCommand(output));
        loran.addSubcommand(new UiCommand(output));
        loran.addSubcommand(new MergeCommand(output));
        loran.addSubcommand(new InspectCommand(output));
        loran.addSubcommand(new TargetsCommand(output));
        loran.addSubcommand(TemplatesCommand.spec(output));
        loran.addSubcommand(new DoctorCommand(output));
        loran.addSubcommand(new CompletionCommand(output));
        loran.getSubcommands().forEach((name, command) -> {
            if (List.of("train", "compare", "continual").contains(name)) {
                UsageMessageSpec usage = command.getCommandSpec().usageMessage();
                usage.footer(Stream.concat(Arrays.stream(usage.footer()), Arrays.stream(Method.help()))
                        .toArray(String[]::new));
            }
        });
        loran.setOut(new PrintWriter(output.out(), true, StandardCharsets.UTF_8));
        loran.setErr(new PrintWriter(output.err(), true, StandardCharsets.UTF_8));
        boolean colour = output.terminal() && System.getenv("NO_COLOR") == null;
        loran.setColorScheme(CommandLine.Help.defaultColorScheme(colour ? Ansi.AUTO : Ansi.OFF));
        loran.setUsageHelpAutoWidth(true);
        loran.setOverwrittenOptionsAllowed(true);
        loran.setParameterExceptionHandler((e, arguments) -> usageError(e, output));
        loran.setExecutionExceptionHandler((e, command, parsed) -> failure(e, output));
        return loran;
    }

    private static int run(Output output, String... args) {
        CommandLine loran = commandLine(output);
        List<String> arguments = List.of(args);
        try {
            CommandLine command =
                    args.length == 0 ? null : loran.getSubcommands().get(args[0]);
            // A sweep or an example does not have these options itself: it passes them on, and each run reads them.
            boolean passesOn = command != null
                    && (command.getCommand() instanceof SweepCommand || command.getCommand() instanceof ExampleCommand);
            if (command != null && !passesOn) {
                arguments = new ArrayList<>(List.of(args[0]));
                arguments.addAll(readConfig(command, List.of(args).subList(1, args.length)));
            }
        } catch (InputException e) {
            return failure(e, output);
        }
        try {
            return loran.execute(arguments.toArray(String[]::new));
        } catch (OutOfMemoryError e) {
            output.problem("loran: %s; the heap may take %,d MiB: JAVA_OPTS=-Xmx4g gives it 4 GiB"
                    .formatted(e.getMessage(), Runtime.getRuntime().maxMemory() >> 20));
            return FAILED;
        }
    }

    /// The file given by `--config`, or the options of the run given by `--resume`, must be read before the rest is
    /// parsed.
    ///
    /// @return the arguments to parse: with what these files set before what was typed
    static List<String> readConfig(CommandLine command, List<String> args) {
        List<String> all = new ArrayList<>();
        for (int i = 0; i < args.size(); i++) {
            String[] option = args.get(i).split("=", 2);
            String value = option.length == 2 ? option[1] : i + 1 < args.size() ? args.get(i + 1) : null;
            if (value != null && option[0].equals("--config")) {
                all.addAll(CommonOptions.readConfig(command.getCommandSpec(), Path.of(value)));
            } else if (value != null && option[0].equals("--resume")) {
                RunFolder run = RunFolder.resume(Path.of(value));
                if (!run.hasOptions()) {
                    throw new InputException(
                            run.optionsFile() + ": names no options: the run was killed as it began, or"
                                    + " was not begun by loran train; begin it anew (--overwrite)");
                }
                all.addAll(CommonOptions.readConfig(command.getCommandSpec(), run.optionsFile()));
            }
        }
        all.addAll(args);
        return all;
    }

    @Override
    public void run() {
        throw new ParameterException(
                spec.commandLine(),
                "which command? " + String.join(", ", spec.subcommands().keySet()));
    }

    private static int usageError(ParameterException e, Output output) {
        String command = e.getCommandLine().getCommandSpec().qualifiedName();
        output.problem(command + ": " + oneLine(e) + hint(e) + " (see " + command + " --help)");
        return INPUT_ERROR;
    }

    /// Suggests existing options for those that do not exist.
    private static String hint(ParameterException e) {
        if (!(e instanceof UnmatchedArgumentException unmatched)) {
            return "";
        }
        CommandSpec command = e.getCommandLine().getCommandSpec();
        boolean isName =
                command.parent() == null && unmatched.getUnmatched().getFirst().matches("[a-z].*");
        return isName
                ? Nearest.hint(
                        List.of(unmatched.getUnmatched().getFirst()),
                        command.subcommands().keySet())
                : Nearest.hint(
                        unmatched.getUnmatched().stream()
                                .filter(a -> a.startsWith("--"))
                                .toList(),
                        command.optionsMap().keySet());
    }

    private static int failure(Exception e, Output output) {
        if (e instanceof Stop.Ended) {
            return STOPPED;
        }
        if (e instanceof InputException || e instanceof SafeTensorsException) {
            output.problem("loran: " + oneLine(e));
            if (output.level() == Output.Level.VERBOSE) {
                e.printStackTrace(output.err());
            }
            return INPUT_ERROR;
        }
        if (e instanceof DivergedException) {
            output.problem("loran: " + oneLine(e));
            return FAILED;
        }
        if (e instanceof UncheckedIOException io) {
            String message = oneLine(e);
            String reason = InputException.reason(Objects.requireNonNull(io.getCause()));
            output.problem("loran: " + message + (message.contains(reason) ? "" : " (" + reason + ")"));
            return INPUT_ERROR;
        }
        if (e instanceof InvalidPathException path) {
            output.problem("loran: \"%s\" cannot be the name of a file or folder (%s)"
                    .formatted(
                            path.getInput().replaceAll("\\p{Cntrl}", "?"),
                            path.getReason().replaceAll("\\p{Cntrl}", "?")));
            return INPUT_ERROR;
        }
        output.problem("loran: this should not have happened");
        e.printStackTrace(output.err());
        return FAILED;
    }

    private static String oneLine(Exception e) {
        return String.valueOf(e.getMessage()).strip().replaceAll("\\s*\\R\\s*", " ");
    }
}
