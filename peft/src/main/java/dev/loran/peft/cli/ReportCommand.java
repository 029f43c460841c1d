package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.cli.report.Report;
import dev.loran.peft.cli.report.Results;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/// `loran report`.
@Command(
        name = "report",
        description = {
            "Makes a page with figures and tables of what was measured in runs, sweeps and comparisons.",
            "Reads what loran train, loran sweep and loran compare wrote, and writes report.html, plots/ and "
                    + "results.json. Trains nothing."
        },
        sortOptions = false,
        footer = {"", "Example: loran report sweep loran-run --out sweep-report"})
final class ReportCommand implements Callable<Integer> {
    private final Output output;

    @Parameters(paramLabel = "RUN", arity = "1..*", description = "folders of runs, sweeps or comparisons")
    private List<Path> runs;

    @Mixin
    private OutOptions place;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    @Option(names = "--json", description = "print the results as one JSON object on the last line")
    private boolean json;

    ReportCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        ObjectNode results = Results.of(runs);
        Path out = place.folder("loran-report");
        Report.requireFree(out, place.overwrite);
        Report.write(out, results);
        output.say("the report: " + out.resolve(Report.PAGE));
        if (json) {
            output.out().println(results);
        }
        return Main.DONE;
    }
}
