package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import java.util.Collection;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Frozen weights on a backend that really packs them.
class PrepareTest {
    private final PackingBackend backend = new PackingBackend();
    private final Scope scope = Scope.open();
    private final Random random = new Random(3);

    @AfterEach
    void nothingIsLeft() {
        scope.close();
        assertThat(backend.liveBuffers()).isZero();
        assertThat(backend.packed()).isZero();
    }

    static Collection<OpCase> withPreparedWeights() {
        return OpCases.all().stream()
                .filter(c -> c.inputs().stream().anyMatch(i -> i.role() == OpCase.Role.PREPARED))
                .toList();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("withPreparedWeights")
    void givesWhatTheRowMajorWeightGives(OpCase c) {
        c.check(backend);
    }

    @Test
    void replacesTheRowMajorCopyAndComesBackBitForBit() {
        Tensor w = Tensor.randn(backend, DType.F32, random, 1, 7, 33);
        double[] before = w.toDoubles();
        Buffer rowMajor = w.buffer();
        long bytes = backend.liveBytes();
        w.prepare();
        assertThat(backend.packed()).isEqualTo(1);
        assertThat(rowMajor.isLive()).isFalse();
        assertThat(backend.liveBytes()).isEqualTo(bytes);
        assertThat(w.toDoubles()).as("readable while packed").containsExactly(before);
        w.prepare();
        assertThat(backend.packed()).as("preparing again does nothing").isEqualTo(1);
        w.restore();
        assertThat(backend.packed()).isZero();
        assertThat(w.buffer().isRowMajor()).isTrue();
        assertThat(w.toDoubles()).containsExactly(before);
    }

    @Test
    void leavesATrainableWeightAlone() {
        Tensor w = Tensor.randn(backend, DType.F32, random, 1, 3, 5).requiresGrad(true);
        w.prepare();
        assertThat(w.buffer().isRowMajor()).isTrue();
    }

    @Test
    void isUndoneByBecomingTrainableAndByWriting() {
        Tensor w = Tensor.randn(backend, DType.F32, random, 1, 3, 5);
        w.prepare();
        w.requiresGrad(true);
        assertThat(w.buffer().isRowMajor()).isTrue();
        w.requiresGrad(false);
        w.prepare();
        Tensor other = Tensor.randn(backend, DType.F32, random, 1, 3, 5);
        w.copyFrom(other);
        assertThat(w.buffer().isRowMajor()).isTrue();
        assertThat(w.toDoubles()).containsExactly(other.toDoubles());
    }

    @Test
    void betweenForwardAndBackwardChangesNothing() {
        Tensor w = Tensor.randn(backend, DType.F64, random, 1, 3, 5);
        Tensor x = Tensor.randn(backend, DType.F64, random, 1, 2, 5).requiresGrad(true);
        Functional.linear(x, w, null).sum().backward();
        double[] expected = Objects.requireNonNull(x.grad()).toDoubles();
        x.zeroGrad();
        Tensor loss = Functional.linear(x, w, null).sum();
        w.prepare();
        loss.backward();
        assertThat(Objects.requireNonNull(x.grad()).toDoubles()).containsExactly(expected);
    }

    @Test
    void aWriteBetweenForwardAndBackwardIsStillSeen() {
        Tensor w = Tensor.randn(backend, DType.F64, random, 1, 3, 5);
        Tensor x = Tensor.randn(backend, DType.F64, random, 1, 2, 5).requiresGrad(true);
        w.prepare();
        Tensor loss = Functional.linear(x, w, null).sum();
        w.copyFrom(Tensor.randn(backend, DType.F64, random, 1, 3, 5));
        w.prepare();
        assertThatThrownBy(loss::backward).hasMessageContaining("saved by LinearOp was written after the forward pass");
    }
}
