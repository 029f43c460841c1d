package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.DType;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.Combination;
import dev.loran.peft.tuner.MergeReport;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran merge`.
@Command(
        name = "merge",
        description = {
            "Writes a model with an adapter's changes in its own weights.",
            "The result is a plain Hugging Face folder, which answers as model and adapter do together, at "
                    + "the cost of the model alone. With --adapters: makes one adapter of several, by weights, and "
                    + "says how far each layer is from their weighted sum."
        },
        sortOptions = false,
        footer = {
            "",
            "Example: loran merge --model minilm --adapter run --out merged",
            "Example: loran merge --model minilm --adapters run-a,run-b --weights 0.7,0.3 --combination svd --out both"
        })
final class MergeCommand implements Callable<Integer> {
    private final Output output;

    @Option(names = "--model", required = true, paramLabel = "M", description = "the model that the adapter is for")
    private String model;

    @Option(names = "--adapter", paramLabel = "DIR", description = "an adapter's folder, or a run's (its best adapter)")
    private @Nullable Path adapter;

    @Option(
            names = "--adapters",
            paramLabel = "LIST",
            split = ",",
            description = "low-rank adapters to make one of, with commas between; an adapter is written, not a model")
    private List<Path> adapters = List.of();

    @Option(
            names = "--weights",
            paramLabel = "LIST",
            split = ",",
            description = "their weights, negative ones take away (equal ones, whose sum is 1)")
    private List<Double> weights = List.of();

    @Option(
            names = "--combination",
            paramLabel = "C",
            description =
                    "linear, cat, svd, or ties, dare_linear, dare_ties, magnitude_prune, each of them on A and B or,"
                            + " with _svd behind, on the updates (${DEFAULT-VALUE})")
    private String combination = "svd";

    @Option(
            names = "--density",
            paramLabel = "X",
            description = "share of the elements that ties, dare and magnitude_prune keep (${DEFAULT-VALUE})")
    private double density = 0.5;

    @Option(
            names = "--rank",
            paramLabel = "N",
            description = "rank of the result of svd and _svd; 0 for the largest of the adapters' (${DEFAULT-VALUE})")
    private int rank;

    @Option(names = "--seed", paramLabel = "N", description = "seed of what dare drops (${DEFAULT-VALUE})")
    private long seed = 42;

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
        if ((adapter == null) == adapters.isEmpty()) {
            throw new InputException(
                    "merge takes either --adapter, to make it part of the model, or --adapters, to make"
                            + " one of them");
        }
        DType written = dtype();
        requireEmpty(out);
        ModelOptions options = new ModelOptions();
        options.model = model;
        if (adapter == null) {
            combine(options);
        } else {
            merge(options, folder(adapter), written);
        }
        return Main.DONE;
    }

    private static Path folder(Path adapter) {
        Path folder = RunFolder.adapter(adapter);
        if (!Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))) {
            throw new InputException(folder + ": is a whole model and no adapter; there is nothing to merge");
        }
        return folder;
    }

    private void combine(ModelOptions options) {
        List<Path> folders = adapters.stream().map(MergeCommand::folder).toList();
        List<Double> shares = weights.isEmpty() ? Collections.nCopies(folders.size(), 1.0 / folders.size()) : weights;
        Combination how = Combination.named(combination, density, rank, seed);
        try (OpenModel open = OpenModel.withoutTokenizer(options);
                PeftModel peft = new PeftModel(open.model(), 0)) {
            List<String> names = new ArrayList<>();
            for (Path folder : folders) {
                names.add("adapter " + (names.size() + 1));
                open.load(peft, names.getLast(), folder);
            }
            boolean sameClasses = sameClasses(folders);
            if (open.model().classifier() != null && !sameClasses) {
                throw new InputException(
                        "merge: " + adapters + " tell different classes apart, and no head can tell both;"
                                + " combine adapters of one task");
            }
            Map<String, Double> errors = peft.addWeightedAdapter(PeftModel.DEFAULT_ADAPTER, names, shares, how);
            peft.setAdapter(PeftModel.DEFAULT_ADAPTER);
            boolean beside = folders.stream().allMatch(TextClassifier::isIn);
            fill(AdapterFiles.CONFIG, draft -> {
                peft.savePretrained(draft);
                if (sameClasses) {
                    copy(folders.getFirst(), TaskCard.FILE, draft);
                }
                if (sameClasses && beside) {
                    TextClassifier.combine(folders, shares, draft);
                }
            });
            boolean head = beside || open.model().classifier() != null;
            if (head) {
                output.say(
                        sameClasses
                                ? "the heads tell the same classes apart: theirs is the sum by the same weights"
                                : "the adapters tell different classes apart, so that their heads are not combined:"
                                        + " train one on the new adapter");
            }
            report(errors, sameClasses && head);
        }
    }

    /// @param errors the error of each layer
    /// @param head whether heads were combined
    private void report(Map<String, Double> errors, boolean head) {
        List<List<String>> table = new ArrayList<>(List.of(List.of("layer", "relative error")));
        errors.forEach((layer, error) -> table.add(List.of(layer, String.format(Locale.ROOT, "%.4f", error))));
        output.table(table);
        output.result(
                new ObjectMapper()
                        .createObjectNode()
                        .put("combination", combination)
                        .put("layers", errors.size())
                        .put(
                                "mean_error",
                                errors.values().stream()
                                        .mapToDouble(e -> e)
                                        .average()
                                        .orElse(0))
                        .put(
                                "largest_error",
                                errors.values().stream()
                                        .mapToDouble(e -> e)
                                        .max()
                                        .orElse(0))
                        .put("head", head)
                        .put("out", out.toString()),
                common.json);
    }

    /// Whether all adapters were trained for the same classes, in the same order and with the same pooling, or none of
    /// them for any; adapters that do not say are assumed to agree.
    private static boolean sameClasses(List<Path> folders) {
        if (folders.stream().map(TextClassifier::isIn).distinct().count() > 1) {
            return false;
        }
        List<List<Object>> all = folders.stream()
                .filter(TaskCard::isIn)
                .map(TaskCard::read)
                .map(card -> List.<Object>of(
                        card.labels() == null ? List.of() : card.labels().names(), card.pooling(), card.normalize()))
                .distinct()
                .toList();
        return all.size() < 2;
    }

    private void merge(ModelOptions options, Path folder, DType written) {
        try (OpenModel open = OpenModel.withoutTokenizer(options);
                PeftModel peft = new PeftModel(open.model(), 0)) {
            TaskCard card = open.load(peft, folder);
            MergeReport report = peft.mergeReport(written);
            output.say(report.toString().strip());
            Model merged = peft.mergeAndUnload();
            if (card != null) {
                card.describe(merged);
            }
            ChatFormat chat = card == null ? null : card.chat();
            ChatFormat template = chat == null || chat.hasTemplatesOf(ChatFormat.read(open.folder())) ? null : chat;
            fill("config.json", draft -> {
                HfModels.save(merged, draft, written);
                if (card != null) {
                    card.task().describe(draft, merged, card);
                }
                OpenModel.copyTokenizer(open.folder(), draft);
                if (template != null) {
                    template.write(draft);
                }
                copy(folder, TaskCard.FILE, draft);
                copy(folder, TextClassifier.FILE, draft);
            });
            if (template != null) {
                output.say("the chat template is that of the adapter, not of " + open.name());
            }
            if (TextClassifier.isIn(folder)) {
                output.say("the head is beside the model, in " + TextClassifier.FILE
                        + ": Loran reads it, transformers does not");
            }
            output.result(result(report), common.json);
        }
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
        try {
            if (!new Drafts(folder).isFree(List.of())) {
                throw new InputException(
                        folder + ": holds files already; choose a new or empty folder for the merged model");
            }
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    /// Fills [#out] completely or not at all.
    private void fill(String last, Consumer<Path> content) {
        Drafts drafts = new Drafts(out);
        boolean isNew = !Files.exists(out);
        boolean done = false;
        output.stop().listen(true);
        try {
            try {
                drafts.fill(last, content, output.stop()::check);
                done = true;
            } finally {
                if (!done) {
                    drafts.abandon(List.of(), isNew);
                }
            }
        } catch (IOException e) {
            throw InputException.io(out, "cannot be written", e);
        } finally {
            output.stop().listen(false);
        }
    }

    /// Copies a file if it exists.
    private static void copy(Path folder, String file, Path to) {
        try {
            if (Files.isRegularFile(folder.resolve(file))) {
                Files.copy(folder.resolve(file), to.resolve(file));
            }
        } catch (IOException e) {
            throw InputException.io(to, file + " cannot be copied there", e);
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
