package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import java.util.Arrays;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/// Creating, reading, writing and viewing tensors.
class TensorTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Scope scope = Scope.open();

    @AfterEach
    void nothingIsLeft() {
        scope.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void holdsWhatItWasMadeOf() {
        double[] values = {1, -2, 0.5, 3, 4, 5};
        for (DType dtype : new DType[] {DType.F64, DType.F32, DType.BF16, DType.F16}) {
            Tensor t = Tensor.of(backend, dtype, values, 2, 3);
            assertThat(t.dtype()).isEqualTo(dtype);
            assertThat(t.shape()).isEqualTo(Shape.of(2, 3));
            assertThat(t.toDoubles()).containsExactly(values);
            assertThat(t.toFloats()).containsExactly(1, -2, 0.5f, 3, 4, 5);
        }
        assertThat(Tensor.of(backend, new float[] {1, 2}, 2).toFloats()).containsExactly(1, 2);
        assertThat(Tensor.ofInts(backend, new int[] {7, -1}, 2).toInts()).containsExactly(7, -1);
        assertThat(Tensor.zeros(backend, DType.F32, 2).toDoubles()).containsExactly(0, 0);
        assertThat(Tensor.full(backend, DType.F32, 0.1, 1).item()).isEqualTo((double) 0.1f);
        assertThat(Tensor.empty(backend, DType.F32, 0, 3).toDoubles()).isEmpty();
        assertThat(Tensor.of(backend, DType.F32, values, 2, 3)).hasToString("Tensor(2, 3) F32 on reference");
        assertThat(Tensor.zeros(backend, DType.F32).requiresGrad(true))
                .hasToString("Tensor() F32 on reference, requires grad");
    }

    @Test
    void drawsFromTheDistributionItNames() {
        double[] normal =
                Tensor.randn(backend, DType.F64, new Random(1), 3, 10_000).toDoubles();
        double[] uniform =
                Tensor.uniform(backend, DType.F64, new Random(1), 2, 10_000).toDoubles();
        double squares = 0;
        for (double v : normal) {
            squares += v * v;
        }
        assertThat(Math.sqrt(squares / normal.length)).isCloseTo(3, within(0.1));
        assertThat(Arrays.stream(uniform).min().orElseThrow()).isBetween(-2.0, -1.9);
        assertThat(Arrays.stream(uniform).max().orElseThrow()).isBetween(1.9, 2.0);
    }

    @Test
    void viewsShareMemory() {
        Tensor t = Tensor.of(backend, DType.F32, new double[] {0, 1, 2, 3, 4, 5}, 3, 2);
        long bytes = backend.liveBytes();
        Tensor row = t.slice(0, 1, 3);
        Tensor flat = t.reshape(-1);
        Tensor one = t.reshape(1, 3, 2).slice(1, 2, 3);
        assertThat(backend.liveBytes()).isEqualTo(bytes);
        assertThat(row.toDoubles()).containsExactly(2, 3, 4, 5);
        assertThat(one.toDoubles()).containsExactly(4, 5);
        backend.fill(row.buffer(), 9);
        assertThat(flat.toDoubles()).containsExactly(0, 1, 9, 9, 9, 9);
    }

    @Test
    void permutesAndTransposes() {
        Tensor t = Tensor.of(backend, DType.F32, new double[] {0, 1, 2, 3, 4, 5}, 1, 2, 3);
        assertThat(t.transpose(1, -1).shape()).isEqualTo(Shape.of(1, 3, 2));
        assertThat(t.transpose(1, -1).toDoubles()).containsExactly(0, 3, 1, 4, 2, 5);
        assertThat(t.permute(2, 0, 1).toDoubles()).containsExactly(0, 3, 1, 4, 2, 5);
        assertThat(t.permute(-1, -3, -2).shape()).isEqualTo(Shape.of(3, 1, 2));
    }

    @Test
    void copiesConvert() {
        Tensor t = Tensor.zeros(backend, DType.BF16, 2);
        assertThat(t.copyFrom(Tensor.of(backend, DType.F64, new double[] {257, 0.5}, 2)))
                .isSameAs(t);
        assertThat(t.toDoubles()).containsExactly(256, 0.5);
        assertThat(t.version()).isEqualTo(1);
    }

    @Test
    void assignReplacesShapeMemoryAndGradient() {
        Tensor t = Tensor.full(backend, DType.F32, 2, 3).requiresGrad(true);
        t.sum().backward();
        t.assign(Shape.of(1, 2), backend.of(DType.F32, 7, 8));
        assertThat(t.shape()).isEqualTo(Shape.of(1, 2));
        assertThat(t.toDoubles()).containsExactly(7, 8);
        assertThat(t.grad()).isNull();
        assertThat(t.requiresGrad()).isTrue();
        assertThat(t.version()).isEqualTo(1);
    }

    @Test
    void detachTakesNoPart() {
        Tensor x = Tensor.full(backend, DType.F64, 2, 3).requiresGrad(true);
        x.mul(x.detach()).sum().backward();
        assertThat(Objects.requireNonNull(x.grad()).toDoubles()).containsExactly(2, 2, 2);
    }

    @Test
    void givingUpTheGradientDropsIt() {
        Tensor x = Tensor.full(backend, DType.F64, 2, 3).requiresGrad(true);
        x.sum().backward();
        x.requiresGrad(false);
        assertThat(x.grad()).isNull();
        assertThat(x.requiresGrad()).isFalse();
    }

    @Test
    void emptyTensorsGoThroughTheGraph() {
        Tensor x = Tensor.empty(backend, DType.F64, 0, 3).requiresGrad(true);
        Tensor w = Tensor.full(backend, DType.F64, 1, 5, 3).requiresGrad(true);
        Functional.gelu(Functional.linear(x, w, null)).sum().backward();
        assertThat(Objects.requireNonNull(w.grad()).toDoubles()).hasSize(15).containsOnly(0);
        assertThat(x.mean().item()).as("the mean of nothing").isNaN();
    }
}
