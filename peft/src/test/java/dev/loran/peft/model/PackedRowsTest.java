package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import dev.loran.kernels.Backends;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block.Prefix;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/// Several texts in one row have the loss and the gradients that they have in rows of their own, in every causal
/// family.
class PackedRowsTest {
    /// The lengths of the texts in each row; the second row is padded.
    private static final int[][] ROWS = {{5, 1, 6, 2}, {7, 4}};

    private static final int LENGTH = 14;

    @TestFactory
    Stream<DynamicTest> lossAndGradientsAreThoseOfSingleRows() throws IOException {
        List<Path> folders = new ArrayList<>();
        try (Stream<Path> decoders = Files.list(Fixtures.root("decoders"))) {
            decoders.filter(Files::isDirectory).sorted().forEach(folders::add);
        }
        for (String family : List.of("gpt2", "gpt_neox", "llama", "gemma2", "gemma3", "phi3", "smollm3", "mistral")) {
            folders.add(Fixtures.base(family));
        }
        return folders.stream()
                .flatMap(folder -> Stream.of(true, false)
                        .map(isReference -> DynamicTest.dynamicTest(
                                folder.subpath(folder.getNameCount() - 2, folder.getNameCount())
                                        + (isReference ? ", reference" : ""),
                                () -> check(folder, isReference))));
    }

    private static void check(Path folder, boolean isReference) {
        try (Backend backend = isReference ? new ReferenceBackend() : Backends.best();
                Model model = HfModels.load(folder, backend)) {
            model.makeWritable();
            model.namedParameters().values().forEach(p -> p.requiresGrad(true));
            String name = String.valueOf(folder.getFileName());
            if (name.endsWith("longrope") || name.endsWith("dynamic")) {
                assertThatThrownBy(() -> gradients(model, true, null))
                        .isInstanceOf(InputException.class)
                        .hasMessageStartingWith("rows of several texts, 14 positions long: this model's rotary angles");
                return;
            }
            same(gradients(model, true, null), gradients(model, false, null));
            List<Prefix> prefix = prefixes(model, 3);
            if (model.hasWindows()) {
                assertThatThrownBy(() -> gradients(model, true, prefix))
                        .hasMessageContaining("through a sliding window, rows of several texts cannot have a prefix");
            } else {
                same(gradients(model, true, prefix), gradients(model, false, prefix));
            }
        }
    }

    private static List<Prefix> prefixes(Model model, int length) {
        Model.Facts f = model.facts();
        Random random = new Random(11);
        List<Prefix> all = new ArrayList<>();
        for (int i = 0; i < f.numLayers(); i++) {
            all.add(new Prefix(normal(model, random, length), normal(model, random, length)));
        }
        return all;
    }

    private static Tensor normal(Model model, Random random, int length) {
        int size = length * model.facts().numKvHeads() * model.facts().headDim();
        double[] values = random.doubles(size, -1, 1).toArray();
        return Tensor.of(
                model.backend(),
                model.dtype(),
                values,
                length,
                model.facts().numKvHeads(),
                model.facts().headDim());
    }

    private static Map<String, double[]> gradients(Model model, boolean isPacked, @Nullable List<Prefix> prefix) {
        model.prefixes(prefix == null ? null : () -> prefix);
        model.namedParameters().values().forEach(Tensor::zeroGrad);
        Map<String, double[]> all = new LinkedHashMap<>();
        try (Scope scope = Scope.open()) {
            Tensor loss = isPacked ? packed(model) : single(model);
            loss.backward();
            all.put("loss", loss.toDoubles());
            model.namedParameters().forEach((name, p) -> {
                Tensor gradient = p.grad();
                all.put(name, gradient == null ? new double[0] : gradient.toDoubles());
            });
        }
        return all;
    }

    private static Tensor packed(Model model) {
        Random random = new Random(3);
        int[] ids = new int[ROWS.length * LENGTH];
        int[] labels = new int[ids.length];
        int[] mask = new int[2 * ids.length];
        Arrays.fill(labels, Functional.IGNORE_INDEX);
        for (int row = 0; row < ROWS.length; row++) {
            int at = 0;
            for (int text = 0; text < ROWS[row].length; text++) {
                for (int i = 0; i < ROWS[row][text]; i++, at++) {
                    int id = random.nextInt(model.facts().vocabSize());
                    ids[row * LENGTH + at] = id;
                    labels[row * LENGTH + at] = i == 0 ? Functional.IGNORE_INDEX : id;
                    mask[2 * row * LENGTH + at] = text + 1;
                    mask[(2 * row + 1) * LENGTH + at] = i;
                }
            }
        }
        Backend backend = model.backend();
        return model.loss(
                Tensor.ofInts(backend, ids, ROWS.length, LENGTH),
                Tensor.ofInts(backend, mask, ROWS.length, 2, LENGTH),
                Tensor.ofInts(backend, labels, ROWS.length, LENGTH));
    }

    private static Tensor single(Model model) {
        Random random = new Random(3);
        int[] lengths = Arrays.stream(ROWS).flatMapToInt(Arrays::stream).toArray();
        int longest = Arrays.stream(lengths).max().orElseThrow();
        int[] ids = new int[lengths.length * longest];
        int[] labels = new int[ids.length];
        int[] mask = new int[ids.length];
        Arrays.fill(labels, Functional.IGNORE_INDEX);
        for (int row = 0; row < lengths.length; row++) {
            for (int i = 0; i < lengths[row]; i++) {
                ids[row * longest + i] = random.nextInt(model.facts().vocabSize());
                labels[row * longest + i] = ids[row * longest + i];
                mask[row * longest + i] = 1;
            }
        }
        Backend backend = model.backend();
        return model.loss(
                Tensor.ofInts(backend, ids, lengths.length, longest),
                Tensor.ofInts(backend, mask, lengths.length, longest),
                Tensor.ofInts(backend, labels, lengths.length, longest));
    }

    /// To 1e-5 of each tensor's largest element.
    private static void same(Map<String, double[]> actual, Map<String, double[]> expected) {
        assertThat(actual).hasSameSizeAs(expected);
        expected.forEach((name, values) -> {
            double[] is = Objects.requireNonNull(actual.get(name));
            double most = Arrays.stream(values).map(Math::abs).max().orElse(0);
            assertThat(is).as(name).hasSameSizeAs(values);
            for (int i = 0; i < values.length; i++) {
                assertThat(is[i]).as("%s at %d", name, i).isCloseTo(values[i], within(1e-5 * most + 1e-12));
            }
        });
    }

    @Test
    void encodersAndVirtualTokensRefuseThem() {
        try (Backend backend = new ReferenceBackend();
                Model encoder = Small.model("bert", backend, DType.F64);
                Model decoder = Small.model("llama", backend, DType.F64);
                Scope scope = Scope.open()) {
            Tensor ids = Tensor.ofInts(backend, new int[] {1, 2, 3, 4}, 1, 4);
            Tensor mask = Tensor.ofInts(backend, new int[] {1, 1, 2, 2, 0, 1, 0, 1}, 1, 2, 4);
            String why =
                    "hidden: rows of several texts, whose mask is (1, 2, 4), go through causal models only, without"
                            + " virtual tokens";
            assertThatThrownBy(() -> encoder.hidden(ids, mask)).hasMessage(why);
            Tensor virtual = Tensor.zeros(backend, DType.F64, 2, decoder.facts().hiddenSize());
            decoder.virtualTokens(() -> virtual);
            assertThatThrownBy(() -> decoder.hidden(ids, mask)).hasMessage(why);
            decoder.virtualTokens(null);
            assertThat(decoder.hidden(ids, mask).shape().dim(1)).isEqualTo(4);
        }
    }
}
