package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.Test;

/// Checkpointed segments: the same bits with less memory.
class CheckpointTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Random random = new Random(7);

    private Tensor leaf(int... dims) {
        return Tensor.randn(backend, DType.F32, random, 1, dims).requiresGrad(true);
    }

    private static double[] grad(Tensor leaf) {
        double[] values = Objects.requireNonNull(leaf.grad()).toDoubles();
        leaf.zeroGrad();
        return values;
    }

    @Test
    void gradientsAreBitEqualAndMemoryIsSaved() {
        try (Scope outer = Scope.open()) {
            Tensor w1 = leaf(33, 7);
            Tensor w2 = leaf(7, 33);
            Tensor x = leaf(5, 7);
            Tensor step = Tensor.ofInts(backend, new int[] {3}, 1);
            DropoutMask mask = new DropoutMask(0.3, 11, 0, step.buffer());
            UnaryOperator<Tensor> block = h -> {
                Tensor inner = Functional.dropout(Functional.gelu(Functional.linear(h, w1, null)), mask);
                // Three paths back to h: the order in which they are added decides the last bit.
                return h.add(Functional.linear(inner, w2, null)).add(h.mul(Functional.tanh(h)));
            };
            long[] kept = new long[2];
            double[][][] gradients = new double[2][][];
            for (int checkpoints = 0; checkpoints < 2; checkpoints++) {
                UnaryOperator<Tensor> layer = checkpoints == 0 ? block : h -> Autograd.checkpoint(block, h);
                long before = backend.liveBytes();
                try (Scope scope = Scope.open()) {
                    Tensor loss;
                    try (Scope inner = Scope.open()) {
                        loss = inner.keep(layer.apply(layer.apply(x)).mean());
                    }
                    kept[checkpoints] = backend.liveBytes() - before;
                    loss.backward();
                }
                gradients[checkpoints] = new double[][] {grad(x), grad(w1), grad(w2)};
                assertThat(backend.liveBytes()).isEqualTo(before);
            }
            for (int i = 0; i < 3; i++) {
                assertThat(gradients[1][i]).containsExactly(gradients[0][i]);
            }
            // The scalar and the input of the second block; the input of the first block belongs to the caller.
            assertThat(kept[1]).isEqualTo(4 + 5 * 7 * 4);
            assertThat(kept[0]).isGreaterThan(4 * kept[1]);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void parametersGetTheirGradientsThoughTheInputWantsNone() {
        try (Scope scope = Scope.open()) {
            Tensor table = leaf(7, 5);
            Tensor ids = Tensor.ofInts(backend, new int[] {3, 1, 3}, 3);
            UnaryOperator<Tensor> segment = i -> Functional.tanh(Functional.embedding(table, i));
            segment.apply(ids).sum().backward();
            double[] expected = grad(table);
            Autograd.checkpoint(segment, ids).sum().backward();
            assertThat(grad(table)).containsExactly(expected);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void segmentsNest() {
        try (Scope scope = Scope.open()) {
            Tensor x = leaf(7);
            Tensor w = leaf(7);
            UnaryOperator<Tensor> inner = h -> Functional.tanh(h.mul(w));
            inner.apply(inner.apply(x)).sum().backward();
            double[] gx = grad(x);
            double[] gw = grad(w);
            Autograd.checkpoint(h -> Autograd.checkpoint(inner, Autograd.checkpoint(inner, h)), x)
                    .sum()
                    .backward();
            assertThat(grad(x)).containsExactly(gx);
            assertThat(grad(w)).containsExactly(gw);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aSegmentThatReturnsItsInput() {
        try (Scope scope = Scope.open()) {
            Tensor x = leaf(3);
            Autograd.checkpoint(h -> h, x.scale(2)).sum().backward();
            assertThat(grad(x)).containsExactly(2, 2, 2);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void severalInputsSomeOfThemConstant() {
        try (Scope scope = Scope.open()) {
            Tensor x = leaf(3);
            Tensor y = leaf(3);
            Tensor constant = Tensor.of(backend, new float[] {1, 2, 3}, 3);
            Autograd.checkpoint(in -> in.get(0).mul(in.get(1)).mul(in.get(2)), List.of(x.scale(1), constant, y))
                    .sum()
                    .backward();
            assertThat(grad(x)).containsExactly(y.mul(constant).toDoubles());
            assertThat(grad(y)).containsExactly(x.mul(constant).toDoubles());
            assertThat(constant.grad()).isNull();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void underNoGradNothingIsKept() {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Tensor x = leaf(3);
            assertThat(Autograd.checkpoint(Functional::gelu, x).requiresGrad()).isFalse();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aSegmentThatThrowsLeaksNothing() {
        try (Scope scope = Scope.open()) {
            Tensor x = leaf(3);
            boolean[] broken = {true};
            UnaryOperator<Tensor> segment = h -> {
                Tensor y = Functional.gelu(h);
                if (broken[0]) {
                    throw new IllegalStateException("test: broken " + y.shape());
                }
                return y;
            };
            int before = backend.liveBuffers();
            assertThatThrownBy(() -> Autograd.checkpoint(segment, x)).hasMessage("test: broken (3)");
            assertThat(backend.liveBuffers()).isEqualTo(before);
            broken[0] = false;
            Tensor loss = Autograd.checkpoint(segment, x).sum();
            broken[0] = true;
            assertThatThrownBy(loss::backward).hasMessage("test: broken (3)");
            assertThat(Autograd.isRecording()).isTrue();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void anInputThatWasWrittenIsRefused() {
        try (Scope scope = Scope.open()) {
            Tensor x = leaf(3);
            Tensor loss = Autograd.checkpoint(Functional::gelu, x).sum();
            x.markWritten();
            assertThatThrownBy(loss::backward).hasMessageContaining("saved by CheckpointOp was written");
        }
        assertThat(backend.liveBuffers()).isZero();
    }
}
