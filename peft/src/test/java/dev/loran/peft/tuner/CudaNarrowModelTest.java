package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.FileDType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// Operations on adapters other than training, with a BF16 model and F32 adapters; on the CPU stand-in, or with
/// `-Dloran.test.gpu=true` on a real GPU.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaNarrowModelTest {
    private static final Path STAND_IN = Path.of("..", "kernels", "target", "standin");
    /// Several successive roundings to eight bits.
    private static final double BOUND = 6e-2;

    private CudaBackend cuda;

    @TempDir
    Path folder;

    @BeforeAll
    void open() throws IOException {
        if (Boolean.getBoolean("loran.test.gpu")) {
            cuda = CudaBackend.open(0, DType.BF16);
            return;
        }
        Path reason = STAND_IN.resolve("why-not");
        assumeTrue(
                !Files.exists(reason),
                Files.exists(reason) ? Files.readString(reason).strip() : "");
        assumeTrue(Files.isDirectory(STAND_IN), "the build made no CPU stand-in: JCuda has no natives for this system");
        cuda = CudaBackend.standIn(STAND_IN, DType.BF16);
    }

    @AfterAll
    void close() {
        if (cuda != null) {
            cuda.close();
        }
    }

    /// Random values, but small enough that this small model does not amplify rounding errors too much.
    private static Tuner add(PeftModel peft, String name, PeftConfig config) {
        Tuner tuner = peft.addAdapter(name, config);
        // AdaLoRA's update is a product of three factors.
        Subjects.stir(tuner.parameters(), config instanceof AdaLoraConfig ? 0.3 : 0.15, name.hashCode());
        return tuner;
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert-head"})
    void aMergedModelAnswersAsTheAdaptedOneAndComesBackBitForBit(String family) {
        Subjects.mergeable(family).forEach((name, config) -> {
            try (Model model = Subjects.model(family, cuda, DType.BF16);
                    PeftModel peft = new PeftModel(model, 7);
                    Scope scope = Scope.open()) {
                Map<String, String> base = Subjects.bits(model);
                Tensor ids = Subjects.ids(model, 3);
                double[] bare = Subjects.logits(peft, ids, null);
                Tuner tuner = add(peft, "one", config);
                assertThat(tuner.parameters().values())
                        .extracting(Tensor::dtype)
                        .as(name)
                        .containsOnly(DType.F32);
                double[] adapted = Subjects.logits(peft, ids, null);
                assertThat(Subjects.distance(bare, adapted)).as(name).isGreaterThan(BOUND);
                peft.mergeAdapter();
                assertThat(model.namedParameters().values())
                        .extracting(Tensor::dtype)
                        .as(name)
                        .containsOnly(DType.BF16);
                assertThat(Subjects.distance(Subjects.logits(peft, ids, null), adapted))
                        .as(name)
                        .isLessThan(BOUND);
                peft.unmergeAdapter();
                assertThat(Subjects.logits(peft, ids, null)).as(name).isEqualTo(adapted);
                peft.deleteAdapter("one");
                assertThat(Subjects.bits(model)).as(name).containsExactlyEntriesOf(base);
            }
            assertThat(cuda.liveBytes()).as(name).isZero();
        });
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert-head"})
    void rowsOfOneBatchAnswerAsTheirAdaptersAlone(String family) {
        try (Model model = Subjects.model(family, cuda, DType.BF16);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.mixable(family).forEach((name, config) -> add(peft, name, config));
            List<String> names = new ArrayList<>(peft.adapters().keySet());
            Tensor ids = Subjects.ids(model, names.size());
            double[] together = peft.logits(ids, null, names).toDoubles();
            int width = together.length / names.size();
            for (int row = 0; row < names.size(); row++) {
                peft.setAdapter(names.get(row));
                double[] all = Subjects.logits(peft, ids, null);
                int own = all.length / names.size();
                assertThat(Subjects.distance(
                                Arrays.copyOfRange(together, (row + 1) * width - own, (row + 1) * width),
                                Arrays.copyOfRange(all, row * own, (row + 1) * own)))
                        .as(names.get(row))
                        .isLessThan(BOUND);
            }
        }
        assertThat(cuda.liveBytes()).isZero();
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo"})
    void cachedLogitsAreThoseOfTheWholeText(String family) {
        try (Model model = Subjects.model(family, cuda, DType.BF16);
                PeftModel peft = new PeftModel(model, 7)) {
            add(peft, "lora", LoraConfig.defaults().withRank(3, 5));
            List<int[]> prompts = List.of(KvCacheTest.random(1, 5), KvCacheTest.random(2, 7));
            KvCacheTest.compare(model, prompts, new int[] {1, 1, 1}, BOUND);
        }
        assertThat(cuda.liveBytes()).isZero();
    }

    /// Files hold what was trained, in F32; on the CPU, with the same weights in F32, the outputs are equal up to
    /// rounding.
    @ParameterizedTest
    @ValueSource(strings = {"llama", "bert-head"})
    void filesAreThoseOfAModelOfF32(String family) {
        Map<String, PeftConfig> all = new LinkedHashMap<>(Subjects.mixable(family));
        all.forEach((name, config) -> {
            Path saved = folder.resolve(family + "-" + name.replace(' ', '-'));
            double[] written = answers(family, config, cuda, saved, true);
            try (SafeTensors file = SafeTensors.open(saved.resolve("adapter_model.safetensors"))) {
                assertThat(file.names()).allMatch(key -> file.entry(key).dtype() == FileDType.F32);
            }
            try (ReferenceBackend reference = new ReferenceBackend()) {
                double[] read = answers(family, config, reference, saved, false);
                assertThat(Subjects.distance(written, read)).as(name).isLessThan(BOUND);
            }
            double[] again = answers(family, config, cuda, saved, false);
            assertThat(again).as(name).isEqualTo(written);
        });
    }

    private static double[] answers(String family, PeftConfig config, Backend backend, Path saved, boolean first) {
        try (Model model = Subjects.model(family, backend, backend.storage());
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            if (first) {
                add(peft, "default", config);
                peft.savePretrained(saved);
            } else {
                peft.loadAdapter("default", saved);
            }
            return Subjects.logits(peft, Subjects.ids(model, 3), null);
        }
    }
}
