package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.UnaryFn;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// Memory that the backend takes from the device, keeps and returns; and its errors.
class CudaMemoryTest {
    private static final long MIB = 1L << 20;

    private CudaBackend backend;

    @BeforeEach
    void open() {
        backend = StandIn.open();
    }

    @AfterEach
    void close() {
        if (backend != null) {
            backend.close();
        }
    }

    private static double[] elements(Buffer b) {
        try (Tensor t = Tensor.own(Shape.of(Math.toIntExact(b.size())), b.retain())) {
            return t.toDoubles();
        }
    }

    @Test
    void aThousandStepsTakeNothingAfterTheFirst() {
        step();
        long held = backend.heldBytes();
        long peak = backend.peakBytes();
        for (int i = 0; i < 1000; i++) {
            step();
        }
        assertThat(backend.heldBytes()).isEqualTo(held).isPositive();
        assertThat(backend.peakBytes()).isEqualTo(peak);
        assertThat(backend.liveBytes()).isZero();
    }

    private void step() {
        int n = 7 * 33;
        Buffer x = backend.allocate(DType.F32, n);
        Buffer w = backend.allocate(DType.F32, 33 * 33);
        Buffer y = backend.allocate(DType.F32, n);
        Buffer sum = backend.allocate(DType.F32, 1);
        backend.fill(x, 1);
        backend.fill(w, 0.5);
        Matrix rows = new Matrix(y, 7, 33);
        backend.linear().linear(rows, rows.in(x), new Matrix(w, 33, 33), null);
        backend.attention().softmax(y, rows);
        backend.optimizer().sumOfSquares(sum, List.of(y));
        backend.optimizer().clipScale(sum, sum, sum, 1);
        for (Buffer b : new Buffer[] {x, w, y, sum}) {
            b.release();
        }
    }

    @Test
    void trimAndCloseGiveEverythingBack() {
        backend.allocate(DType.F32, 1000).release();
        Buffer live = backend.allocate(DType.F32, 1000);
        backend.allocate(DType.F32, 5000).release();
        assertThat(backend.heldBytes()).isGreaterThan(live.bytes() + 20_000 - 1);
        backend.trim();
        assertThat(backend.heldBytes()).isBetween(live.bytes(), live.bytes() * 5 / 4 + 512);
        live.release();
        backend.close();
        assertThat(backend.heldBytes()).isZero();
        // The device has all its memory back: another backend can take nearly all of it.
        backend = StandIn.open();
        backend.allocate(DType.I8, 500 * MIB).release();
    }

    @Test
    void outOfMemorySaysHowMuchAndLeavesTheProcessUsable() {
        assumeFalse(StandIn.isGpu(), "the sizes are those of the stand-in");
        Buffer first = backend.allocate(DType.I8, 300 * MIB);
        backend.allocate(DType.I8, MIB).release();
        assertThatThrownBy(() -> backend.allocate(DType.I8, 300 * MIB))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: no memory for " + 300 * MIB + " bytes; live buffers hold " + 300 * MIB + ", " + MIB
                        + " that waited for reuse were given back, " + 208 * MIB + " of the device's " + 512 * MIB
                        + " are free. Use smaller batches or shorter sequences");
        assertThat(backend.liveBytes()).isEqualTo(300 * MIB);
        first.release();
        // 300 MiB wait for reuse in another size class, and are returned to the device to make room.
        Buffer larger = backend.allocate(DType.I8, 400 * MIB);
        assertThat(backend.heldBytes()).isEqualTo(400 * MIB);
        larger.release();
        Buffer x = backend.of(DType.F32, 1, -2, 3);
        backend.unary(UnaryFn.NEG, x, x);
        assertThat(elements(x)).containsExactly(-1, 2, -3);
        x.release();
    }

    @Test
    void largeAndSmallCopiesComeBackAsTheyWent() {
        for (int n : new int[] {1, 33, 70_000, 1_000_000}) {
            double[] values = new double[n];
            Arrays.setAll(values, i -> i % 1013 - 500);
            Buffer b = backend.of(DType.F32, values);
            assertThat(elements(b)).isEqualTo(values);
            b.release();
        }
        // More small buffers than the staging memory holds at once.
        Buffer b = backend.allocate(DType.F32, 20_000);
        for (int i = 0; i < 40; i++) {
            double[] values = new double[20_000];
            Arrays.fill(values, i);
            Buffer from = backend.of(DType.F32, values);
            backend.axpby(b, from, 1, i == 0 ? 0 : 1);
            from.release();
        }
        assertThat(Arrays.stream(elements(b)).distinct()).containsExactly(780.0);
        b.release();
    }

    @Test
    void errorsSayWhatToDo() {
        Buffer f32 = backend.of(DType.F32, 1, 2);
        Buffer f16 = backend.allocate(DType.F16, 2);
        Buffer f64 = backend.allocate(DType.F64, 2);
        Buffer ids = backend.ofInts(0, 5);
        assertThatThrownBy(() -> backend.unary(UnaryFn.EXP, f32, f16))
                .isInstanceOf(DTypeException.class)
                .hasMessage("cuda: a buffer of 2 elements is F16, needs F32; cast it first");
        assertThatThrownBy(() -> backend.unary(UnaryFn.EXP, f64, f64))
                .isInstanceOf(DTypeException.class)
                .hasMessage("cuda: a buffer of 2 elements is F64, needs F32, BF16 or F16; cast it first");
        assertThatThrownBy(() -> f32.slice(1, 2)).isInstanceOf(IndexOutOfBoundsException.class);
        try (ReferenceBackend reference = new ReferenceBackend()) {
            Buffer host = reference.of(DType.F32, 1, 2);
            assertThatThrownBy(() -> backend.unary(UnaryFn.EXP, f32, host))
                    .isInstanceOf(BackendException.class)
                    .hasMessageContaining("lies in memory of reference, not of this device; move it first");
            host.release();
        }
        // Errors that only the device detects are reported when a thread waits for it.
        backend.gatherRows(f32, f32, ids, 2, 1);
        assertThatThrownBy(() -> elements(f32))
                .isInstanceOf(BackendException.class)
                .hasMessage("embedding: id 5 does not exist in a table of 2 rows");
        backend.loss().crossEntropy(f32, f32, new Matrix(f32, 2, 1), new LossKernels.Labels(ids, -1));
        assertThatThrownBy(() -> elements(f32))
                .isInstanceOf(BackendException.class)
                .hasMessage("crossEntropy: label 5 does not lie in [0, 1)");
        backend.fill(f32, 3);
        assertThat(elements(f32)).containsExactly(3, 3);
        for (Buffer b : new Buffer[] {f32, f16, f64, ids}) {
            b.release();
        }
        assertThatThrownBy(() -> backend.fill(f32, 0))
                .isInstanceOf(BackendException.class)
                .hasMessageContaining("used after its last release");
    }

    @Test
    void emptyBuffersAreLegal() {
        Buffer empty = backend.allocate(DType.F32, 0);
        Buffer one = backend.allocate(DType.F32, 1);
        backend.fill(empty, 1);
        backend.unary(UnaryFn.EXP, empty, empty);
        backend.attention().softmax(empty, new Matrix(empty, 0, 7));
        backend.sum(one, empty, 1, 0, 1, false);
        assertThat(elements(one)).containsExactly(0);
        assertThat(elements(empty)).isEmpty();
        empty.release();
        one.release();
    }

    @Test
    void sizeClassesWasteAQuarterAtMost() {
        for (long bytes = 1; bytes < 1L << 36; bytes = bytes * 7 / 5 + 1) {
            long size = CudaMemory.sizeClass(bytes);
            assertThat(size).isGreaterThanOrEqualTo(bytes).isLessThanOrEqualTo(bytes * 5 / 4 + 512);
            assertThat(size % 512).isZero();
            assertThat(CudaMemory.sizeClass(size)).isEqualTo(size);
        }
    }
}
