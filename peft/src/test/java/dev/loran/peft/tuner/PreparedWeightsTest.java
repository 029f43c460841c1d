package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// Every method on a base whose frozen weights are packed before the adapter is added, with checkpointed blocks,
/// compared with the same method on plain weights without checkpointing.
class PreparedWeightsTest {
    @TempDir
    Path folder;

    static Stream<Arguments> cases() {
        List<Arguments> all = new ArrayList<>();
        for (String family : Subjects.FAMILIES) {
            methods(family).keySet().forEach(method -> all.add(Arguments.of(family, method)));
        }
        return all.stream();
    }

    private static Map<String, PeftConfig> methods(String family) {
        Map<String, PeftConfig> all = new LinkedHashMap<>(Subjects.mergeable(family));
        if (!Subjects.CONFIGURED.contains(family)) {
            all.putAll(MethodsTest.methods());
        }
        if (family.equals("llama")) {
            all.remove("bitfit");
        }
        return all;
    }

    /// The result of a run: logits, and the gradient of each parameter, null where it has none.
    private record Answer(double[] logits, Map<String, double[]> gradients) {}

    private static Answer answer(Model model, PeftModel peft, Tuner tuner) {
        try (Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            Tensor mask = Subjects.mask(model, 3);
            double[] logits = Subjects.logits(peft, ids, mask);
            model.train(true);
            peft.microStep(5);
            boolean encoder = model.facts().modelType().equals("bert");
            Tensor loss = encoder && model.task() == TaskType.FEATURE_EXTRACTION
                    ? peft.logits(ids, mask).sum(0).mean()
                    : peft.loss(ids, mask, encoder ? Tensor.ofInts(model.backend(), new int[] {1, 0, 3}, 3) : ids);
            loss.backward();
            model.train(false);
            Map<String, double[]> gradients = new LinkedHashMap<>();
            tuner.parameters().forEach((name, t) -> {
                Tensor grad = t.grad();
                if (grad != null) {
                    gradients.put(name, grad.toDoubles());
                    t.zeroGrad();
                }
            });
            return new Answer(logits, gradients);
        }
    }

    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("cases")
    void packedAndCheckpointedIsTheSame(String family, String method) {
        PeftConfig config = Objects.requireNonNull(methods(family).get(method));
        try (Backend backend = Backends.simd(2)) {
            Answer plain;
            try (Model model = Subjects.model(family, backend, DType.F32);
                    PeftModel peft = new PeftModel(model, 7)) {
                plain = answer(model, peft, Subjects.add(peft, "default", config));
            }
            try (Model model = Subjects.model(family, backend, DType.F32)) {
                model.requiresGrad(false);
                model.prepare();
                Map<String, String> base = Subjects.bits(model);
                model.gradientCheckpointing(true);
                try (PeftModel peft = new PeftModel(model, 7)) {
                    check(answer(model, peft, Subjects.add(peft, "default", config)), plain);
                    peft.savePretrained(folder);
                    assertThat(packed(model)).as("packed with the adapter").isPositive();
                }
                try (PeftModel peft = new PeftModel(model, 7)) {
                    check(answer(model, peft, peft.loadAdapter("default", folder)), plain);
                }
                assertThat(Subjects.bits(model)).isEqualTo(base);
            }
            assertThat(backend.liveBytes()).isZero();
        }
    }

    private static long packed(Model model) {
        return model.namedParameters().values().stream()
                .filter(t -> !t.buffer().isRowMajor())
                .count();
    }

    private static void check(Answer actual, Answer plain) {
        assertThat(Subjects.distance(actual.logits, plain.logits)).as("logits").isLessThan(1e-5);
        assertThat(actual.gradients.keySet()).isEqualTo(plain.gradients.keySet());
        double largest = plain.gradients.values().stream()
                .flatMapToDouble(Arrays::stream)
                .map(Math::abs)
                .max()
                .orElseThrow();
        plain.gradients.forEach((name, g) -> {
            double[] other = Objects.requireNonNull(actual.gradients.get(name));
            for (int i = 0; i < g.length; i++) {
                assertThat(Math.abs(other[i] - g[i])).as(name + " " + i).isLessThan(3e-5 * largest);
            }
        });
    }
}
