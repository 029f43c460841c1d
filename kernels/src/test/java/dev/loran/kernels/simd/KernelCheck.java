package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.Tolerance;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.function.Consumer;

/// Runs the same calls on the reference in double precision and on [SimdBackend] with 1, 2 and 4 threads, from the same
/// inputs. The results must agree within the F32 tolerance, and have the same bits for every number of threads.
public final class KernelCheck implements AutoCloseable {
    private final SimdBackend[] backends = {new SimdBackend(1), new SimdBackend(2), new SimdBackend(4)};

    /// What a program gets: a backend and buffers on it.
    static final class Memory {
        private final Backend backend;
        private final DType dtype;
        private final Random random = new Random(42);
        private final List<Buffer> buffers = new ArrayList<>();
        private final Map<String, Buffer> outputs = new LinkedHashMap<>();

        private Memory(Backend backend, DType dtype) {
            this.backend = backend;
            this.dtype = dtype;
        }

        Backend backend() {
            return backend;
        }

        DType dtype() {
            return dtype;
        }

        /// Elements from N(0, 1), rounded to F32.
        Buffer in(long n) {
            return in(n, 1, 0);
        }

        /// Elements from N(mean, scale²), rounded to F32.
        Buffer in(long n, double scale, double mean) {
            return filled(n, () -> (float) (random.nextGaussian() * scale + mean));
        }

        /// Elements from U(low, high), rounded to F32.
        Buffer between(long n, double low, double high) {
            return filled(n, () -> (float) random.nextDouble(low, high));
        }

        Buffer of(double... values) {
            int[] next = {0};
            return filled(values.length, () -> (float) values[next[0]++]);
        }

        /// A packed frozen weight.
        Buffer prepared(Buffer w, int rows, int cols) {
            return keep(backend.prepare(w, rows, cols));
        }

        Buffer ints(int... values) {
            return keep(backend.ofInts(values));
        }

        /// An output filled with NaN.
        Buffer out(String name, long n) {
            Buffer b = filled(n, () -> Double.NaN);
            outputs.put(name, b);
            return b;
        }

        /// An output: filled with NaN if it is to be overwritten, with numbers if it is to be added to.
        Buffer out(String name, long n, boolean accumulate) {
            if (!accumulate) {
                return out(name, n);
            }
            Buffer b = in(n);
            outputs.put(name, b);
            return b;
        }

        /// A buffer that is changed in place.
        Buffer changed(String name, Buffer b) {
            outputs.put(name, b);
            return b;
        }

        private interface Source {
            double next();
        }

        private Buffer filled(long n, Source source) {
            Buffer b = keep(backend.allocate(dtype, n));
            MemorySegment s = HostBuffer.segment(b);
            for (long i = 0; i < n; i++) {
                HostBuffer.set(s, dtype, i, source.next());
            }
            return b;
        }

        private Buffer keep(Buffer b) {
            buffers.add(b);
            return b;
        }

        private Map<String, double[]> results() {
            Map<String, double[]> results = new LinkedHashMap<>();
            outputs.forEach((name, b) -> results.put(name, read(b)));
            buffers.forEach(Buffer::release);
            return results;
        }
    }

    public static double[] read(Buffer b) {
        double[] values = new double[Math.toIntExact(b.size())];
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment s = arena.allocate(Math.max(1, b.bytes()), 8).asSlice(0, b.bytes());
            b.backend().read(s, b);
            for (int i = 0; i < values.length; i++) {
                values[i] = HostBuffer.get(s, b.dtype(), i);
            }
        }
        return values;
    }

    void agree(String what, Consumer<Memory> program) {
        agree(what, Tolerance.of(DType.F32), program);
    }

    void agree(String what, Tolerance tolerance, Consumer<Memory> program) {
        Map<String, double[]> expected;
        try (ReferenceBackend reference = new ReferenceBackend()) {
            expected = run(reference, DType.F64, program);
        }
        assertThat(expected).as(what + ": outputs").isNotEmpty();
        Map<String, double[]> first = Map.of();
        for (SimdBackend backend : backends) {
            Map<String, double[]> actual = run(backend, DType.F32, program);
            expected.forEach((name, values) ->
                    tolerance.check(what + ": " + name, values, Objects.requireNonNull(actual.get(name))));
            if (!first.isEmpty()) {
                first.forEach(
                        (name, values) -> assertThat(Arrays.mismatch(values, Objects.requireNonNull(actual.get(name))))
                                .as(what + ": first element of " + name + " that differs for another number of threads")
                                .isEqualTo(-1));
            }
            first = actual;
            assertThat(backend.liveBytes()).as(what + ": bytes still live").isZero();
        }
    }

    private static Map<String, double[]> run(Backend backend, DType dtype, Consumer<Memory> program) {
        Memory memory = new Memory(backend, dtype);
        program.accept(memory);
        return memory.results();
    }

    @Override
    public void close() {
        for (SimdBackend backend : backends) {
            backend.close();
        }
    }
}
