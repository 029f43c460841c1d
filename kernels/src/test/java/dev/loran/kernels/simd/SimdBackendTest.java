package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.UnaryFn;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SimdBackendTest {
    @Test
    void aStepTakesNothingFromTheSystemAfterTheFirst() {
        try (SimdBackend backend = new SimdBackend(2)) {
            step(backend);
            long after = backend.systemAllocations();
            long peak = backend.peakBytes();
            for (int i = 0; i < 5; i++) {
                step(backend);
            }
            assertThat(backend.systemAllocations()).isEqualTo(after).isPositive();
            assertThat(backend.peakBytes()).isEqualTo(peak);
            assertThat(backend.liveBytes()).isZero();
        }
    }

    private static void step(SimdBackend backend) {
        int n = 33 * 64;
        Buffer x = backend.allocate(DType.F32, n);
        Buffer w = backend.allocate(DType.F32, 64 * 64);
        Buffer y = backend.allocate(DType.F32, n);
        Buffer sum = backend.allocate(DType.F32, 1);
        backend.fill(x, 1);
        backend.fill(w, 0.5);
        Matrix rows = new Matrix(y, 33, 64);
        backend.linear().linear(rows, rows.in(x), new Matrix(w, 64, 64), null);
        backend.attention().softmax(y, rows);
        backend.optimizer().sumOfSquares(sum, List.of(y));
        backend.optimizer().clipScale(sum, sum, sum, 1);
        for (Buffer b : new Buffer[] {x, w, y, sum}) {
            b.release();
        }
    }

    @Test
    void mappedFilesAreUsedInPlace(@TempDir Path folder) throws IOException {
        Path file = folder.resolve("weights");
        try (Arena arena = Arena.ofShared();
                SimdBackend backend = new SimdBackend(1)) {
            MemorySegment values = arena.allocate(37 * 4L, 4);
            for (int i = 0; i < 37; i++) {
                values.setAtIndex(ValueLayout.JAVA_FLOAT, i, i);
            }
            Files.write(file, values.toArray(ValueLayout.JAVA_BYTE));
            AtomicInteger freed = new AtomicInteger();
            try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
                MemorySegment mapped = channel.map(FileChannel.MapMode.READ_ONLY, 0, 37 * 4, arena);
                // Starts at the second element, so that the address is not a multiple of a vector.
                MemorySegment part = mapped.asSlice(4);
                Buffer b = backend.wrap(DType.F32, part, freed::incrementAndGet);
                assertThat(HostBuffer.segment(b).address()).isEqualTo(part.address());
                assertThat(HostBuffer.segment(b).isMapped()).isFalse();
                assertThatThrownBy(() -> backend.fill(b, 0)).hasMessageContaining("read-only");
                assertThat(backend.liveBytes()).isEqualTo(36 * 4);
                Buffer y = backend.allocate(DType.F32, 36);
                backend.unary(UnaryFn.NEG, y, b);
                assertThat(KernelCheck.read(y)).startsWith(-1, -2).endsWith(-36);
                y.release();
                assertThat(freed).hasValue(0);
                b.release();
                assertThat(freed).hasValue(1);
                assertThat(backend.liveBytes()).isZero();
            }
        }
    }

    @Test
    void aPreparedWeightReplacesTheRowMajorOne() {
        try (SimdBackend backend = new SimdBackend(2)) {
            double[] values =
                    new Random(5).doubles(65 * 33, -1, 1).map(v -> (float) v).toArray();
            Buffer w = backend.of(DType.F32, values);
            Buffer prepared = backend.prepare(w, 65, 33);
            w.release();
            assertThat(prepared.isRowMajor()).isFalse();
            assertThat(prepared.size()).isEqualTo(65 * 33);
            assertThatThrownBy(() -> prepared.slice(0, 1))
                    .isInstanceOf(BackendException.class)
                    .hasMessage("slice: a prepared weight has no elements in order; restore it first");
            assertThat(backend.prepare(prepared, 65, 33)).isSameAs(prepared);
            prepared.release();
            Buffer restored = backend.restore(prepared, 65, 33);
            assertThat(KernelCheck.read(restored)).containsExactly(values);
            restored.release();
            Buffer ids = backend.ofInts(64, -1, 0);
            Buffer rows = backend.allocate(DType.F32, 33 * 3);
            backend.gatherRows(rows, prepared, ids, 3, 33);
            double[] gathered = KernelCheck.read(rows);
            assertThat(Arrays.copyOf(gathered, 33)).containsExactly(Arrays.copyOfRange(values, 64 * 33, 65 * 33));
            assertThat(Arrays.copyOfRange(gathered, 33, 66)).containsOnly(0);
            assertThat(Arrays.copyOfRange(gathered, 66, 99)).containsExactly(Arrays.copyOf(values, 33));
            ids.release();
            rows.release();
            Buffer x = backend.of(DType.F32, new double[33 * 2]);
            Buffer y = backend.allocate(DType.F32, 65 * 2);
            Matrix weight = new Matrix(prepared, 65, 33);
            backend.linear().linear(new Matrix(y, 2, 65), new Matrix(x, 2, 33), weight, null);
            backend.linear().linearBackwardInput(new Gradient(x, false), new Matrix(y, 2, 65), weight);
            assertThat(KernelCheck.read(x)).containsOnly(0);
            x.release();
            y.release();
            prepared.release();
            assertThat(backend.liveBytes()).isZero();
        }
    }

    @Test
    void heapMemoryIsCopied() {
        try (SimdBackend backend = new SimdBackend(1)) {
            AtomicInteger freed = new AtomicInteger();
            Buffer b = backend.wrap(DType.F32, MemorySegment.ofArray(new float[] {1, 2}), freed::incrementAndGet);
            assertThat(freed).hasValue(1);
            assertThat(KernelCheck.read(b)).containsExactly(1, 2);
            b.release();
        }
    }

    @Test
    void errorsSayWhatToDo() {
        try (SimdBackend backend = new SimdBackend(1)) {
            Buffer f64 = backend.of(DType.F64, 1, 2);
            Buffer f32 = backend.of(DType.F32, 1, 2);
            Buffer ids = backend.ofInts(0, 5);
            assertThatThrownBy(() -> backend.unary(UnaryFn.EXP, f32, f64))
                    .isInstanceOf(DTypeException.class)
                    .hasMessage("simd: a buffer of 2 elements is F64, needs F32; cast it first");
            assertThatThrownBy(() -> backend.gatherRows(f32, f32, ids, 2, 1))
                    .isInstanceOf(BackendException.class)
                    .hasMessage("gatherRows: id 5 does not exist in a table of 2 rows");
            LossKernels.Labels labels = new LossKernels.Labels(ids, -1);
            assertThatThrownBy(() -> backend.loss().crossEntropy(f32, f32, new Matrix(f32, 2, 1), labels))
                    .isInstanceOf(BackendException.class)
                    .hasMessage("crossEntropy: label 5 does not lie in [0, 1)");
            f64.release();
            ids.release();
            f32.release();
            assertThatThrownBy(() -> backend.fill(f32, 0))
                    .isInstanceOf(BackendException.class)
                    .hasMessageContaining("used after its last release");
        }
    }

    @Test
    void emptyBuffersAreLegal() {
        try (SimdBackend backend = new SimdBackend(2)) {
            Buffer empty = backend.allocate(DType.F32, 0);
            Buffer one = backend.allocate(DType.F32, 1);
            backend.fill(empty, 1);
            backend.unary(UnaryFn.EXP, empty, empty);
            backend.attention().softmax(empty, new Matrix(empty, 0, 7));
            backend.sum(one, empty, 1, 0, 1, false);
            assertThat(KernelCheck.read(one)).containsExactly(0);
            empty.release();
            one.release();
        }
    }
}
