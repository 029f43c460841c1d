package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Catalogue;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

/// `loran doctor`.
@Command(
        name = "doctor",
        description = "Says what this machine and this JVM offer, what of it is used, and what to do about the rest.",
        sortOptions = false)
final class DoctorCommand implements Callable<Integer> {
    private final Output output;

    @Mixin
    private CommonOptions common;

    DoctorCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        Runtime runtime = Runtime.getRuntime();
        ObjectNode result = new ObjectMapper().createObjectNode();
        result.put("jdk", Runtime.version() + ", " + System.getProperty("java.vendor"))
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
        return Main.DONE;
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
