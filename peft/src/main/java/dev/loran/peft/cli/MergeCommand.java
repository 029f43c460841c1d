package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.DType;
import dev.loran.peft.data.InputException;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskCard;
import dev.loran.peft.train.TextClassifier;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.MergeReport;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran merge`.
@Command(
        name = "merge",
        description = {
            "Writes a model with an adapter's changes in its own weights: a plain Hugging Face folder, which answers",
            "as model and adapter do together, at the cost of the model alone."
        },
        sortOptions = false,
        footer = {"", "Example: loran merge --model minilm --adapter run --out merged"})
final class MergeCommand implements Callable<Integer> {
    private final Output output;

    @Option(names = "--model", required = true, paramLabel = "M", description = "the model that the adapter is for")
    private String model;

    @Option(
            names = "--adapter",
            required = true,
            paramLabel = "DIR",
            description = "an adapter's folder, or a run's (its best adapter)")
    private Path adapter;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "a new or empty folder")
    private Path out;

    @Option(
            names = "--dtype",
            paramLabel = "T",
            description = "type of the weights written: f32, bf16 or f16; the narrow ones lose a part of the update, "
                    + "which is said layer by layer (${DEFAULT-VALUE})")
    private String dtype = "f32";

    @Mixin
    private CommonOptions common;

    MergeCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        DType written = dtype();
        Path folder = RunFolder.adapter(adapter);
        if (!Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))) {
            throw new InputException(folder + ": is a whole model and no adapter; there is nothing to merge");
        }
        requireEmpty(out);
        ModelOptions options = new ModelOptions();
        options.model = model;
        try (OpenModel open = OpenModel.of(options);
                PeftModel peft = new PeftModel(open.model(), 0)) {
            open.load(peft, folder);
            MergeReport report = peft.mergeReport(written);
            output.say(report.toString().strip());
            HfModels.save(peft.mergeAndUnload(), out, written);
            OpenModel.copyTokenizer(open.folder(), out);
            copyTask(folder);
            output.result(result(report), common.json);
        }
        return Main.DONE;
    }

    private DType dtype() {
        return switch (dtype) {
            case "f32" -> DType.F32;
            case "bf16" -> DType.BF16;
            case "f16" -> DType.F16;
            default -> throw new InputException("--dtype " + dtype + " is not known; choose f32, bf16 or f16");
        };
    }

    private static void requireEmpty(Path folder) {
        if (!Files.exists(folder)) {
            return;
        }
        try (Stream<Path> files = Files.list(folder)) {
            if (files.findAny().isPresent()) {
                throw new InputException(
                        folder + ": holds files already; choose a new or empty folder for the merged model");
            }
        } catch (IOException e) {
            throw new InputException(folder + ": cannot be read (" + e.getMessage() + ")", e);
        }
    }

    /// What is beside the model: a head of its own, and what it was trained for.
    private void copyTask(Path folder) {
        try {
            for (String file : List.of(TextClassifier.FILE, TaskCard.FILE)) {
                if (Files.isRegularFile(folder.resolve(file))) {
                    Files.copy(folder.resolve(file), out.resolve(file));
                }
            }
        } catch (IOException e) {
            throw new InputException(out + ": the head cannot be copied there (" + e.getMessage() + ")", e);
        }
    }

    private ObjectNode result(MergeReport report) {
        ObjectNode result = new ObjectMapper()
                .createObjectNode()
                .put("dtype", dtype)
                .put("changed", report.changes().size())
                .put("lost", report.lost());
        report.changes().stream()
                .max(Comparator.comparingDouble(MergeReport.Change::lost))
                .ifPresent(worst -> result.put("most_lost", worst.lost()).put("most_lost_in", worst.parameter()));
        return result.put("out", out.toString());
    }
}
