package dev.loran.peft.cli;

import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.ui.PageServer;
import dev.loran.peft.io.InputException;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/// `loran ui`.
@Command(
        name = "ui",
        description = {
            "Shows runs on a local page, while they train and afterwards: their curves beside each other, what they "
                    + "reached, the options in which they differ, what loran doctor finds in them, answers that "
                    + "loran predict wrote into their folders, and reports.",
            "The page is for this machine only and changes nothing. Ctrl-C ends it."
        },
        sortOptions = false,
        footer = {
            "",
            "Example: loran ui loran-run sweep",
            "For runs on another machine: ssh -L 6007:localhost:6007 HOST, and loran ui there."
        })
final class UiCommand implements Callable<Integer> {
    private static final int HIGHEST = 65_535;

    private final Output output;

    @Parameters(
            paramLabel = "RUNS",
            arity = "1..*",
            description = "folders of runs, or folders that hold runs: sweeps, comparisons, examples; runs that begin "
                    + "there later are shown, too")
    private List<Path> folders;

    @Option(
            names = "--port",
            paramLabel = "N",
            description = "the port of the page; 0 for any that is free (${DEFAULT-VALUE})")
    private int port = 6007;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    UiCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() throws InterruptedException {
        if (port < 0 || port > HIGHEST) {
            throw new InputException("--port " + port + " must be from 0 to " + HIGHEST);
        }
        try (PageServer page =
                PageServer.start(folders, port, method -> Method.named(method).usualRates())) {
            output.say(
                    switch (page.runs()) {
                        case 0 -> "no runs yet; those that begin there will be shown";
                        case 1 -> "1 run";
                        default -> page.runs() + " runs";
                    });
            output.out().println(page.address());
            output.out().flush();
            // A signal ends the process.
            new CountDownLatch(1).await();
        }
        return Main.DONE;
    }
}
