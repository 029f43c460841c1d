package dev.loran.kernels.simd.vector;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/// What every kernel says in vectors: the species, loads and stores by byte offset, and how loops are cut.
///
/// A kernel's loop runs over whole vectors; the elements left over go through the same vector code one at a time
/// ([#splat], [#setFirst]) or through plain scalar code. No masks: they cost more than a short tail.
public final class Vectors {
    public static final VectorSpecies<Float> F = FloatVector.SPECIES_PREFERRED;
    public static final VectorSpecies<Integer> I = VectorSpecies.of(int.class, F.vectorShape());

    /// Elements of a vector.
    public static final int V = F.length();

    /// Elements that one task of a loop over flat memory takes: enough to pay for the hand-over, and all of a vector.
    public static final int CHUNK = 1 << 14;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();

    /// Slices and mapped files may start anywhere; on aligned memory these cost the same.
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
            // Not by a method of our own: C2 calls such a one where it has not yet seen this branch taken often.
            sum = FloatVector.fromMemorySegment(F, y, at, ByteOrder.nativeOrder())
                    .add(v);
        }
        store(y, at, sum);
    }

    public static FloatVector splat(float value) {
        return FloatVector.broadcast(F, value);
    }

    /// The element at `at` in every lane.
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

    /// The bound of a loop over the whole vectors among `n`: the last one begins right below it. It says more than
    /// their number of elements: no index below it lies beyond the last vector, and so C2 can move the checks of
    /// memory's bounds out of the loop.
    public static int bound(int n) {
        return n - V + 1;
    }

    /// Σ lanes by halves: the order of `reduceLanes` is not specified, and differs between interpreted and compiled
    /// code.
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

    /// What a task does with its part of a flat range.
    @FunctionalInterface
    public interface Range {
        /// Elements `size` from byte offset `at` on.
        void accept(long at, int size);
    }

    /// Cuts `n` floats into chunks, one task each.
    public static void forChunks(Parallel parallel, long n, Range body) {
        parallel.parallelFor(Math.toIntExact(Math.ceilDiv(n, (long) CHUNK)), i -> {
            long from = (long) i * CHUNK;
            body.accept(4 * from, (int) Math.min(CHUNK, n - from));
        });
    }

    /// What a task does with its part of one of several arrays.
    @FunctionalInterface
    public interface Part {
        /// Chunk number `chunk` of all: `size` floats of array `array`, from byte `at` on.
        void accept(int chunk, int array, long at, int size);
    }

    /// Cuts arrays of `sizes` floats into chunks, one task each, counted through all arrays in their order.
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

    /// What a task does with its part of the rows of a matrix.
    @FunctionalInterface
    public interface Rows {
        /// Rows `from` (inclusive) to `to` (exclusive).
        void accept(int from, int to);
    }

    /// Cuts `rows` rows of `cols` elements into tasks of about a chunk.
    public static void forRows(Parallel parallel, int rows, int cols, Rows body) {
        int each = Math.max(1, CHUNK / Math.max(1, cols));
        parallel.parallelFor(Math.ceilDiv(rows, each), i -> body.accept(i * each, Math.min(rows, (i + 1) * each)));
    }
}
