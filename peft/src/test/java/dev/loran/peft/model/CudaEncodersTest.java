package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import dev.loran.kernels.cuda.CudaBackend;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// The encoders on CudaBackend, compared with the reference; on the CPU stand-in, or with `-Dloran.test.gpu=true` on a
/// real GPU.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaEncodersTest {
    private static final Path STAND_IN = Path.of("..", "kernels", "target", "standin");

    private CudaBackend cuda;

    @BeforeAll
    void open() {
        boolean gpu = Boolean.getBoolean("loran.test.gpu");
        assumeTrue(
                gpu || Files.isDirectory(STAND_IN) && !Files.exists(STAND_IN.resolve("why-not")),
                "there is no CPU stand-in");
        cuda = gpu ? CudaBackend.open(0, DType.F32) : CudaBackend.standIn(STAND_IN, DType.F32);
    }

    @AfterAll
    void close() {
        if (cuda != null) {
            cuda.close();
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "roberta-head",
                "distilbert-head",
                "electra-head",
                "mpnet-head",
                "modernbert-head",
                "modernbert-tokens",
                "deberta-v2-head"
            })
    void lossAndGradientsAreTheReferences(String name) {
        Map<String, double[]> expected;
        try (Backend reference = new ReferenceBackend()) {
            expected = values(name, reference);
        }
        Map<String, double[]> actual = values(name, cuda);
        assertThat(actual.keySet()).isEqualTo(expected.keySet());
        expected.forEach((what, e) -> {
            double max = Arrays.stream(e).map(Math::abs).max().orElse(0);
            double[] a = Objects.requireNonNull(actual.get(what), what);
            for (int i = 0; i < e.length; i++) {
                // The gradient of a bias of keys is zero up to rounding.
                assertThat(a[i]).as(what + " at " + i).isCloseTo(e[i], within(1e-4 * max + 1e-7));
            }
        });
        assertThat(cuda.liveBytes()).as("bytes never released").isZero();
    }

    private static Map<String, double[]> values(String name, Backend backend) {
        Map<String, double[]> all = new LinkedHashMap<>();
        try (Scope scope = Scope.open();
                Model model = Small.encoder(name, backend, DType.F32)) {
            model.requiresGrad(true);
            Tensor ids = Small.ids(backend, model, 2, 9);
            int[] mask = new int[18];
            Arrays.setAll(mask, i -> i > 14 || i == 4 ? 0 : 1);
            int[] labels = new int[18];
            Arrays.setAll(labels, i -> mask[i] == 0 ? Functional.IGNORE_INDEX : i % 4);
            Tensor target = model.ofTokens()
                    ? Tensor.ofInts(backend, labels, 2, 9)
                    : Tensor.ofInts(backend, new int[] {3, 1}, 2);
            Tensor loss = model.loss(ids, Tensor.ofInts(backend, mask, 2, 9), target);
            all.put("loss", loss.toDoubles());
            loss.backward();
            model.namedParameters().forEach((parameter, t) -> {
                Tensor gradient = t.grad();
                if (gradient != null) {
                    all.put(parameter, gradient.toDoubles());
                }
            });
        }
        return all;
    }
}
