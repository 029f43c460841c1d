package dev.loran.kernels.simd.vector;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/// Scratch memory of the kernels: one growing native segment per thread and purpose.
///
/// A segment is requested by its [Slot] and is valid until the same thread requests the same slot again. Sizes are
/// rounded up to powers of two, so after the first call at the largest shape nothing more is allocated. The segments of
/// a thread that has ended pass to the next new thread, so there are never more than the largest number of simultaneous
/// threads requires.
public final class Workspace implements AutoCloseable {
    /// The purpose of a piece of scratch memory. Kernels that call one another use different slots.
    public enum Slot {
        /// Free for use by custom operations.
        OWN,
        /// Panels of the right-hand matrix, packed by one call for all its tasks.
        PANELS,
        /// Panels of a low-rank update, alive at the same time as [#PANELS].
        LOW_RANK,
        /// Rows of the left-hand matrix, packed by one task.
        ROWS,
        /// The same rows, transposed, before they are rounded.
        TURNED,
        /// A block of a BF16 panel, widened.
        WIDENED,
        /// A few vectors, used where the matrix itself has no room for whole ones.
        TILE,
        /// Partial sums of chunks of k.
        PARTIAL,
        /// Bits of a dropout mask.
        MASK,
        /// Blocks of attention.
        ATTENTION,
        /// Sums of the gradients of keys and values.
        KEY_GRADIENTS,
        /// A block of dropout(x), or of values before dropout.
        DROPPED,
        /// The gradient of the inner side of a low-rank product.
        LOW_RANK_GRADIENT,
        /// Sums over rows for the gradients of low-rank factors, one set per task.
        LOW_RANK_SUMS
    }

    private static final int SLOTS = Slot.values().length;
    private static final long SMALLEST = 4096;

    /// At an address that is not a multiple of 64, a 512-bit access touches two cache lines.
    private static final long ALIGNMENT = 64;

    /// Number of elements of [#tile]: the largest tile of any product, 8 rows of 3 vectors.
    public static final int TILE = 24 * Vectors.V;

    private final Arena arena = Arena.ofShared();
    private final @Nullable HollowMemory hollow;
    private final ThreadLocal<MemorySegment[]> segments = ThreadLocal.withInitial(this::take);
    private final ThreadLocal<float[]> tiles = ThreadLocal.withInitial(() -> new float[TILE]);

    private final List<Owned> owned = new ArrayList<>();
    private final AtomicLong allocated = new AtomicLong();

    /// The segments of one thread, which pass to another when it ends.
    private static final class Owned {
        final MemorySegment[] segments = new MemorySegment[SLOTS];
        Thread owner = Thread.currentThread();

        Owned() {
            Arrays.fill(segments, MemorySegment.NULL);
        }
    }

    /// @param hollow source of memory that is never used; null for real memory
    public Workspace(@Nullable HollowMemory hollow) {
        this.hollow = hollow;
    }

    /// The number of bytes allocated for all threads together since the start.
    public long allocatedBytes() {
        return allocated.get();
    }

    private synchronized MemorySegment[] take() {
        for (Owned left : owned) {
            if (!left.owner.isAlive()) {
                left.owner = Thread.currentThread();
                return left.segments;
            }
        }
        Owned fresh = new Owned();
        owned.add(fresh);
        return fresh.segments;
    }

    /// Returns at least `bytes` bytes, 64-byte aligned, with undefined contents.
    @SuppressWarnings("EnumOrdinal")
    public MemorySegment segment(Slot slot, long bytes) {
        MemorySegment[] mine = segments.get();
        MemorySegment segment = mine[slot.ordinal()];
        if (segment.byteSize() < bytes) {
            long size = Math.max(SMALLEST, Long.highestOneBit(Math.max(1, bytes - 1)) << 1);
            segment = hollow == null ? arena.allocate(size, ALIGNMENT) : hollow.segment(size);
            allocated.addAndGet(size);
            mine[slot.ordinal()] = segment;
        }
        return segment;
    }

    /// Returns memory for one tile of a product, with undefined contents, valid until the same thread asks again.
    public float[] tile() {
        return tiles.get();
    }

    /// Frees everything; segments handed out before must no longer be used.
    @Override
    public void close() {
        arena.close();
    }
}
