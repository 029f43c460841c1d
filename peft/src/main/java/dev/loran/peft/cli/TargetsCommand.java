package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import dev.loran.kernels.Backends;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/// `loran targets`.
@Command(
        name = "targets",
        description =
                "Lists the modules of a model that a method can adapt, those that it would, and what it adds there.",
        sortOptions = false,
        footer = {
            "",
            "Example: loran targets minilm --targets query,key,value --rank 16",
            "Without --targets, it marks what the method adapts in this family by itself."
        })
final class TargetsCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Output output;

    @Parameters(paramLabel = "MODEL", description = "a model's folder, a name of the catalogue, or seo")
    private Path path;

    @Option(
            names = "--targets",
            paramLabel = "LIST",
            description = "names with commas between, all-linear, or /a regular expression/ (the method's own)")
    private @Nullable String targets;

    @Option(names = "--method", paramLabel = "M", description = "as in loran train (${DEFAULT-VALUE})")
    private String method = "lora";

    @Option(names = "--rank", paramLabel = "N", description = "rank of lora, dora and adalora (${DEFAULT-VALUE})")
    private int rank = 8;

    @Mixin
    private CommonOptions common;

    TargetsCommand(Output output) {
        this.output = output;
    }

    /// A module.
    ///
    /// @param added the parameters that the method trains there
    private record Module(String name, String shape, long added) {
        /// Its name with the number of its layer left out: modules with the same one are shown together.
        String kind() {
            return name.replaceAll("\\.\\d+(?=\\.|$)", ".*");
        }

        boolean matches() {
            return added > 0;
        }
    }

    @Override
    public Integer call() {
        TrainingOptions training = new TrainingOptions();
        training.targets = targets;
        training.rank = rank;
        try (Backend backend = Backends.best(1);
                Backend hollow = backend.hollow();
                Model model = open(hollow == null ? backend : hollow);
                PeftModel peft = new PeftModel(model, 0)) {
            PeftConfig config = Method.named(method).config(training, model.task(), 100);
            if (config == null) {
                throw new InputException(
                        "--method full has no targets: it trains every parameter; choose another method");
            }
            Map<String, String> shapes = new LinkedHashMap<>();
            model.namedModules().forEach((name, layer) -> {
                if (layer instanceof AdaptedLayer<?>) {
                    shapes.put(name, shape(layer));
                }
            });
            peft.addAdapter(PeftModel.DEFAULT_ADAPTER, config);
            report(shapes, peft);
        }
        return Main.DONE;
    }

    private Model open(Backend backend) {
        if (path.toString().equals(OpenModel.FRESH)) {
            ModelOptions.Fresh sizes = new ModelOptions.Fresh();
            return SeoTransformer.random(
                    new TransformerConfig(sizes.hidden, sizes.layers, sizes.heads, 30522), backend, DType.F32, 0);
        }
        Path folder = Catalogue.folder(path.toString()).orElse(path);
        if (!Files.isRegularFile(folder.resolve("config.json"))) {
            throw new InputException(folder
                    + (Files.exists(folder)
                            ? ": holds no model (config.json); name a model's folder"
                            : ": no such folder"));
        }
        return HfModels.load(folder, backend);
    }

    private static String shape(Layer layer) {
        Tensor weight = switch (layer) {
            case Linear l -> l.weight();
            case Embedding e -> e.weight();
            case LayerNorm n -> n.weight();
            case RmsNorm n -> n.weight();
            default -> null;
        };
        return weight == null
                ? ""
                : Arrays.stream(weight.shape().dims()).mapToObj(String::valueOf).collect(Collectors.joining("×"));
    }

    private void report(Map<String, String> shapes, PeftModel peft) {
        Map<String, Long> added = new LinkedHashMap<>();
        peft.trainableParameters().forEach((parameter, tensor) -> {
            String owner = shapes.keySet().stream()
                    .filter(module -> ("." + parameter).contains("." + module + "."))
                    .max(Comparator.comparingInt(String::length))
                    .orElse("");
            added.merge(owner, tensor.shape().size(), Long::sum);
        });
        List<Module> modules = shapes.entrySet().stream()
                .map(e -> new Module(e.getKey(), e.getValue(), added.getOrDefault(e.getKey(), 0L)))
                .toList();
        tree(modules);
        PeftModel.ParameterCount count = peft.parameterCount();
        ObjectNode result = JSON.createObjectNode()
                .put("model", path.toString())
                .put("method", method)
                .put("adaptable", modules.size())
                .put("matched", modules.stream().filter(Module::matches).count())
                .put("trainable_parameters", count.trainableParameters())
                .put("trainable_percentage", count.trainablePercentage());
        if (added.containsKey("")) {
            result.put("beside_the_modules", added.get(""));
        }
        output.out().println();
        output.result(result, false);
        if (common.json) {
            ArrayNode names = result.putArray("modules");
            modules.forEach(m -> names.addObject()
                    .put("name", m.name)
                    .put("shape", m.shape)
                    .put("matches", m.matches())
                    .put("parameters", m.added));
            output.out().println(result);
        }
    }

    /// Prints the modules as a tree, the same modules of all layers on one line.
    private void tree(List<Module> modules) {
        Map<String, List<Module>> kinds =
                modules.stream().collect(Collectors.groupingBy(Module::kind, LinkedHashMap::new, Collectors.toList()));
        int width =
                kinds.keySet().stream().mapToInt(k -> label(k).length()).max().orElse(0);
        String[] above = {};
        for (Map.Entry<String, List<Module>> e : kinds.entrySet()) {
            String[] parts = e.getKey().replace(".*", "[*]").split("\\.");
            int depth = 0;
            while (depth < above.length && depth < parts.length - 1 && parts[depth].equals(above[depth])) {
                depth++;
            }
            for (; depth < parts.length - 1; depth++) {
                output.out().println("  ".repeat(depth) + numbered(parts, depth, e.getValue()));
            }
            above = Arrays.copyOf(parts, parts.length - 1);
            output.out().println(line(parts, e.getValue(), width));
        }
    }

    private static String label(String kind) {
        String[] parts = kind.replace(".*", "[*]").split("\\.");
        return "  ".repeat(parts.length - 1) + parts[parts.length - 1];
    }

    private static String line(String[] parts, List<Module> same, int width) {
        Module first = same.getFirst();
        String label = "  ".repeat(parts.length - 1) + parts[parts.length - 1];
        long matching = same.stream().filter(Module::matches).count();
        String mark = matching == 0
                ? ""
                : "  <- %,d parameters%s"
                        .formatted(
                                same.stream()
                                        .filter(Module::matches)
                                        .findFirst()
                                        .orElseThrow()
                                        .added,
                                same.size() == 1 ? "" : " in each" + (matching < same.size() ? " of " + matching : ""));
        return (label + " ".repeat(width - label.length() + 2) + first.shape + mark).stripTrailing();
    }

    /// `layer[*]` with the numbers that there are.
    private static String numbered(String[] parts, int depth, List<Module> same) {
        if (!parts[depth].endsWith("[*]")) {
            return parts[depth];
        }
        int at = -1;
        for (int i = 0; i <= depth; i++) {
            at += parts[i].endsWith("[*]") ? 2 : 1;
        }
        TreeSet<Integer> numbers = new TreeSet<>();
        for (Module m : same) {
            numbers.add(Integer.valueOf(m.name.split("\\.")[at]));
        }
        return parts[depth].replace("*", numbers.getFirst() + "…" + numbers.getLast());
    }
}
