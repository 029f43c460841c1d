package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.kernels.Backends;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/// Logits of transformers for small decoders with configs as versions 4 and 5 write them (`fixtures/decoders`): every
/// type of rotary frequencies, windows, biases, tied heads and odd sizes.
class DecoderFoldersTest {
    @TempDir
    Path temporary;

    @TestFactory
    Stream<DynamicTest> logitsAreThoseOfTransformers() throws IOException {
        String property = System.getProperty("loran.decoders", "");
        Path root = property.isEmpty() ? Fixtures.root("decoders") : Path.of(property);
        try (Stream<Path> folders = Files.list(root)) {
            return folders.filter(Files::isDirectory).sorted().toList().stream()
                    .map(f -> DynamicTest.dynamicTest(String.valueOf(f.getFileName()), () -> check(f)));
        }
    }

    private void check(Path folder) {
        for (Backend backend : List.of(new ReferenceBackend(), Backends.best())) {
            try (backend;
                    Model model = HfModels.load(folder, backend)) {
                compare(model, folder);
                cached(model, folder);
                // A written folder is read again as it was.
                Path copy = temporary.resolve(Objects.requireNonNull(folder.getFileName()) + backend.name());
                HfModels.save(model, copy);
                try (Model again = HfModels.load(copy, backend)) {
                    compare(again, folder);
                }
            }
        }
    }

    private static void compare(Model model, Path folder) {
        try (SafeTensors io = SafeTensors.open(folder.resolve("io.safetensors"));
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            for (String length : List.of("long", "short")) {
                Tensor ids = io.tensor(model.backend(), "ids." + length, DType.I32);
                double[] expected =
                        io.copy(model.backend(), "logits." + length, DType.F32).toDoubles();
                close(model.logits(ids, null).toDoubles(), expected);
            }
        }
    }

    /// The long texts again, token by token from the sixth on.
    private static void cached(Model model, Path folder) {
        try (SafeTensors io = SafeTensors.open(folder.resolve("io.safetensors"));
                KvCache cache = new KvCache(model);
                Scope scope = Scope.open()) {
            Tensor ids = io.tensor(model.backend(), "ids.long", DType.I32);
            int length = ids.shape().dim(1);
            int[] all = ids.toInts();
            int end = Math.min(length, model.facts().maxPositions());
            Tensor logits = cache.append(Arrays.copyOfRange(all, 0, 5), Arrays.copyOfRange(all, length, length + 5));
            for (int t = 5; t < end; t++) {
                logits = cache.append(new int[] {all[t]}, new int[] {all[length + t]});
            }
            Tensor seen = ids.slice(1, 0, end);
            close(
                    logits.toDoubles(),
                    model.logits(seen, null).slice(1, end - 1, end).toDoubles());
        }
    }

    private static void close(double[] actual, double[] expected) {
        double max = Arrays.stream(expected).map(Math::abs).max().orElse(0);
        assertThat(actual).hasSameSizeAs(expected);
        for (int i = 0; i < actual.length; i++) {
            assertThat(actual[i]).as("logit " + i).isCloseTo(expected[i], within(1e-5 * max));
        }
    }
}
