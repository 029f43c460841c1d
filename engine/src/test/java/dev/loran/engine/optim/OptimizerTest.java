package dev.loran.engine.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.io.SafeTensors;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.DoubleUnaryOperator;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Ten steps on two parameters against torch 2.13.0 in double precision. The recipe, with f(k, n) = (f(1 + 7k + 3i))
/// for i < n:
///
/// ```python
/// a = Parameter([[0.5, -1.0, 1.5], [2.0, -2.5, 0.25]]); b = Parameter([1.0, -0.75, 0.1])
/// opt = AdamW([dict(params=[a]), dict(params=[b], lr=0.4, weight_decay=0)], lr=0.1, weight_decay=0.1)
/// schedule = LambdaLR(opt, lambda s: s / 2 if s < 2 else (10 - s) / 8)
/// for k in range(10):
///     loss = ((a - sin(k, 6).reshape(2, 3)) ** 2).sum() + (((b - cos(k, 3)) ** 2).sum() if k != 4 else 0)
///     loss.backward(); norms.append(clip_grad_norm_([a, b], 7.0)); opt.step(); schedule.step(); opt.zero_grad()
/// ```
///
/// and for SGD
/// `SGD([dict(params=[a]), dict(params=[b], lr=0.04, weight_decay=0)], lr=0.01, momentum=0.9, weight_decay=0.1)`
/// without clipping, and again without momentum.
class OptimizerTest {
    private static final ParameterGroup GROUP_OF_B = new ParameterGroup(name -> name.equals("b"), 4, 0);
    private static final AdamW.Config ADAM_W = AdamW.Config.of(0.1, GROUP_OF_B);

    /// Counts synchronizations.
    private static final class CountingBackend extends ReferenceBackend {
        int reads;

        @Override
        public void read(MemorySegment dst, Buffer src) {
            reads++;
            super.read(dst, src);
        }
    }

    @TempDir
    private Path folder;

    private final CountingBackend backend = new CountingBackend();
    private final Map<String, Tensor> parameters = new LinkedHashMap<>();

    @BeforeEach
    void makeParameters() {
        parameters.put("a", parameter(new double[] {0.5, -1, 1.5, 2, -2.5, 0.25}, 2, 3));
        parameters.put("b", parameter(new double[] {1, -0.75, 0.1}, 3));
    }

    @AfterEach
    void nothingLeaks() {
        parameters.values().forEach(Tensor::close);
        assertThat(backend.liveBuffers()).isZero();
        backend.close();
    }

    private Tensor parameter(double[] values, int... dims) {
        return Tensor.of(backend, DType.F64, values, dims).requiresGrad(true);
    }

    private Tensor a() {
        return get(parameters, "a");
    }

    private Tensor b() {
        return get(parameters, "b");
    }

    private static Tensor get(Map<String, Tensor> tensors, String name) {
        return Objects.requireNonNull(tensors.get(name), name);
    }

    /// Gradient of Σ (p − target)².
    private void backward(Tensor p, DoubleUnaryOperator f, int k) {
        double[] target = new double[(int) p.shape().size()];
        for (int i = 0; i < target.length; i++) {
            target[i] = f.applyAsDouble(1 + 7 * k + 3 * i);
        }
        try (Scope scope = Scope.open()) {
            Tensor d = p.sub(Tensor.of(backend, DType.F64, target, p.shape().dims()));
            d.mul(d).sum().backward();
        }
    }

    private void steps(Optimizer optimizer, @Nullable GradClip clip, double lr, int from, int to, List<Double> norms) {
        for (int k = from; k < to; k++) {
            optimizer.advance(lr * (k < 2 ? k / 2.0 : (10 - k) / 8.0));
            backward(a(), Math::sin, k);
            if (k != 4) {
                backward(b(), Math::cos, k);
            }
            if (clip == null) {
                optimizer.step(parameters);
            } else {
                norms.add(clip.norm(parameters.values()).item());
                optimizer.step(parameters, clip.scale());
            }
            optimizer.zeroGrad(parameters);
        }
    }

    private static void close(Tensor actual, double... expected) {
        assertThat(actual.toDoubles()).containsExactly(expected, within(1e-12));
    }

    @Test
    void adamWWithClippingGroupsAndASkippedStepEqualsTorch() {
        List<Double> norms = new ArrayList<>();
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W);
                GradClip clip = new GradClip(backend, DType.F64, 7)) {
            steps(optimizer, clip, 0.1, 0, 10, norms);
            try (Scope scope = Scope.open()) {
                Map<String, Tensor> state = optimizer.state();
                assertThat(state)
                        .containsOnlyKeys("a.step", "a.exp_avg", "a.exp_avg_sq", "b.step", "b.exp_avg", "b.exp_avg_sq");
                assertThat(get(state, "a.step").toInts()).containsExactly(10);
                assertThat(get(state, "b.step").toInts()).containsExactly(9);
                close(
                        get(state, "a.exp_avg"),
                        0.5855777231484945,
                        -0.8548014096776424,
                        1.418308505223318,
                        1.8981735032812794,
                        -2.43770573028523,
                        -0.13394127420905885);
                close(get(state, "b.exp_avg"), -0.251572424956978, 0.44502863400720716, -0.39084504650896773);
            }
        }
        close(
                a(),
                0.4468464529089174,
                -0.5581890624902583,
                0.9666492290168985,
                1.4398931207820374,
                -1.9042564068668815,
                -0.05575274345278156);
        close(b(), -0.24056433890408999, 0.3261593840366275, -0.07929200256200149);
        assertThat(norms.stream().mapToDouble(n -> n).toArray())
                .containsExactly(
                        new double[] {
                            8.203260973105383, 9.79824474241241, 10.213122824229592, 9.072554393682015,
                            7.068339083984669, 7.190456898739307, 7.025454316978647, 6.755057355495146,
                            6.600479136062762, 7.184117133945428
                        },
                        within(1e-12));
    }

    @Test
    void sgdEqualsTorch() {
        try (Sgd optimizer = new Sgd(backend, DType.F64, 0.9, 0.1, GROUP_OF_B)) {
            steps(optimizer, null, 0.01, 0, 10, new ArrayList<>());
            try (Scope scope = Scope.open()) {
                assertThat(optimizer.state())
                        .containsOnlyKeys("a.step", "a.momentum_buffer", "b.step", "b.momentum_buffer");
            }
        }
        close(
                a(),
                0.388716658849582,
                -0.7089174631292348,
                1.0273106900480091,
                1.130711034214143,
                -1.4350453130607606,
                0.04044318885212598);
        close(b(), -0.09659120330824587, 0.06543003889265009, -0.04143913765277433);
    }

    @Test
    void sgdWithoutMomentumEqualsTorch() {
        try (Sgd optimizer = new Sgd(backend, DType.F64, 0, 0.1, GROUP_OF_B)) {
            steps(optimizer, null, 0.01, 0, 10, new ArrayList<>());
        }
        close(
                a(),
                0.4434365174885574,
                -0.8970180502391394,
                1.350651959026462,
                1.79427769694384,
                -2.240402603759263,
                0.21270538972169606);
        close(b(), 0.6570455858160842, -0.4818674277334585, 0.025639664362742693);
    }

    @Test
    void aStepWaitsForNothingAndRaisesVersions() {
        int version = a().version();
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W);
                GradClip clip = new GradClip(backend, DType.F64, 1)) {
            for (int k = 1; k < 4; k++) {
                optimizer.advance(0.1);
                backward(a(), Math::sin, k);
                clip.norm(parameters.values());
                optimizer.step(parameters, clip.scale());
                optimizer.zeroGrad(parameters);
            }
        }
        assertThat(backend.reads).isZero();
        assertThat(a().version()).isEqualTo(version + 3);
        assertThat(b().version()).isZero();
        close(b(), 1, -0.75, 0.1);
    }

    @Test
    void savedAndLoadedStateGoesOnWithTheSameBits() {
        double[] aMiddle;
        double[] bMiddle;
        Path file = folder.resolve("optimizer.safetensors");
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W)) {
            steps(optimizer, null, 0.1, 0, 6, new ArrayList<>());
            aMiddle = a().toDoubles();
            bMiddle = b().toDoubles();
            try (Scope scope = Scope.open()) {
                SafeTensors.write(file, optimizer.state());
            }
            steps(optimizer, null, 0.1, 6, 10, new ArrayList<>());
        }
        double[] aEnd = a().toDoubles();
        double[] bEnd = b().toDoubles();
        parameters.values().forEach(Tensor::close);
        parameters.put("a", parameter(aMiddle, 2, 3));
        parameters.put("b", parameter(bMiddle, 3));
        try (AdamW resumed = new AdamW(backend, DType.F64, ADAM_W)) {
            // Its previous state is replaced.
            steps(resumed, null, 0, 0, 3, new ArrayList<>());
            Map<String, Tensor> state = new LinkedHashMap<>();
            try (SafeTensors saved = SafeTensors.open(file)) {
                for (String name : saved.names()) {
                    state.put(
                            name,
                            saved.tensor(
                                    backend, name, saved.entry(name).dtype().dtype()));
                }
            }
            resumed.load(state);
            state.values().forEach(Tensor::close);
            steps(resumed, null, 0.1, 6, 10, new ArrayList<>());
        }
        assertThat(a().toDoubles()).isEqualTo(aEnd);
        assertThat(b().toDoubles()).isEqualTo(bEnd);
    }

    /// AdamW acts on each element separately, so what remains of a parameter must continue as if the rest had never
    /// existed.
    @Test
    void aParameterThatShrinksTakesItsMomentsWithIt() {
        SplittableRandom random = new SplittableRandom(3);
        Tensor target = Tensor.randn(backend, DType.F64, random, 1, 2, 5, 3);
        Tensor whole = Tensor.randn(backend, DType.F64, random, 1, 2, 5, 3);
        Map<String, Tensor> small = Map.of("p", parameter(whole.toDoubles(), 2, 5, 3));
        Map<String, Tensor> large = Map.of("p", parameter(whole.toDoubles(), 2, 5, 3));
        int[] rows = {4, 0, 3};
        int[] cols = {2, 1};
        try (AdamW one = new AdamW(backend, DType.F64, ADAM_W);
                AdamW other = new AdamW(backend, DType.F64, ADAM_W)) {
            towards(one, small, target);
            towards(other, large, target);
            one.resize("p", get(small, "p"), 1, rows);
            one.resize("p", get(small, "p"), -1, cols);
            assertThat(get(small, "p").shape().dims()).containsExactly(2, 3, 2);
            assertThat(get(small, "p").requiresGrad()).isTrue();
            try (Tensor part = Tensor.of(backend, DType.F64, pick(target.toDoubles(), rows, cols), 2, 3, 2)) {
                towards(one, small, part);
            }
            towards(other, large, target);
            assertThat(get(small, "p").toDoubles())
                    .isEqualTo(pick(get(large, "p").toDoubles(), rows, cols));

            one.resize("p", get(small, "p"), 1);
            assertThat(get(small, "p").shape().dims()).containsExactly(2, 0, 2);
            assertThatThrownBy(() -> one.resize("p", get(small, "p"), 0, 2))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("adamW: resize of p keeps index 2 of dimension 0, which does not exist in (2, 0, 2)");
        }
        List.of(target, whole, get(small, "p"), get(large, "p")).forEach(Tensor::close);
    }

    private static void towards(Optimizer optimizer, Map<String, Tensor> parameters, Tensor target) {
        for (int k = 0; k < 3; k++) {
            optimizer.advance(0.1);
            try (Scope scope = Scope.open()) {
                Tensor d = get(parameters, "p").sub(target);
                d.mul(d).sum().backward();
            }
            optimizer.step(parameters);
            optimizer.zeroGrad(parameters);
        }
    }

    private static double[] pick(double[] x, int[] rows, int[] cols) {
        double[] y = new double[2 * rows.length * cols.length];
        int n = 0;
        for (int i = 0; i < 2; i++) {
            for (int r : rows) {
                for (int c : cols) {
                    y[n++] = x[(i * 5 + r) * 3 + c];
                }
            }
        }
        return y;
    }

    /// A captured step is replayed without a call of `step`: `advance` alone counts it, for the parameters that it
    /// moves.
    @Test
    void replayedStepsAreCounted() {
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W)) {
            // Step 4 does not move b.
            steps(optimizer, null, 0.1, 0, 5, new ArrayList<>());
            optimizer.advance(0.1);
            optimizer.advance(0.1);
            checkSteps(optimizer, 7, 4);
            steps(optimizer, null, 0.1, 5, 6, new ArrayList<>());
            checkSteps(optimizer, 8, 5);
            steps(optimizer, null, 0.1, 4, 6, new ArrayList<>());
            checkSteps(optimizer, 10, 6);
        }
    }

    private static void checkSteps(Optimizer optimizer, int a, int b) {
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> state = optimizer.state();
            assertThat(get(state, "a.step").toInts()).containsExactly(a);
            assertThat(get(state, "b.step").toInts()).containsExactly(b);
        }
    }

    @Test
    void aForgottenParameterStartsAfresh() {
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W)) {
            steps(optimizer, null, 0.1, 0, 3, new ArrayList<>());
            optimizer.forget("a");
            steps(optimizer, null, 0.1, 3, 4, new ArrayList<>());
            checkSteps(optimizer, 1, 4);
        }
    }

    @Test
    void clippingLeavesGradientsThatAreSmallOrAbsent() {
        try (GradClip clip = new GradClip(backend, DType.F64, 1000);
                GradClip never = new GradClip(backend, DType.F64, Double.POSITIVE_INFINITY)) {
            assertThat(clip.norm(parameters.values()).item()).isZero();
            backward(a(), Math::sin, 0);
            double norm = clip.norm(parameters.values()).item();
            assertThat(norm).isPositive();
            assertThat(never.norm(parameters.values()).item()).isEqualTo(norm);
            for (GradClip c : List.of(clip, never)) {
                try (Tensor scale = Tensor.own(Shape.of(), c.scale().retain())) {
                    assertThat(scale.item()).isEqualTo(1);
                }
            }
        }
    }

    @Test
    void errorsSayWhatToDo() {
        try (AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W);
                GradClip clip = new GradClip(backend, DType.F32, 1);
                Tensor single = Tensor.full(backend, DType.F32, 1, 2).requiresGrad(true)) {
            assertThatThrownBy(() -> optimizer.step(parameters))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("adamW: call advance(learningRate) before each step");
            steps(optimizer, null, 0.1, 0, 1, new ArrayList<>());
            Tensor other = parameter(new double[4], 4);
            parameters.put("b", other).close();
            backward(other, Math::sin, 0);
            optimizer.advance(0.1);
            assertThatThrownBy(() -> optimizer.step(parameters))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("adamW: parameter b is (4) but its moments are (3); change both by resize");
            assertThatThrownBy(() -> optimizer.resize("b", other, 0, 1))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("adamW: parameter b is (4) but its moments are (3); change both by resize");
            assertThatThrownBy(() -> clip.norm(parameters.values()))
                    .isInstanceOf(DTypeException.class)
                    .hasMessage("gradClip: a gradient (4) is F64, needs F32");
            try (Scope scope = Scope.open()) {
                single.mul(single).sum().backward();
            }
            optimizer.advance(0.1);
            assertThatThrownBy(() -> optimizer.step(Map.of("s", single)))
                    .isInstanceOf(DTypeException.class)
                    .hasMessage("adamW: parameter s is F32 on reference, the optimizer was made for F64 on reference");
            assertThatThrownBy(() -> optimizer.advance(Double.NaN))
                    .hasMessage("adamW: learningRate must be at least 0, got NaN");
        }
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> new AdamW(backend, DType.BF16, ADAM_W))
                .isInstanceOf(DTypeException.class)
                .hasMessage("adamW: cannot train parameters of BF16; keep them in F32");
        assertThatThrownBy(() -> new AdamW.Config(1, 0.9, 0, 0, List.of()))
                .hasMessage("adamW: beta1 must be in [0, 1), got 1.0");
        assertThatThrownBy(() -> AdamW.Config.of(-1)).hasMessage("adamW: weightDecay must be at least 0, got -1.0");
        assertThatThrownBy(() -> new ParameterGroup(_ -> true, -2, 0))
                .hasMessage("parameterGroup: lrFactor must be at least 0, got -2.0");
        assertThatThrownBy(() -> new Sgd(backend, DType.F64, 1, 0))
                .hasMessage("sgd: momentum must be in [0, 1), got 1.0");
        assertThatThrownBy(() -> new GradClip(backend, DType.F64, 0))
                .hasMessage("gradClip: maxNorm must be positive, got 0.0");
    }

    @Test
    void stateThatDoesNotFitIsRefusedAndChangesNothing() {
        try (Scope scope = Scope.open();
                AdamW optimizer = new AdamW(backend, DType.F64, ADAM_W)) {
            steps(optimizer, null, 0.1, 0, 1, new ArrayList<>());
            Tensor one = Tensor.ofInts(backend, new int[] {1});
            Tensor m = Tensor.zeros(backend, DType.F64, 2);
            assertThatThrownBy(() -> optimizer.load(Map.of("x.step", one, "x.exp_avg", m)))
                    .hasMessage("adamW: state of x lacks exp_avg_sq");
            assertThatThrownBy(() -> optimizer.load(Map.of("x.exp_avg", m)))
                    .hasMessage(
                            "adamW: state entry x.exp_avg is unknown (a parameter has step and [exp_avg, exp_avg_sq])");
            assertThatThrownBy(() -> optimizer.load(
                            Map.of("x.step", one, "x.exp_avg", m, "x.exp_avg_sq", Tensor.zeros(backend, DType.F64, 3))))
                    .hasMessage("adamW: state entry x.exp_avg_sq is (3) but the moment before it is (2)");
            assertThatThrownBy(() -> optimizer.load(Map.of("x.step", one, "x.exp_avg", m, "x.exp_avg_sq", one)))
                    .hasMessage(
                            "adamW: state entry x.exp_avg_sq is I32 on reference, needs a floating type on reference");
            assertThatThrownBy(() -> optimizer.load(
                            Map.of("x.step", Tensor.ofInts(backend, new int[] {0}), "x.exp_avg", m, "x.exp_avg_sq", m)))
                    .hasMessage("adamW: state entry x.step is 0, needs a step number from 1");
            assertThat(optimizer.state()).containsKeys("a.step", "b.step").hasSize(6);
        }
    }
}
