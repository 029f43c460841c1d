package dev.loran.kernels.simd.vector;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/// Scratch memory of the kernels: one growing native segment for each thread and purpose.
///
/// A segment is asked for by its [Slot] and is valid until the same thread asks for the same slot again. Sizes are
/// rounded up to powers of two, so after the first call at the largest shape nothing is allocated any more. What a
/// thread that has ended leaves goes to the next new one: there is never more than for the most threads at a time.
public final class Workspace implements AutoCloseable {
    /// What a piece of scratch memory is for. Kernels that call one another use different slots.
    public enum Slot {
        /// Whatever an operation of your own needs it for.
        OWN,
        /// Panels of the right-hand matrix, packed by one call for all its tasks.
        PANELS,
        /// Panels of a low-rank update, alive at the same time as [#PANELS].
        LOW_RANK,
        /// Rows of the left-hand matrix, packed by one task.
        ROWS,
        /// The same transposed, before they are rounded.
        TURNED,
        /// A block of a panel of BF16, widened.
        WIDENED,
        /// A few vectors, where memory has no room for whole ones.
        TILE,
        /// Partial sums of chunks of k.
        PARTIAL,
        /// Bits of a dropout mask.
        MASK,
        /// Blocks of attention.
        ATTENTION,
        /// Sums of the gradients of keys and values.
        KEY_GRADIENTS,
        /// A block of dropout(x), or of what is to be dropped.
        DROPPED,
        /// The gradient of the inner side of a low-rank product.
        LOW_RANK_GRADIENT,
        /// The sums that tasks make of their rows of it.
        LOW_RANK_SUMS
    }

    private static final int SLOTS = Slot.values().length;
    private static final long SMALLEST = 4096;

    /// Where the address is no multiple of 64, a 512-bit access touches two cache lines.
    private static final long ALIGNMENT = 64;

    /// Elements of [#tile]: the largest tile of any product, 8 rows of 3 vectors.
    public static final int TILE = 24 * Vectors.V;

    private final Arena arena = Arena.ofShared();
    private final @Nullable HollowMemory hollow;
    private final ThreadLocal<MemorySegment[]> segments = ThreadLocal.withInitial(this::take);
    private final ThreadLocal<float[]> tiles = ThreadLocal.withInitial(() -> new float[TILE]);

    private final List<Owned> owned = new ArrayList<>();
    private final AtomicLong allocated = new AtomicLong();

    /// The segments of one thread after another.
    private static final class Owned {
        final MemorySegment[] segments = new MemorySegment[SLOTS];
        Thread owner = Thread.currentThread();

        Owned() {
            Arrays.fill(segments, MemorySegment.NULL);
        }
    }

    /// @param hollow where memory comes from that nobody uses; null for real memory
    public Workspace(@Nullable HollowMemory hollow) {
        this.hollow = hollow;
    }

    /// What all threads together have been given since the start, in bytes.
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

    /// At least `bytes` bytes, 64-byte aligned, contents undefined.
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

    /// One tile of a product, contents undefined, until the same thread asks again.
    public float[] tile() {
        return tiles.get();
    }

    /// Frees everything; segments handed out before must not be used afterwards.
    @Override
    public void close() {
        arena.close();
    }
}
