package dev.loran.engine.backend;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.testing.BackendCase;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// The specification itself, against numbers computed by hand.
class ReferenceBackendTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final List<Buffer> buffers = new ArrayList<>();

    @AfterEach
    void nothingIsLeft() {
        buffers.forEach(Buffer::release);
        assertThat(backend.liveBuffers()).isZero();
        assertThat(backend.liveBytes()).isZero();
    }

    private Buffer hold(Buffer b) {
        buffers.add(b);
        return b;
    }

    private Buffer of(double... values) {
        return hold(backend.of(DType.F64, values));
    }

    private Buffer ints(int... values) {
        return hold(backend.ofInts(values));
    }

    private Buffer empty(DType dtype, int size) {
        return hold(backend.allocate(dtype, size));
    }

    private static double[] elements(Buffer b) {
        double[] values = new double[(int) b.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = HostBuffer.get(HostBuffer.segment(b), b.dtype(), i);
        }
        return values;
    }

    static Collection<BackendCase> promises() {
        return BackendCase.all();
    }

    /// In F32, compared with itself in F64.
    @ParameterizedTest
    @MethodSource("promises")
    void keeps(BackendCase c) {
        c.check(backend);
    }

    // ---- memory

    @Test
    void freshMemoryIsNaNAndAligned() {
        for (DType dtype : List.of(DType.F64, DType.F32, DType.BF16, DType.F16)) {
            Buffer b = empty(dtype, 33);
            assertThat(elements(b)).containsOnly(Double.NaN);
            assertThat(HostBuffer.segment(b).address() % 64).isZero();
        }
    }

    @Test
    void releasedMemoryCannotBeRead() {
        Buffer b = backend.allocate(DType.F32, 3);
        b.release();
        assertThatThrownBy(() -> backend.fill(b, 1))
                .isInstanceOf(BackendException.class)
                .hasMessage("buffer: used after its last release (F32, 3 elements); keep it in a scope or retain it");
    }

    @Test
    void countsBytesAndTheirPeak() {
        Buffer a = backend.allocate(DType.F64, 10);
        Buffer b = backend.allocate(DType.BF16, 10);
        assertThat(backend.liveBytes()).isEqualTo(100);
        a.release();
        assertThat(backend.liveBytes()).isEqualTo(20);
        assertThat(backend.peakBytes()).isEqualTo(100);
        backend.resetPeak();
        assertThat(backend.peakBytes()).isEqualTo(20);
        b.release();
        assertThat(backend.peakBytes()).isEqualTo(20);
    }

    @Test
    void emptyBuffersAreLegal() {
        Buffer none = empty(DType.F32, 0);
        backend.fill(none, 1);
        assertThat(elements(none)).isEmpty();
    }

    @Test
    void wrapsMemoryAndSaysWhenItMayGo() {
        int[] freed = {0};
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment memory = arena.allocate(12, 4);
            MemorySegment.copy(new float[] {1, 2, 3}, 0, memory, ValueLayout.JAVA_FLOAT, 0, 3);
            Buffer b = backend.wrap(DType.F32, memory, () -> freed[0]++);
            assertThat(elements(b)).containsExactly(1, 2, 3);
            b.release();
        }
        assertThat(freed[0]).isEqualTo(1);
    }

    // ---- conversions

    /// BF16 has 8 bits of significand: between 256 and 512 it holds the even numbers.
    @Test
    void castRoundsToNearestEven() {
        Buffer x = of(257, 259, 258.9, -257, 1e39, Double.NaN);
        Buffer bf16 = empty(DType.BF16, 6);
        backend.cast(bf16, x);
        double inf = Double.POSITIVE_INFINITY;
        assertThat(elements(bf16)).containsExactly(256, 260, 258, -256, inf, Double.NaN);
        Buffer f16 = empty(DType.F16, 3);
        backend.cast(f16, of(2049, 2051, 1e5));
        assertThat(elements(f16)).containsExactly(2048, 2052, inf);
        Buffer ints = empty(DType.I32, 2);
        backend.cast(ints, of(3, -4));
        assertThat(elements(ints)).containsExactly(3, -4);
    }

    // ---- reductions and products

    @Test
    void sumsTheMiddle() {
        Buffer y = of(100, 200, 300, 400);
        Buffer x = of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
        backend.sum(y, x, 2, 3, 2, true);
        assertThat(elements(y)).containsExactly(109, 212, 327, 430);
        backend.sum(y, x, 2, 3, 2, false);
        assertThat(elements(y)).containsExactly(9, 12, 27, 30);
    }

    /// (1 2; 3 4) by (5 6; 7 8), in every storage order.
    @Test
    void multiplies() {
        Buffer b = of(5, 6, 7, 8);
        Buffer bT = of(5, 7, 6, 8);
        Buffer a = of(1, 2, 3, 4);
        Buffer aT = of(1, 3, 2, 4);
        for (int flags = 0; flags < 4; flags++) {
            Matrix left = (flags & 1) != 0 ? new Matrix(aT, 2, 2).t() : new Matrix(a, 2, 2);
            Matrix right = (flags & 2) != 0 ? new Matrix(bT, 2, 2).t() : new Matrix(b, 2, 2);
            Buffer c = empty(DType.F64, 4);
            backend.gemm(new Matrix(c, 2, 2), left, right, 1, 0);
            assertThat(elements(c)).containsExactly(19, 22, 43, 50);
            backend.gemm(new Matrix(c, 2, 2), left, right, -1, 2);
            assertThat(elements(c)).containsExactly(19, 22, 43, 50);
        }
    }

    @Test
    void gathersAndScatters() {
        Buffer table = of(1, 2, 3, 4, 5, 6);
        Buffer y = empty(DType.F64, 8);
        Buffer ids = ints(2, -1, 0, 2);
        backend.gatherRows(y, table, ids, 4, 2);
        assertThat(elements(y)).containsExactly(5, 6, 0, 0, 1, 2, 5, 6);
        backend.scatterAddRows(table, of(10, 20, 30, 40, 50, 60, 70, 80), ids, 4, 3, 2);
        assertThat(elements(table)).containsExactly(51, 62, 3, 4, 85, 106);
    }

    @Test
    void anIdOutsideTheTableIsRefused() {
        Buffer table = of(1, 2, 3, 4);
        Buffer y = empty(DType.F64, 2);
        Buffer ids = ints(2);
        assertThatThrownBy(() -> backend.gatherRows(y, table, ids, 1, 2))
                .isInstanceOf(BackendException.class)
                .hasMessage("gatherRows: id 2 does not exist in a table of 2 rows");
        assertThatThrownBy(() -> backend.scatterAddRows(table, y, ids, 1, 2, 2))
                .isInstanceOf(BackendException.class)
                .hasMessage("scatterAddRows: id 2 does not exist in a table of 2 rows");
    }

    @Test
    void takesTheCrossEntropyOfFarLogits() {
        Buffer losses = empty(DType.F64, 2);
        Buffer lse = empty(DType.F64, 2);
        Matrix logits = new Matrix(of(1000, 0, -1000, 0, 0, 0), 2, 3);
        backend.loss().crossEntropy(losses, lse, logits, new LossKernels.Labels(ints(1, 2), -100));
        assertThat(elements(losses)).containsExactly(1000, Math.log(3));
        assertThat(elements(lse)).containsExactly(1000, Math.log(3));
    }

    // ---- optimization

    /// lr 0.1, betas 0.9 and 0.99, eps 0, weight decay 0.5, p 2, g 3, starting from zero moments: the first step moves
    /// p by lr · sign(g) after the decay 2 · (1 − 0.05); the second follows from m = 0.57, v = 0.1791.
    @Test
    void adamWByHand() {
        Buffer p = of(2);
        Buffer m = of(0);
        Buffer v = of(0);
        Buffer lr = of(0.1);
        OptimizerKernels.AdamWStep step = new OptimizerKernels.AdamWStep(lr, ints(1), null, 0.9, 0.99, 0, 0.5);
        backend.optimizer().adamW(List.of(p), List.of(m), List.of(v), List.of(of(3)), step);
        assertThat(elements(m)[0]).isCloseTo(0.3, within(1e-15));
        assertThat(elements(v)[0]).isCloseTo(0.09, within(1e-15));
        assertThat(elements(p)[0]).isCloseTo(1.9 - 0.1, within(1e-15));
        // The gradient 3 is passed as 6 with a scale of one half.
        step = new OptimizerKernels.AdamWStep(lr, ints(2), of(0.5), 0.9, 0.99, 0, 0.5);
        backend.optimizer().adamW(List.of(p), List.of(m), List.of(v), List.of(of(6)), step);
        assertThat(elements(m)[0]).isCloseTo(0.57, within(1e-15));
        assertThat(elements(v)[0]).isCloseTo(0.1791, within(1e-15));
        double mHat = 0.57 / 0.19;
        double vHat = 0.1791 / 0.0199;
        assertThat(elements(p)[0]).isCloseTo(1.8 * 0.95 - 0.1 * mHat / Math.sqrt(vHat), within(1e-14));
    }

    @Test
    void adamWAddsEpsOutsideTheCorrectedRoot() {
        Buffer p = of(0);
        List<Buffer> zero = List.of(of(0));
        OptimizerKernels.AdamWStep step = new OptimizerKernels.AdamWStep(of(1), ints(1), null, 0.9, 0.99, 0.25, 0);
        backend.optimizer().adamW(List.of(p), zero, List.of(of(0)), List.of(of(1)), step);
        assertThat(elements(p)[0]).isCloseTo(-1 / 1.25, within(1e-14));
    }

    @Test
    void sgdByHand() {
        Buffer p = of(2);
        Buffer velocity = of(10);
        Buffer lr = of(0.1);
        // ĝ = 0.5 · 4 + 0.25 · 2 = 2.5; velocity 0.9 · 10 + 2.5 = 11.5; p = 2 − 1.15.
        backend.optimizer().sgd(p, velocity, of(4), lr, of(0.5), 0.9, 0.25);
        assertThat(elements(velocity)[0]).isCloseTo(11.5, within(1e-14));
        assertThat(elements(p)[0]).isCloseTo(0.85, within(1e-14));
        backend.optimizer().sgd(p, null, of(4), lr, null, 0.9, 0);
        assertThat(elements(p)[0]).isCloseTo(0.45, within(1e-14));
    }

    @Test
    void clipScaleByHand() {
        Buffer norm = of(0);
        Buffer scale = of(0);
        Buffer square = of(0);
        backend.optimizer().sumOfSquares(square, List.of(of(3), of(), of(4)));
        assertThat(elements(square)).containsExactly(25);
        backend.optimizer().clipScale(norm, scale, square, 2);
        assertThat(elements(norm)).containsExactly(5);
        assertThat(elements(scale)[0]).isCloseTo(2 / (5 + 1e-6), within(1e-15));
        backend.optimizer().clipScale(square, scale, square, 6);
        assertThat(elements(square)).as("the norm over the memory of the sum").containsExactly(5);
        assertThat(elements(scale)).containsExactly(1);
    }
}
