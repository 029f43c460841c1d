package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// Merging: the model alone gives the same outputs as with its adapters, and unmerging restores every bit.
class MergeTest {
    @TempDir
    Path folder;

    private final ReferenceBackend backend = new ReferenceBackend();

    static Stream<Arguments> cases() {
        List<Arguments> cases = new ArrayList<>();
        for (String family : Subjects.FAMILIES) {
            Subjects.mergeable(family).keySet().forEach(method -> cases.add(Arguments.of(family, method)));
        }
        return cases.stream();
    }

    private static PeftConfig config(String family, String method) {
        return Objects.requireNonNull(Subjects.mergeable(family).get(method));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void mergedAnswersAsUnmergedAndUnmergingIsExact(String family, String method) {
        try (Model model = Subjects.model(family, backend, DType.F32);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            Map<String, String> base = Subjects.bits(model);
            try (PeftModel peft = new PeftModel(model, 7)) {
                double[] bare = Subjects.logits(peft, ids, null);
                Subjects.add(peft, "one", config(family, method));
                double[] adapted = Subjects.logits(peft, ids, null);
                assertThat(Subjects.distance(adapted, bare))
                        .as("the adapter matters")
                        .isGreaterThan(1e-3);
                MergeReport report = peft.mergeAdapter();
                assertThat(peft.isMerged()).isTrue();
                assertThat(Targets.candidates(model).values()).allMatch(layer -> layer.adapter() == null);
                assertThat(Subjects.distance(Subjects.logits(peft, ids, null), adapted))
                        .isLessThan(2e-5);
                assertThat(report.lost()).isZero();
                peft.unmergeAdapter();
                assertThat(Subjects.logits(peft, ids, null)).isEqualTo(adapted);
                try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                    assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
                    assertThat(Subjects.logits(peft, ids, null)).isEqualTo(bare);
                }
                peft.mergeAdapter();
            }
            assertThat(Subjects.bits(model)).as("closed while merged").containsExactlyEntriesOf(base);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    /// All but DoRA and tokens, which compute norms and gather weights on attachment: the reference backend supports
    /// neither in BF16.
    static Stream<Arguments> narrowCases() {
        return cases().filter(c -> !c.get()[1].toString().matches("dora.*|.*tokens"));
    }

    @ParameterizedTest
    @MethodSource("narrowCases")
    void narrowWeightsComeBackBitForBitAndTheReportSaysWhatRoundingLost(String family, String method) {
        try (Model model = Subjects.model(family, backend, DType.BF16)) {
            Map<String, String> base = Subjects.bits(model);
            try (PeftModel peft = new PeftModel(model, 7)) {
                Subjects.add(peft, "one", config(family, method));
                Map<String, String> adapted = Subjects.bits(model);
                MergeReport forecast = peft.mergeReport(DType.BF16);
                assertThat(Subjects.bits(model)).containsExactlyEntriesOf(adapted);
                assertThat(peft.mergeAdapter()).isEqualTo(forecast);
                assertThat(Subjects.bits(model).keySet()).isEqualTo(base.keySet());
                assertThat(differing(model, base)).isNotEmpty();
                peft.unmergeAdapter();
            }
            assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static List<String> differing(Model model, Map<String, String> base) {
        Map<String, String> now = Subjects.bits(model);
        return base.keySet().stream()
                .filter(name -> !Objects.equals(base.get(name), now.get(name)))
                .toList();
    }

    @Test
    void theReportIsWhatArrivesAgainstWhatWasAsked() {
        try (Model model = Subjects.model("llama", backend, DType.BF16);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tuner tuner = Subjects.add(peft, "one", LoraConfig.defaults().withRank(2, 4));
            // Updates far smaller than the weights, most of which BF16's eight bits lose.
            tuner.parameters().forEach((name, t) -> {
                if (name.contains("lora_B")) {
                    t.copyFrom(Tensor.full(backend, DType.BF16, 1e-3, t.shape().dims()));
                }
            });
            Linear q = (Linear) Objects.requireNonNull(model.namedModules().get("model.layers.0.self_attn.q_proj"));
            double[] before = q.weight().toDoubles();
            double[] delta = delta(tuner, "base_model.model.model.layers.0.self_attn.q_proj", 2);
            MergeReport.Change change = peft.mergeAdapter().changes().getFirst();
            double[] after = q.weight().toDoubles();
            double missing = 0;
            double norm = 0;
            double weight = 0;
            for (int i = 0; i < delta.length; i++) {
                missing += square(after[i] - before[i] - delta[i]);
                norm += square(delta[i]);
                weight += square(before[i]);
            }
            assertThat(change.parameter()).isEqualTo("model.layers.0.self_attn.q_proj.weight");
            assertThat(change.norm()).isCloseTo(Math.sqrt(norm), within(1e-5 * Math.sqrt(norm)));
            assertThat(change.relative()).isCloseTo(Math.sqrt(norm / weight), within(1e-5));
            assertThat(change.lost())
                    .isCloseTo(Math.sqrt(missing / norm), within(1e-4))
                    .isGreaterThan(0.1);
        }
    }

    private static double square(double x) {
        return x * x;
    }

    /// s · B·A in double precision, (out, in).
    static double[] delta(Tuner tuner, String module, double scaling) {
        String name = tuner.attachment().name();
        Tensor a = Objects.requireNonNull(tuner.parameters().get(module + ".lora_A." + name + ".weight"));
        Tensor b = Objects.requireNonNull(tuner.parameters().get(module + ".lora_B." + name + ".weight"));
        double[] va = a.toDoubles();
        double[] vb = b.toDoubles();
        int r = a.shape().dim(0);
        int in = a.shape().dim(1);
        int out = b.shape().dim(0);
        double[] delta = new double[out * in];
        for (int i = 0; i < out; i++) {
            for (int j = 0; j < in; j++) {
                for (int k = 0; k < r; k++) {
                    delta[i * in + j] += scaling * vb[i * r + k] * va[k * in + j];
                }
            }
        }
        return delta;
    }

    @Test
    void preparedWeightsArePreparedAgainAndComeBackPrepared() {
        PackingBackend packing = new PackingBackend();
        try (Model model = Subjects.model("bert-head", packing, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            Map<String, String> base = Subjects.bits(model);
            Subjects.add(peft, "one", LoraConfig.defaults());
            model.prepare();
            List<Buffer> packed = model.namedParameters().values().stream()
                    .map(Tensor::buffer)
                    .filter(b -> !b.isRowMajor())
                    .toList();
            assertThat(packed).hasSize(2 * 6 + 2);
            double[] adapted = Subjects.logits(peft, ids, null);
            peft.mergeAdapter();
            assertThat(model.namedParameters().values().stream()
                            .filter(t -> !t.buffer().isRowMajor()))
                    .hasSize(packed.size());
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), adapted))
                    .isLessThan(1e-5);
            peft.unmergeAdapter();
            // Not packed a second time: the same buffers as before.
            assertThat(model.namedParameters().values().stream()
                            .map(Tensor::buffer)
                            .filter(b -> !b.isRowMajor()))
                    .isEqualTo(packed);
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(adapted);
            assertThat(peft.unload()).isSameAs(model);
            assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
        }
        assertThat(packing.liveBuffers()).isZero();
    }

    @Test
    void mappedFilesAreNotWrittenTo(@TempDir Path folder) {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            HfModels.save(model, folder);
        }
        MappingBackend mapping = new MappingBackend();
        try (Model model = HfModels.load(folder, mapping);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            assertThat(mapping.mapped).isGreaterThan(10);
            Map<String, String> base = Subjects.bits(model);
            Tensor ids = Subjects.ids(model, 3);
            Subjects.add(peft, "one", LoraConfig.defaults().withTargets(Targets.allLinear()));
            double[] adapted = Subjects.logits(peft, ids, null);
            peft.mergeAdapter();
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), adapted))
                    .isLessThan(1e-5);
            int mapped = mapping.mapped;
            peft.unmergeAdapter();
            try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
            }
            assertThat(peft.mergeAndUnload()).isSameAs(model);
            assertThat(mapping.mapped)
                    .as("what was merged for good let its file go")
                    .isLessThan(mapped);
            Path merged = folder.resolve("merged");
            HfModels.save(model, merged);
            try (Model again = HfModels.load(merged, backend);
                    PeftModel bare = new PeftModel(again, 7)) {
                Tensor here = Subjects.ids(again, 3);
                assertThat(Subjects.distance(Subjects.logits(bare, here, null), adapted))
                        .isLessThan(1e-5);
            }
        }
        assertThat(mapping.liveBuffers()).isZero();
        assertThat(mapping.mapped).isZero();
    }

    /// A model that computes in F32 and is saved in BF16 loses as much as the forecast says.
    @Test
    void aModelWrittenNarrowLosesWhatTheForecastSays(@TempDir Path folder) {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            HfModels.save(model, folder.resolve("base"), DType.BF16);
            Tuner tuner = Subjects.add(peft, "one", LoraConfig.defaults().withRank(2, 4));
            String module = "transformer.h.1.attn.c_attn";
            double[] delta = delta(tuner, "base_model.model." + module, 2);
            MergeReport forecast = peft.mergeReport(DType.BF16);
            assertThat(forecast.dtype()).isEqualTo(DType.BF16);
            assertThat(peft.mergeAdapter().lost()).isZero();
            HfModels.save(peft.mergeAndUnload(), folder.resolve("merged"), DType.BF16);
            double[] before = weight(folder.resolve("base"), module);
            double[] after = weight(folder.resolve("merged"), module);
            double missing = 0;
            double norm = 0;
            for (int i = 0; i < delta.length; i++) {
                missing += square(after[i] - before[i] - delta[i]);
                norm += square(delta[i]);
            }
            MergeReport.Change change = forecast.changes().getLast();
            assertThat(change.parameter()).isEqualTo(module + ".weight");
            assertThat(change.lost())
                    .isCloseTo(Math.sqrt(missing / norm), within(1e-5))
                    .isGreaterThan(1e-3);
            assertThat(forecast.toString())
                    .startsWith("merged into BF16: rounding loses ")
                    .contains(module + ".weight");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private double[] weight(Path folder, String module) {
        try (Model model = HfModels.load(folder, backend)) {
            Linear linear = (Linear) Objects.requireNonNull(model.namedModules().get(module));
            return linear.weight().toDoubles();
        }
    }

    @Test
    void mergingForGoodLeavesThePlainModel() {
        try (Model model = Subjects.model("seo", backend, DType.F32);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            List<String> names = List.copyOf(model.namedParameters().keySet());
            PeftModel peft = new PeftModel(model, 7);
            Subjects.add(peft, "one", LoraConfig.defaults());
            Subjects.add(peft, "two", PromptTuningConfig.of(2));
            double[] adapted = Subjects.logits(peft, ids, null);
            int before = backend.liveBuffers();
            assertThat(peft.mergeAndUnload()).isSameAs(model);
            // Two adapted matrices in each of two layers, A and B each; the prompt; the forward counter.
            assertThat(backend.liveBuffers()).isEqualTo(before - 2 * 2 * 2 - 1 - 1);
            assertThat(model.namedParameters().keySet()).containsExactlyElementsOf(names);
            assertThat(Subjects.distance(model.logits(ids, null).toDoubles(), adapted))
                    .isLessThan(1e-5);
            assertThatThrownBy(() -> peft.addAdapter("three", LoraConfig.defaults()))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("addAdapter: this PeftModel is closed, its model stands alone");
            peft.close();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void whatIsNoWeightCannotBeMerged() {
        refused(
                PrefixTuningConfig.of(2),
                "(PREFIX_TUNING) cannot be merged: a prefix of keys and values is no weight;");
        refused(PromptTuningConfig.of(2), "(PROMPT_TUNING) cannot be merged: virtual tokens are no weight;");
        refused(
                BottleneckConfig.pfeiffer().withSize(2),
                "(BOTTLENECK) cannot be merged: a network behind the sublayers is no weight;");
    }

    /// Adapters that change a table that is also the head, or only the head, or both separately, by family.
    static Stream<Arguments> untying() {
        LoraConfig lora = LoraConfig.defaults().withRank(3, 5);
        return Stream.of(
                Arguments.of("gpt2", lora.withTargets(Targets.of("lm_head"))),
                Arguments.of("gpt2", lora.withModulesToSave(List.of("wte"))),
                Arguments.of("gpt2", lora.withModulesToSave(List.of("wte", "lm_head"))),
                Arguments.of("seo", lora.withTargets(Targets.of("token_embedding"))),
                Arguments.of("seo", lora.withModulesToSave(List.of("lm_head"))));
    }

    @ParameterizedTest
    @MethodSource("untying")
    void aTiedHeadGetsAWeightOfItsOwnWhereOnlyOneOfTheTwoChanges(String family, LoraConfig config) {
        try (Model model = Subjects.model(family, backend, DType.F32);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            Map<String, String> base = Subjects.bits(model);
            PeftModel peft = new PeftModel(model, 7);
            Subjects.add(peft, "one", config);
            double[] adapted = Subjects.logits(peft, ids, null);
            model.prepare();
            peft.mergeAdapter();
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), adapted))
                    .isLessThan(2e-5);
            peft.unmergeAdapter();
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(adapted);
            try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
            }
            peft.mergeAndUnload();
            HfModels.save(model, folder);
            assertThat(JsonFile.read(folder.resolve("config.json"))
                            .get("tie_word_embeddings")
                            .booleanValue())
                    .isFalse();
            try (Model read = HfModels.load(folder, backend)) {
                assertThat(Subjects.distance(read.logits(ids, null).toDoubles(), adapted))
                        .isLessThan(2e-5);
            }
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aTieThatIsKeptIsMergedOnce() {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            PeftModel peft = new PeftModel(model, 7);
            LoraConfig config =
                    LoraConfig.defaults().withModulesToSave(List.of("wte")).withWeightTying(true);
            Subjects.add(peft, "one", config);
            double[] adapted = Subjects.logits(peft, ids, null);
            List<String> names = List.copyOf(model.namedParameters().keySet());
            assertThat(names.stream().filter(n -> n.contains("modules_to_save")))
                    .hasSize(1);
            peft.mergeAndUnload();
            assertThat(model.namedParameters()).doesNotContainKey("lm_head.weight");
            assertThat(Subjects.distance(model.logits(ids, null).toDoubles(), adapted))
                    .isLessThan(2e-5);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aBiasOnBNeedsABiasToGoTo() {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7)) {
            Subjects.add(
                    peft, "x", LoraConfig.defaults().withLoraBias(true).withTargets(Targets.of("q_proj", "lm_head")));
            Map<String, String> bits = Subjects.bits(model);
            assertThatThrownBy(peft::mergeAdapter)
                    .isInstanceOf(InputException.class)
                    .hasMessage(
                            "merge: adapter x has a bias on B (lora_bias), but a layer that it adapts has no bias to"
                                    + " take it; save the adapter beside the model");
            assertThat(Subjects.bits(model)).containsExactlyEntriesOf(bits);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private void refused(PeftConfig config, String reason) {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "x", config);
            double[] adapted = Subjects.logits(peft, Subjects.ids(model, 2), null);
            for (boolean write : new boolean[] {true, false}) {
                assertThatThrownBy(() -> {
                            if (write) {
                                peft.mergeAdapter();
                            } else {
                                peft.mergeReport(DType.BF16);
                            }
                        })
                        .isInstanceOf(InputException.class)
                        .hasMessage("merge: adapter x " + reason + " save the adapter beside the model");
            }
            assertThat(peft.isMerged()).isFalse();
            assertThat(Subjects.logits(peft, Subjects.ids(model, 2), null)).isEqualTo(adapted);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void nothingButAnsweringGoesOnWhileMerged() {
        try (Model model = Subjects.model("seo", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            assertThatThrownBy(peft::mergeAdapter)
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("mergeAdapter: no adapter is active; call setAdapter first, adapters are []");
            assertThatThrownBy(peft::unmergeAdapter)
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("unmergeAdapter: no adapter is merged");
            Subjects.add(peft, "one", LoraConfig.defaults());
            Subjects.add(peft, "two", LoraConfig.defaults());
            peft.mergeAdapter();
            String reason = ": adapters [one] are merged into the model; call unmergeAdapter() first";
            refusedMerged(() -> peft.addAdapter("three", LoraConfig.defaults()), "addAdapter" + reason);
            refusedMerged(() -> peft.setAdapter("two"), "setAdapter" + reason);
            refusedMerged(() -> peft.deleteAdapter("one"), "deleteAdapter" + reason);
            refusedMerged(peft::disableAdapter, "disableAdapter" + reason);
            refusedMerged(peft::mergeAdapter, "mergeAdapter" + reason);
            refusedMerged(peft::trainableParameters, "trainableParameters" + reason);
            Tensor ids = Subjects.ids(model, 2);
            model.train(true);
            refusedMerged(() -> peft.loss(ids, null, ids), "loss" + reason);
            model.train(false);
            assertThat(peft.loss(ids, null, ids).requiresGrad()).isFalse();
            assertThat(peft.parameterCount().trainableParameters()).isZero();
            peft.deleteAdapter("two");
            assertThat(peft.adapters()).containsOnlyKeys("one");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static void refusedMerged(Runnable call, String message) {
        assertThatThrownBy(call::run).isInstanceOf(IllegalStateException.class).hasMessage(message);
    }

    /// Keeps prepared weights in another order, so that reading them directly by mistake is detected.
    private static final class PackingBackend extends ReferenceBackend {
        private static final class Packed extends Buffer {
            private final Buffer transposed;

            Packed(Backend backend, Buffer transposed) {
                super(backend, transposed.dtype(), transposed.size());
                this.transposed = transposed;
            }

            @Override
            public boolean isRowMajor() {
                return false;
            }

            @Override
            public Buffer slice(long offset, long size) {
                throw new UnsupportedOperationException();
            }

            @Override
            protected void free() {
                transposed.release();
            }
        }

        @Override
        public Buffer prepare(Buffer w, int out, int in) {
            Buffer t = allocate(w.dtype(), w.size());
            permute(t, w, new int[] {out, in}, new int[] {1, 0});
            return new Packed(this, t);
        }

        @Override
        public Buffer restore(Buffer prepared, int out, int in) {
            if (!(prepared instanceof Packed p)) {
                return prepared.retain();
            }
            Buffer w = allocate(prepared.dtype(), prepared.size());
            permute(w, p.transposed, new int[] {in, out}, new int[] {1, 0});
            return w;
        }

        @Override
        public LinearKernels linear() {
            return new LinearKernels() {
                @Override
                public Backend backend() {
                    return PackingBackend.this;
                }

                @Override
                public void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias) {
                    Buffer rows = restore(w.buffer(), w.rows(), w.cols());
                    LinearKernels.super.linear(y, x, w.in(rows), bias);
                    rows.release();
                }
            };
        }
    }

    /// Uses files in place, as fast backends do, and counts the mapped buffers.
    private static final class MappingBackend extends ReferenceBackend {
        private int mapped;

        @Override
        public Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
            mapped++;
            return new HostBuffer(this, dtype, memory.asReadOnly(), b -> {
                mapped--;
                onFree.run();
            });
        }
    }
}
