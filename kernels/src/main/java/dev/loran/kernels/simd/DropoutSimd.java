package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.getInt;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;

import dev.loran.engine.backend.DropoutMask;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.LongVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorSpecies;

/// Dropout with the counter-based mask of [DropoutMask]: the same bits, computed one row at a time with one bit per
/// element.
///
/// Philox's state is four 32-bit words. Here, each word of several counters is one vector of 64-bit lanes with zero
/// upper halves, because for such lanes processors have a 32 by 32-bit multiplication that keeps all 64 bits.
final class DropoutSimd {
    private static final VectorSpecies<Long> L = LongVector.SPECIES_PREFERRED;

    /// Elements decided by one vector of counters.
    private static final int GROUP = 4 * L.length();

    private static final long LOW = 0xFFFFFFFFL;
    private static final long M0 = 0xD2511F53L;
    private static final long M1 = 0xCD9E8D57L;
    private static final long EVERY_4TH = 0x1111_1111L;
    private static final int W0 = 0x9E3779B9;
    private static final int W1 = 0xBB67AE85;
    private static final LongVector LANES = LongVector.zero(L).addIndex(1);
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG;

    private DropoutSimd() {}

    /// What all elements of a call share.
    record Keep(int step, int site, int k0, int k1, long threshold, float scale) {
        static Keep of(DropoutMask mask) {
            return new Keep(
                    getInt(SimdOperations.i32(mask.microStep()), 0),
                    mask.site(),
                    (int) mask.seed(),
                    (int) (mask.seed() >>> 32),
                    mask.threshold() & LOW,
                    (float) mask.scale());
        }
    }

    /// The number of bytes for the bits of a row of `cols` elements.
    static long rowBytes(int cols) {
        return 8L * Math.ceilDiv(cols, 64);
    }

    /// y ← x · kept / (1 − p) over (rows, cols) (or +=). y may be x when not accumulating. This is also the gradient.
    static void forward(
            Parallel parallel, MemorySegment y, MemorySegment x, int rows, int cols, Keep keep, boolean accumulate) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            MemorySegment bits = parallel.workspace().segment(Slot.MASK, rowBytes(cols));
            for (int i = from; i < to; i++) {
                keepBits(bits, 0, i, cols, keep);
                apply(y, 4L * i * cols, x, 4L * i * cols, bits, 0, cols, keep.scale, accumulate);
            }
        });
    }

    /// Bit j of the row of bits at `at` ← whether element (row, j) is kept: Philox4x32 for the counters (step, site,
    /// row, j / 4), whose four words decide on four elements.
    ///
    /// In the first three rounds, whatever all counters of a row share is computed as a scalar, which saves four of the
    /// six vector multiplications. Everything is in one method, so that the keys of the ten rounds stay in registers
    /// for the whole row. Constants used twice are vectors, because C2 stops inlining once its graph has become too
    /// large.
    static void keepBits(MemorySegment bits, long at, int row, int cols, Keep keep) {
        int k0 = keep.k0 + W0;
        int k1 = keep.k1 + W1;
        long step = M0 * (keep.step & LOW);
        long rows = M1 * (row & LOW);
        long second = M0 * ((rows >>> 32 ^ keep.site ^ keep.k0) & LOW);
        long third = M1 * ((second >>> 32 ^ step ^ k1) & LOW);
        // Scalars to be XORed into vectors: x3 in round one, x0 in round two, y0 and y2 in round three, after which
        // word 1 is `third`.
        long x3 = (step >>> 32 ^ keep.k1) & LOW;
        long x0 = (rows ^ k0) & LOW;
        long y0 = (third >>> 32 ^ (k0 + W0)) & LOW;
        long y2 = (second ^ (k1 + W1)) & LOW;
        LongVector low = LongVector.broadcast(L, LOW);
        // Masked although it is unnecessary, so that C2 recognizes a 32-bit multiplication.
        LongVector m0 = LongVector.broadcast(L, M0).and(low);
        LongVector m1 = LongVector.broadcast(L, M1).and(low);
        for (int j = 0; j < cols; j += 64) {
            long word = 0;
            for (int g = 0; g < 64; g += GROUP) {
                LongVector c1 = LongVector.broadcast(L, third);
                LongVector c3 = LANES.add((j + g) >>> 2)
                        .lanewise(VectorOperators.XOR, x3)
                        .and(low)
                        .mul(m1);
                LongVector c0 = c3.lanewise(VectorOperators.XOR, y0);
                c3 = c3.lanewise(VectorOperators.LSHR, 32)
                        .lanewise(VectorOperators.XOR, x0)
                        .and(low)
                        .mul(m0);
                LongVector c2 = c3.lanewise(VectorOperators.LSHR, 32).lanewise(VectorOperators.XOR, y2);
                for (int round = 3; round < 10; round++) {
                    // `and` clears what products leave in the upper halves.
                    LongVector p0 = c0.and(low).mul(m0);
                    LongVector p1 = c2.and(low).mul(m1);
                    c0 = p1.lanewise(VectorOperators.LSHR, 32)
                            .lanewise(VectorOperators.XOR, c1)
                            .lanewise(VectorOperators.XOR, k0 + (round - 1) * W0 & LOW);
                    c2 = p0.lanewise(VectorOperators.LSHR, 32)
                            .lanewise(VectorOperators.XOR, c3)
                            .lanewise(VectorOperators.XOR, k1 + (round - 1) * W1 & LOW);
                    c1 = p1;
                    c3 = p0;
                }
                LongVector threshold = LongVector.broadcast(L, keep.threshold);
                long bits0 = c0.and(low).compare(VectorOperators.GE, threshold).toLong();
                long bits1 = c1.and(low).compare(VectorOperators.GE, threshold).toLong();
                long bits2 = c2.and(low).compare(VectorOperators.GE, threshold).toLong();
                long bits3 = c3.and(low).compare(VectorOperators.GE, threshold).toLong();
                word |= (Long.expand(bits0, EVERY_4TH)
                                | Long.expand(bits1, EVERY_4TH << 1)
                                | Long.expand(bits2, EVERY_4TH << 2)
                                | Long.expand(bits3, EVERY_4TH << 3))
                        << g;
            }
            bits.set(LONG, at + (j >>> 3), word);
        }
    }

    /// `y ← x · bit · scale` for one row (or +=).
    static void apply(
            MemorySegment y,
            long yo,
            MemorySegment x,
            long xo,
            MemorySegment bits,
            long bo,
            int n,
            float scale,
            boolean accumulate) {
        FloatVector scales = splat(scale);
        int i = 0;
        for (; i < bound(n); i += V) {
            long word = bits.get(LONG, bo + (i >>> 6 << 3)) >>> i;
            VectorMask<Float> keeps = VectorMask.fromLong(Vectors.F, word & ((1L << V) - 1));
            FloatVector kept = splat(0f).blend(load(x, xo + 4L * i).mul(scales), keeps);
            Vectors.put(y, yo + 4L * i, kept, accumulate);
        }
        for (; i < n; i++) {
            boolean keeps = (bits.get(LONG, bo + (i >>> 6 << 3)) >>> i & 1) != 0;
            float kept = keeps ? get(x, xo + 4L * i) * scale : 0f;
            set(y, yo + 4L * i, accumulate ? get(y, yo + 4L * i) + kept : kept);
        }
    }
}
