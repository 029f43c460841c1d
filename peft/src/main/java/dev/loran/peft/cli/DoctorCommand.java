package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.kernels.Backends;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.watch.Diagnosis;
import dev.loran.peft.watch.Finding;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Parameters;

/// `loran doctor`.
@Command(
        name = "doctor",
        description = {
            "Says what this machine and this JVM offer, what of it is used, and what to do about the rest.",
            "Of a run, says what was wrong with it by its files: memory, results, stability and speed, with the "
                    + "numbers it follows from and the options to change."
        },
        sortOptions = false)
final class DoctorCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Output output;

    @Parameters(arity = "0..1", paramLabel = "RUN", description = "the folder of a run, finished or not")
    private @Nullable Path run;

    @Mixin
    private CommonOptions common;

    DoctorCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        if (run == null) {
            machine();
        } else {
            examine(new RunFolder(run));
        }
        return Main.DONE;
    }

    private void examine(RunFolder folder) {
        if (!RunFolder.isRun(folder.path())) {
            throw new InputException(folder.path()
                    + (Files.exists(folder.path())
                            ? ": holds no run (run.json); name the --out of one"
                            : ": no such folder"));
        }
        if (Files.isDirectory(folder.task(1))) {
            throw new InputException(
                    folder.path() + ": is a run over several tasks; examine one of them, such as " + folder.task(1));
        }
        ObjectNode options = JsonFile.read(folder.optionsFile());
        String method = options.path("method").asText(Method.LORA.toString());
        Diagnosis diagnosis = Diagnosis.of(folder, Method.named(method).usualRates());
        boolean finished = !folder.result().isEmpty();
        ObjectNode result = JSON.createObjectNode()
                .put("run", folder.path().toString())
                .put("method", method)
                .put("steps", (int)
                        folder.metrics().stream().filter(m -> m.has("loss")).count())
                .put("finished", finished);
        String diverged = folder.diverged();
        if (diverged != null) {
            result.put("diverged", diverged);
        } else if (!finished && options.has("save-steps")) {
            result.put(
                    "note",
                    folder.hasCheckpoints()
                            ? "it goes on by loran train --resume " + folder.path()
                            : "it has no checkpoint: loran train --resume " + folder.path() + " begins it again");
        }
        output.result(result, false);
        print(diagnosis);
        if (common.json) {
            result.putArray("findings")
                    .addAll(diagnosis.findings().stream().map(Finding::toJson).toList());
            result.set("not_checked", JSON.valueToTree(diagnosis.notChecked()));
            output.out().println(result);
        }
    }

    private void print(Diagnosis diagnosis) {
        for (Finding f : diagnosis.findings()) {
            output.out()
                    .println("%n%s %s (%s)%n  seen: %s%n  try:  %s"
                            .formatted(
                                    f.serious() ? "PROBLEM" : "hint",
                                    f.name().replace('_', ' '),
                                    f.area(),
                                    f.evidence(),
                                    f.advice()));
        }
        if (diagnosis.findings().isEmpty()) {
            output.out().println("%nnothing is wrong with it, as far as its files show".formatted());
        }
        if (!diagnosis.notChecked().isEmpty()) {
            output.out().println();
            diagnosis.notChecked().forEach(what -> output.out().println("not checked: " + what));
        }
    }

    private void machine() {
        Runtime runtime = Runtime.getRuntime();
        ObjectNode result = JSON.createObjectNode();
        result.put("loran", Version.ofLoran())
                .put("jdk", Version.ofJdk())
                .put("vm", System.getProperty("java.vm.name"))
                .put("system", System.getProperty("os.name") + " on " + System.getProperty("os.arch"))
                .put("processors", runtime.availableProcessors())
                .put("max_heap_mib", runtime.maxMemory() >> 20)
                .put(
                        "vector_api",
                        ModuleLayer.boot().findModule("jdk.incubator.vector").isPresent()
                                ? "on"
                                : "off: start the JVM with --add-modules=jdk.incubator.vector")
                .put(
                        "native_access",
                        DoctorCommand.class.getModule().isNativeAccessEnabled()
                                ? "on"
                                : "off: start the JVM with --enable-native-access=ALL-UNNAMED")
                .put("backend", Backends.describe())
                .put("bf16", Backends.describeBf16())
                .put("gpu", Backends.describeCuda())
                .put("cache", Catalogue.cacheFolder().toString());
        ObjectNode models = result.putObject("catalogue");
        for (Catalogue.Entry entry : Catalogue.ENTRIES) {
            models.put(entry.name(), state(entry));
        }
        output.result(result, common.json);
    }

    private static String state(Catalogue.Entry entry) {
        Path cache = Catalogue.cacheFolder();
        try (Stream<Path> folders = Files.isDirectory(cache) ? Files.list(cache) : Stream.empty()) {
            if (folders.anyMatch(f -> f.getFileName().toString().startsWith(entry.name() + "-")
                    && Files.isRegularFile(f.resolve("model.safetensors")))) {
                return "ready";
            }
        } catch (IOException e) {
            return "unknown: " + cache + " cannot be read";
        }
        return Files.isRegularFile(cache.resolve(entry.jarName()))
                ? "fetched, unpacked when first used"
                : "not here: fetched when first used (" + entry.coordinates() + ")";
    }
}
