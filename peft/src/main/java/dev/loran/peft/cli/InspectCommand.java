package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.MissingNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.kernels.Backends;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/// `loran inspect`.
@Command(
        name = "inspect",
        description =
                "Says what a model's folder, an adapter's, a run's, or a safetensors file holds, and whether it can be"
                        + " loaded.",
        sortOptions = false)
final class InspectCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Output output;

    @Parameters(paramLabel = "PATH", description = "a folder, a .safetensors file, or a name of the catalogue")
    private Path path;

    @Option(names = "--tensors", description = "list every tensor of a folder too")
    private boolean tensors;

    @Mixin
    private CommonOptions common;

    InspectCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        Path what = Catalogue.folder(path.toString()).orElse(path);
        ObjectNode result = JSON.createObjectNode();
        if (Files.isRegularFile(what)) {
            result.put("kind", "safetensors");
            try (SafeTensors file = SafeTensors.open(what)) {
                add(file, result, true);
            }
            result.put("loadable", true);
        } else if (RunFolder.isRun(what)) {
            run(what, result);
        } else if (Files.isRegularFile(what.resolve(AdapterFiles.CONFIG))) {
            adapter(what, result);
        } else if (Files.isRegularFile(what.resolve("config.json"))) {
            model(what, result);
        } else {
            throw new InputException(what + ": "
                    + (Files.exists(what)
                            ? "holds neither a model (config.json), nor an adapter (" + AdapterFiles.CONFIG
                                    + "), nor a run (run.json); name one of these"
                            : "no such file or folder"));
        }
        output.result(result, common.json);
        return Main.DONE;
    }

    private void model(Path folder, ObjectNode result) {
        result.put("kind", "model").set("config", JsonFile.read(folder.resolve("config.json")));
        result.put("tokenizer", Files.isRegularFile(folder.resolve("tokenizer.json")));
        try (SafeTensors files = SafeTensors.openModel(folder)) {
            add(files, result, tensors);
        }
        card(folder, result);
        loadable(result, () -> openModel(folder));
    }

    /// Records whether the item can be loaded, and if not, why: runs the checks of loading itself, on a backend without
    /// memory.
    private static void loadable(ObjectNode result, Runnable load) {
        try {
            load.run();
            result.put("loadable", true);
        } catch (InputException | SafeTensorsException e) {
            result.put("loadable", false).put("reason", e.getMessage());
        }
    }

    private static void openModel(Path folder) {
        withModel(folder, model -> {
            if (Files.isRegularFile(folder.resolve("tokenizer.json"))) {
                try (Tokenizer tokenizer = Tokenizer.load(folder)) {
                    OpenModel.checkFits(tokenizer, model, folder);
                }
            }
        });
    }

    private static void withModel(Path folder, Consumer<Model> use) {
        try (Backend backend = Backends.best(1);
                Backend hollow = backend.hollow();
                Model model = HfModels.load(folder, hollow == null ? backend : hollow)) {
            use.accept(model);
        }
    }

    private static void openAdapter(Path folder, Path base) {
        withModel(base, model -> {
            model.resizeTokenEmbeddings(AdapterFiles.tokenEmbeddings(folder, model));
            try (PeftModel peft = new PeftModel(model, 0)) {
                peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, folder);
            }
        });
    }

    /// The folder of the model that an adapter names as its base; null if it is not on this machine.
    private static @Nullable Path base(Path adapter) {
        TaskCard card = TaskCard.isIn(adapter) ? TaskCard.read(adapter) : null;
        TaskCard.Base known = card == null ? null : card.base();
        String name = known != null
                ? known.name()
                : JsonFile.read(adapter.resolve(AdapterFiles.CONFIG))
                        .path("base_model_name_or_path")
                        .asText("");
        try {
            Path folder = Catalogue.folder(name).orElseGet(() -> Path.of(name));
            return Files.isRegularFile(folder.resolve("config.json")) ? folder : null;
        } catch (InputException | InvalidPathException e) {
            return null;
        }
    }

    private void adapter(Path folder, ObjectNode result) {
        result.put("kind", "adapter").set("config", JsonFile.read(folder.resolve(AdapterFiles.CONFIG)));
        try (SafeTensors file = SafeTensors.open(folder.resolve(AdapterFiles.WEIGHTS))) {
            add(file, result, tensors);
        }
        card(folder, result);
        Path base = base(folder);
        if (base == null) {
            result.put("checked", "alone: its base model is not here, or not named");
        }
        loadable(result, () -> {
            if (base == null) {
                AdapterFiles.config(folder);
            } else {
                openAdapter(folder, base);
            }
        });
    }

    private static void card(Path folder, ObjectNode result) {
        if (TaskCard.isIn(folder)) {
            result.set("trained_for", JsonFile.read(folder.resolve(TaskCard.FILE)));
        }
    }

    private static void run(Path folder, ObjectNode result) {
        result.put("kind", "run").set("options", JsonFile.read(folder.resolve("run.json")));
        Path metrics = folder.resolve("metrics.jsonl");
        try {
            List<String> lines = Files.isRegularFile(metrics) ? Files.readAllLines(metrics) : List.of();
            for (String line : lines) {
                // A killed run may end in a partial line.
                JsonNode entry = line.endsWith("}") ? JSON.readTree(line) : MissingNode.getInstance();
                if (entry.has("loss")) {
                    result.set("last_step", entry);
                } else if (entry.path("best").asBoolean()) {
                    result.set("best_evaluation", entry);
                }
            }
        } catch (IOException e) {
            throw InputException.io(metrics, "cannot be read", e);
        }
        if (Files.isRegularFile(folder.resolve(RunFolder.RESULT))) {
            result.set("result", JsonFile.read(folder.resolve(RunFolder.RESULT)));
        }
        for (Path part : List.of(new RunFolder(folder).best(), new RunFolder(folder).last())) {
            result.put(part.getFileName().toString(), Files.isDirectory(part));
        }
        loadable(result, () -> {
            Path best = RunFolder.adapter(folder);
            if (Files.isRegularFile(best.resolve("config.json"))) {
                openModel(best);
            } else {
                Path base = base(best);
                if (base != null) {
                    openAdapter(best, base);
                } else {
                    AdapterFiles.config(best);
                }
            }
        });
    }

    /// Adds the counts, and with `all` the type and shape of every tensor.
    private static void add(SafeTensors files, ObjectNode result, boolean all) {
        long elements = 0;
        long bytes = 0;
        Map<String, Integer> types = new TreeMap<>();
        ObjectNode each = JSON.createObjectNode();
        for (String name : files.names()) {
            SafeTensors.Entry e = files.entry(name);
            elements += e.shape().size();
            bytes += e.bytes();
            types.merge(e.dtype().toString(), 1, Integer::sum);
            each.put(name, e.dtype() + " " + e.shape());
        }
        result.put("tensors", files.names().size()).put("parameters", elements).put("bytes", bytes);
        result.set("types", JSON.valueToTree(types));
        if (!files.metadata().isEmpty()) {
            result.set("metadata", JSON.valueToTree(files.metadata()));
        }
        if (all) {
            result.setAll(each);
        }
    }
}
