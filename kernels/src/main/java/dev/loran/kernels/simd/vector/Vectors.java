package dev.loran.kernels.simd.vector;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/// The vector vocabulary of all kernels: the species, loads and stores by byte offset, and the splitting of loops.
///
/// A kernel's loop runs over whole vectors; the remaining elements go through the same vector code one at a time
/// ([#splat], [#setFirst]) or through plain scalar code. Masks are not used, because they cost more than a short tail.
public final class Vectors {
    public static final VectorSpecies<Float> F = FloatVector.SPECIES_PREFERRED;
    public static final VectorSpecies<Integer> I = VectorSpecies.of(int.class, F.vectorShape());

    /// Number of elements of a vector.
    public static final int V = F.length();

    /// Number of elements per task in a loop over flat memory: enough to pay for handing it over, and a multiple of V.
    public static final int CHUNK = 1 << 14;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();

    /// Slices and mapped files may start at any address; on aligned memory these layouts cost no more.
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;

    private static final VectorShuffle<Float> BY_1 = rotation(1);
    private static final VectorShuffle<Float> BY_2 = rotation(2);
    private static final VectorShuffle<Float> BY_4 = rotation(4);
    private static final VectorShuffle<Float> BY_8 = rotation(8);

    private Vectors() {}

    private static VectorShuffle<Float> rotation(int by) {
        return VectorShuffle.fromOp(F, i -> (i + by) % V);
    }

    public static FloatVector load(MemorySegment s, long at) {
        return FloatVector.fromMemorySegment(F, s, at, ORDER);
    }

    public static void store(MemorySegment s, long at, FloatVector v) {
        v.intoMemorySegment(s, at, ORDER);
    }

    /// y ← v (or +=).
    public static void put(MemorySegment y, long at, FloatVector v, boolean accumulate) {
        FloatVector sum = v;
        if (accumulate) {
            // Not through one of our own methods: C2 does not inline it if it has not yet seen this branch taken often.
            sum = FloatVector.fromMemorySegment(F, y, at, ByteOrder.nativeOrder())
                    .add(v);
        }
        store(y, at, sum);
    }

    public static FloatVector splat(float value) {
        return FloatVector.broadcast(F, value);
    }

    /// Returns a vector with the element at `at` in every lane.
    public static FloatVector splat(MemorySegment s, long at) {
        return FloatVector.broadcast(F, s.get(FLOAT, at));
    }

    public static float get(MemorySegment s, long at) {
        return s.get(FLOAT, at);
    }

    public static void set(MemorySegment s, long at, float value) {
        s.set(FLOAT, at, value);
    }

    /// Stores lane 0.
    public static void setFirst(MemorySegment s, long at, FloatVector v) {
        s.set(FLOAT, at, v.lane(0));
    }

    public static int getInt(MemorySegment s, long at) {
        return s.get(INT, at);
    }

    /// The bound of a loop over the whole vectors among `n` elements: the last vector begins just below it. It says
    /// more than the number of elements in whole vectors: since no index below it lies beyond the last vector, C2 can
    /// hoist the bounds checks out of the loop.
    public static int bound(int n) {
        return n - V + 1;
    }

    /// Σ of the lanes, by halves; the order of `reduceLanes` is unspecified and differs between interpreted and
    /// compiled code.
    public static float sum(FloatVector v) {
        FloatVector s = v;
        if (V > 8) {
            s = s.add(s.rearrange(BY_8));
        }
        if (V > 4) {
            s = s.add(s.rearrange(BY_4));
        }
        s = s.add(s.rearrange(BY_2));
        return s.add(s.rearrange(BY_1)).lane(0);
    }

    /// a · b + c with one rounding.
    public static FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
        return a.fma(b, c);
    }

    /// The work of one task on its part of a flat range.
    @FunctionalInterface
    public interface Range {
        /// Processes `size` elements starting at byte offset `at`.
        void accept(long at, int size);
    }

    /// Splits `n` floats into chunks, one task each.
    public static void forChunks(Parallel parallel, long n, Range body) {
        parallel.parallelFor(Math.toIntExact(Math.ceilDiv(n, (long) CHUNK)), i -> {
            long from = (long) i * CHUNK;
            body.accept(4 * from, (int) Math.min(CHUNK, n - from));
        });
    }

    /// The work of one task on its part of one of several arrays.
    @FunctionalInterface
    public interface Part {
        /// Processes chunk number `chunk`, counted through all arrays: `size` floats of array `array`, starting at byte
        /// `at`.
        void accept(int chunk, int array, long at, int size);
    }

    /// Splits arrays of `sizes` floats into chunks, one task each, numbered through all arrays in order.
    public static void forChunks(Parallel parallel, long[] sizes, Part body) {
        int[] first = new int[sizes.length + 1];
        for (int i = 0; i < sizes.length; i++) {
            first[i + 1] = first[i] + Math.toIntExact(Math.ceilDiv(sizes[i], (long) CHUNK));
        }
        parallel.parallelFor(first[sizes.length], chunk -> {
            int array = 0;
            for (int after = sizes.length; after - array > 1; ) {
                int middle = (array + after) >>> 1;
                if (first[middle] <= chunk) {
                    array = middle;
                } else {
                    after = middle;
                }
            }
            long from = (long) (chunk - first[array]) * CHUNK;
            body.accept(chunk, array, 4 * from, (int) Math.min(CHUNK, sizes[array] - from));
        });
    }

    /// The work of one task on its part of the rows of a matrix.
    @FunctionalInterface
    public interface Rows {
        /// Processes rows `from` (inclusive) to `to` (exclusive).
        void accept(int from, int to);
    }

    /// Splits `rows` rows of `cols` elements into tasks of about one chunk.
    public static void forRows(Parallel parallel, int rows, int cols, Rows body) {
        int each = Math.max(1, CHUNK / Math.max(1, cols));
        parallel.parallelFor(Math.ceilDiv(rows, each), i -> body.accept(i * each, Math.min(rows, (i + 1) * each)));
    }
}
