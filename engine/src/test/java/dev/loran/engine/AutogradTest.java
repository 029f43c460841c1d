package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.GradCheck;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// The graph: what is recorded, in what order it is traversed, who owns the gradients, and what is released when.
class AutogradTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Random random = new Random(1);
    private Scope scope = Scope.open();

    @BeforeEach
    void open() {
        scope.close();
        scope = Scope.open();
    }

    /// Every test must end without a live buffer.
    @AfterEach
    void nothingIsLeft() {
        scope.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    private Tensor leaf(int... dims) {
        return constant(dims).requiresGrad(true);
    }

    private Tensor constant(int... dims) {
        return Tensor.randn(backend, DType.F64, random, 1, dims);
    }

    private static double[] grad(Tensor leaf) {
        return Objects.requireNonNull(leaf.grad()).toDoubles();
    }

    // ---- recording

    @Test
    void onlyWhatNeedsAGradientIsRecorded() {
        assertThat(constant(3).mul(constant(3)).requiresGrad()).isFalse();
        assertThat(constant(3).mul(leaf(3)).requiresGrad()).isTrue();
        assertThat(leaf(3).detach().requiresGrad()).isFalse();
    }

    @Test
    void noGradRecordsNothingAndEnableGradDoesAgain() {
        Tensor x = leaf(3);
        assertThat(Autograd.isRecording()).isTrue();
        try (Autograd.Mode off = Autograd.noGrad()) {
            assertThat(Autograd.isRecording()).isFalse();
            assertThat(x.scale(2).requiresGrad()).isFalse();
            try (Autograd.Mode on = Autograd.enableGrad()) {
                assertThat(x.scale(2).requiresGrad()).isTrue();
                try (Autograd.Mode offAgain = Autograd.noGrad()) {
                    assertThat(x.scale(2).requiresGrad()).isFalse();
                }
            }
            assertThat(Autograd.isRecording()).isFalse();
        }
        assertThat(Autograd.isRecording()).isTrue();
    }

    @Test
    void aFrozenWeightKeepsNothingThatOnlyItsGradientNeeds() {
        Tensor weight = constant(5, 7);
        Tensor x = leaf(3, 7).scale(1);
        Buffer kept = x.buffer();
        Tensor y = Functional.linear(x, weight, null);
        x.close();
        assertThat(kept.isLive())
                .as("x is needed by the weight's gradient alone")
                .isFalse();
        y.sum().backward();
    }

    @Test
    void memoryIsReleasedAsTheWalkPasses() {
        Tensor x = leaf(5);
        Tensor hidden = Functional.gelu(x);
        Buffer saved = hidden.buffer();
        Tensor loss = Functional.gelu(hidden).sum();
        hidden.close();
        assertThat(saved.isLive()).as("saved for backward").isTrue();
        loss.backward();
        assertThat(saved.isLive()).as("after backward").isFalse();
    }

    @Test
    void aGraphThatNobodyWalksIsDroppedWithItsResult() {
        Tensor x = leaf(5);
        int before = backend.liveBuffers();
        Tensor a = Functional.gelu(x);
        Tensor b = a.mul(a);
        Tensor c = b.sum();
        Tensor d = Functional.tanh(b);
        a.close();
        b.close();
        c.close();
        assertThat(backend.liveBuffers()).as("d still reaches a and b").isGreaterThan(before + 1);
        d.close();
        assertThat(backend.liveBuffers()).isEqualTo(before);
    }

    // ---- backward pass

    @Test
    void aDiamondAddsUp() {
        Tensor x = leaf(7);
        GradCheck.check("diamond", Map.of("x", x), () -> {
            Tensor a = Functional.tanh(x);
            Tensor b = a.mul(x);
            return a.add(b).mul(b.sub(a)).add(x);
        });
    }

    @Test
    void aDeepBranchIsFinishedBeforeItsRootIsWalked() {
        Tensor x = leaf(3);
        GradCheck.check("branches of different depth", Map.of("x", x), () -> {
            Tensor root = x.scale(0.5);
            Tensor deep = root;
            for (int i = 0; i < 50; i++) {
                deep = Functional.tanh(deep);
            }
            return root.mul(deep).add(root);
        });
    }

    @Test
    void gradientsAddUpOverTwoBackwards() {
        Tensor x = leaf(5);
        Tensor w = constant(5);
        x.mul(w).sum().backward();
        double[] once = grad(x);
        x.mul(w).sum().backward();
        double[] twice = grad(x);
        for (int i = 0; i < 5; i++) {
            assertThat(once[i]).isEqualTo(w.toDoubles()[i]);
            assertThat(twice[i]).isEqualTo(2 * once[i]);
        }
        x.zeroGrad();
        assertThat(x.grad()).isNull();
    }

    @Test
    void aSeedOtherThanOne() {
        Tensor x = leaf(3);
        Tensor seed = constant(3);
        x.scale(2).backward(seed);
        double[] s = seed.toDoubles();
        assertThat(grad(x)).containsExactly(2 * s[0], 2 * s[1], 2 * s[2]);
    }

    @Test
    void aLossThatIsALeaf() {
        Tensor x = leaf();
        x.backward();
        assertThat(grad(x)).containsExactly(1);
    }

    @Test
    void aLongChainNeedsNoStack() {
        Tensor x = leaf(1);
        Tensor y = x;
        for (int i = 0; i < 20_000; i++) {
            y = y.scale(1);
        }
        y.backward();
        assertThat(grad(x)).containsExactly(1);
    }

    // ---- ownership of gradients

    @Test
    void gradientsThatWereSharedOnTheWayAreApartInTheEnd() {
        Tensor a = leaf(3);
        Tensor b = leaf(3);
        Tensor seed = constant(3);
        double[] expected = seed.toDoubles();
        a.add(b).reshape(3, 1).reshape(3).backward(seed);
        Tensor nines = Tensor.full(backend, DType.F64, 9, 3);
        Objects.requireNonNull(a.grad()).copyFrom(nines);
        seed.copyFrom(nines);
        assertThat(grad(b)).containsExactly(expected);
    }

    @Test
    void addingToASharedGradientLeavesTheOtherAlone() {
        Tensor a = leaf(3);
        Tensor b = leaf(3);
        Tensor sum = a.add(b);
        sum.add(Functional.tanh(a)).sum().backward();
        double[] x = a.toDoubles();
        double[] ga = grad(a);
        assertThat(grad(b)).containsExactly(1, 1, 1);
        for (int i = 0; i < 3; i++) {
            double t = Math.tanh(x[i]);
            assertThat(ga[i]).isEqualTo(1 + (1 - t * t));
        }
    }

    @Test
    void theSameTensorTwiceInOneOperation() {
        Tensor x = leaf(7);
        Tensor square = leaf(5, 5);
        GradCheck.check("x + x", Map.of("x", x), () -> x.add(x));
        GradCheck.check("x * x", Map.of("x", x), () -> x.mul(x));
        GradCheck.check(
                "concat",
                Map.of("x", x),
                () -> Functional.concat(List.of(x, x, x), 0).mul(constantLike(21)));
        GradCheck.check("rmsNorm", Map.of("x", x), () -> Functional.rmsNorm(x, x, 0.1));
        GradCheck.check("layerNorm", Map.of("x", x), () -> Functional.layerNorm(x, x, x, 0.1));
        GradCheck.check("matmul", Map.of("x", square), () -> Functional.matmul(square, square, true, false));
        GradCheck.check("linear", Map.of("x", square), () -> Functional.linear(square, square, null));
        Tensor frozen = constant(5, 5);
        GradCheck.check(
                "loraLinear",
                Map.of("x", square),
                () -> Functional.loraLinear(square, frozen, null, square, square, 0.5, null));
        Tensor q = leaf(1, 3, 2, 2);
        GradCheck.check("attention", Map.of("x", q), () -> Functional.attention(q, q, q, null, null, null, true, 0.7));
    }

    private Tensor constantLike(int n) {
        return Tensor.randn(backend, DType.F64, new Random(5), 1, n);
    }

    @Test
    void aClosedLeafKeepsNoGradient() {
        Tensor x = leaf(3);
        Tensor loss = x.scale(2).sum();
        x.close();
        loss.backward();
        assertThat(x.grad()).isNull();
    }

    @Test
    void intermediateResultsKeepNoGradient() {
        Tensor x = leaf(3);
        Tensor hidden = x.scale(2);
        hidden.sum().backward();
        assertThat(hidden.grad()).isNull();
    }

    // ---- rejections

    @Test
    void aSecondBackwardIsRefused() {
        Tensor loss = leaf(3).scale(2).sum();
        loss.backward();
        assertThatThrownBy(loss::backward)
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("backward: the graph behind this () was walked already and what it saved is released; "
                        + "run forward again");
    }

    @Test
    void aSharedTrunkThatWasWalkedIsRefused() {
        Tensor trunk = Functional.gelu(leaf(3));
        Tensor first = trunk.sum();
        Tensor second = trunk.scale(2).sum();
        first.backward();
        assertThatThrownBy(second::backward)
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("backward: UnaryFnOp was walked already and what it saved is released; run forward again");
    }

    @Test
    void whatWasNotRecordedIsRefused() {
        assertThatThrownBy(() -> constant(3).sum().backward())
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("backward: tensor () was not recorded; no input requires a gradient, or it was made under "
                        + "noGrad()");
    }

    @Test
    void aLossOfSeveralElementsIsRefused() {
        assertThatThrownBy(() -> leaf(8, 2).scale(2).backward())
                .isInstanceOf(ShapeException.class)
                .hasMessage("backward: loss must be a scalar, got (8, 2); call mean() or sum() first");
    }

    @Test
    void aSeedThatDoesNotFitIsRefused() {
        Tensor y = leaf(8, 2).scale(2);
        assertThatThrownBy(() -> y.backward(constant(2, 8)))
                .isInstanceOf(ShapeException.class)
                .hasMessage("backward: gradient is (2, 8) but the tensor is (8, 2)");
        assertThatThrownBy(() -> y.backward(Tensor.zeros(backend, DType.F32, 8, 2)))
                .isInstanceOf(DTypeException.class)
                .hasMessage("backward: gradient is F32 but the tensor is F64; copyFrom() converts");
    }

    // ---- versions

    @Test
    void aSavedTensorThatWasWrittenIsRefused() {
        Tensor x = leaf(3);
        Tensor w = constant(3);
        Tensor loss = x.mul(w).sum();
        w.copyFrom(constant(3));
        assertThatThrownBy(loss::backward)
                .isInstanceOf(IllegalStateException.class)
                .hasMessage(
                        "backward: a tensor (3) saved by MulOp was written after the forward pass (version 0, now 1);"
                                + " run forward again after changing weights");
        assertThat(x.grad()).isNull();
    }

    @Test
    void aWriteThroughOneViewIsSeenByTheOthers() {
        Tensor x = leaf(4, 3);
        Tensor w = constant(4, 3);
        List<Tensor> views = List.of(w.reshape(3, 4).reshape(4, 3), w.slice(0, 0, 4), w.detach());
        for (Tensor view : views) {
            Tensor loss = x.mul(view).sum();
            w.markWritten();
            assertThatThrownBy(loss::backward)
                    .hasMessageContaining("saved by MulOp was written after the forward pass");
            loss = x.mul(w).sum();
            view.markWritten();
            assertThatThrownBy(loss::backward)
                    .hasMessageContaining("saved by MulOp was written after the forward pass");
        }
    }

    @Test
    void aSavedTensorThatWasReplacedIsRefused() {
        Tensor x = leaf(3);
        Tensor w = constant(3);
        Tensor loss = x.mul(w).sum();
        w.assign(Shape.of(2), backend.of(DType.F64, 1, 2));
        assertThatThrownBy(loss::backward).hasMessageContaining("a tensor (2) saved by MulOp was written");
    }

    @Test
    void writingWhatIsNotSavedIsFine() {
        Tensor x = leaf(3);
        Tensor w = constant(3);
        Tensor loss = x.add(w).sum();
        w.copyFrom(constant(3));
        loss.backward();
        assertThat(grad(x)).containsExactly(1, 1, 1);
    }

    // ---- custom operations

    /// y = 2x, with a backward that fails.
    private record Failing(Tensor x) implements Op {
        Tensor forward() {
            Buffer y = x.backend().allocate(x.dtype(), x.shape().size());
            x.backend().axpby(y, x.buffer(), 2, 0);
            return Autograd.record(this, x.shape(), y);
        }

        @Override
        public List<Tensor> inputs() {
            return List.of(x);
        }

        @Override
        public List<Tensor> saved() {
            return List.of(x);
        }

        @Override
        public void backward(Tensor gradOut, Gradients gradients) {
            gradients.into(x);
            gradients.into(x);
            throw new BackendException("test: broken");
        }
    }

    @Test
    void aCastToItsOwnTypeIsTheTensorItself() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Tensor x = Tensor.of(backend, new float[] {1, 2}, 2)) {
            assertThat(Functional.cast(x, DType.F32)).isSameAs(x);
        }
    }

    /// An F32 parameter used twice in BF16: each use rounds it, and its gradients are added in F32.
    @Test
    void gradientsOfAParameterThatIsCastAddUpInItsOwnType() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor w = Tensor.of(backend, new float[] {1.003f, -3}, 2).requiresGrad(true);
            Tensor narrow = Functional.cast(w, DType.BF16);
            assertThat(narrow.dtype()).isEqualTo(DType.BF16);
            assertThat(narrow.toDoubles()).containsExactly(1, -3);
            Tensor third = Functional.cast(narrow, DType.F32).scale(1.0 / 3);
            third.add(Functional.cast(Functional.cast(w, DType.BF16), DType.F32))
                    .sum()
                    .backward();
            // 1/3 is rounded on its way through BF16; its sum with 1 is not.
            Tensor grad = Objects.requireNonNull(w.grad());
            assertThat(grad.dtype()).isEqualTo(DType.F32);
            assertThat(grad.toDoubles()).containsExactly(1.333984375, 1.333984375);
        }
    }

    @Test
    void aBackwardThatThrowsLeaksNothing() {
        Tensor x = leaf(3);
        Tensor loss = new Failing(Functional.gelu(x))
                .forward()
                .add(Functional.tanh(x))
                .sum();
        assertThatThrownBy(loss::backward).hasMessage("test: broken");
    }
}
