package dev.loran.kernels.simd;

import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.simd.vector.HollowMemory;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.HashSet;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Set;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/// Native memory that is reused: a released block waits in the list of its size class for the next request, so a
/// training step that has run once at its largest shape takes nothing more from the system.
///
/// There are four size classes per power of two, so a class is at most a quarter larger than the request. If a class
/// has no free block, the smallest free block of up to eight times its size is used, so a step with shorter rows runs
/// in the memory of one with longer rows. Every block starts at a multiple of 64 bytes. The counters refer to the exact
/// sizes requested. Thread-safe.
final class BufferPool implements AutoCloseable {
    /// At any other address, a 512-bit access touches two cache lines.
    private static final long ALIGNMENT = 64;

    /// How many times larger than requested a block may be. The rows of a data set usually differ in length by less
    /// than that, and small requests never occupy huge blocks.
    private static final long REACH = 8;

    /// Memory with its own arena, so that it can be returned to the system individually.
    record Block(Arena arena, MemorySegment memory) {}

    private final NavigableMap<Long, ArrayDeque<Block>> free = new TreeMap<>();
    private final Set<Long> retired = new HashSet<>();
    private final @Nullable HollowMemory hollow;
    private long liveBytes;
    private long peakBytes;
    private long freeBytes;
    private long systemAllocations;
    private boolean closed;

    /// @param hollow source of memory that is never used; null for real memory
    BufferPool(@Nullable HollowMemory hollow) {
        this.hollow = hollow;
    }

    /// Returns a block of at least `bytes` bytes with undefined contents.
    ///
    /// @throws BackendException if the system has no memory left
    synchronized Block take(long bytes) {
        if (hollow != null) {
            count(bytes);
            return new Block(Arena.global(), hollow.segment(bytes));
        }
        long size = sizeClass(bytes);
        Block block = fromFree(size);
        if (block == null) {
            block = fromSystem(bytes, size);
        } else {
            freeBytes -= block.memory.byteSize();
        }
        count(bytes);
        return block;
    }

    private @Nullable Block fromFree(long size) {
        ArrayDeque<Block> own = free.get(size);
        if (own != null && !own.isEmpty()) {
            return own.poll();
        }
        for (Map.Entry<Long, ArrayDeque<Block>> larger :
                free.tailMap(size, false).entrySet()) {
            if (larger.getKey() / REACH > size) {
                break;
            }
            if (!larger.getValue().isEmpty()) {
                return larger.getValue().poll();
            }
        }
        return null;
    }

    private Block fromSystem(long bytes, long size) {
        for (int attempt = 0; ; attempt++) {
            Arena arena = Arena.ofShared();
            try {
                Block block = new Block(arena, arena.allocate(size, ALIGNMENT));
                systemAllocations++;
                return block;
            } catch (OutOfMemoryError e) {
                arena.close();
                if (attempt > 0 || freeBytes == 0) {
                    throw new BackendException(
                            "allocate: no memory for " + bytes + " bytes; live buffers hold " + liveBytes
                                    + ", waiting for reuse are " + freeBytes
                                    + ". Use smaller batches, or give the JVM more with -XX:MaxDirectMemorySize",
                            e);
                }
                trim();
            }
        }
    }

    /// Takes back a block that was requested with `bytes` bytes.
    synchronized void give(Block block, long bytes) {
        uncount(bytes);
        if (hollow != null) {
            return;
        }
        if (retired.remove(block.memory.address()) || closed) {
            block.arena.close();
        } else {
            long size = block.memory.byteSize();
            free.computeIfAbsent(size, s -> new ArrayDeque<>()).push(block);
            freeBytes += size;
        }
    }

    /// Marks the live block at `address`, if there is one, to be returned to the system when it is released; used for a
    /// weight that no other of its size will follow.
    synchronized void retire(long address) {
        retired.add(address);
    }

    /// Counts memory that does not belong to the pool among the live bytes.
    synchronized void count(long bytes) {
        liveBytes += bytes;
        peakBytes = Math.max(peakBytes, liveBytes);
    }

    synchronized void uncount(long bytes) {
        liveBytes -= bytes;
    }

    /// Returns all memory that is waiting for reuse to the system.
    synchronized void trim() {
        for (ArrayDeque<Block> list : free.values()) {
            list.forEach(block -> block.arena.close());
        }
        free.clear();
        freeBytes = 0;
    }

    synchronized long liveBytes() {
        return liveBytes;
    }

    synchronized long peakBytes() {
        return peakBytes;
    }

    synchronized void resetPeak() {
        peakBytes = liveBytes;
    }

    /// The number of times memory was taken from the system.
    synchronized long systemAllocations() {
        return systemAllocations;
    }

    /// As [#trim]; blocks still in use return to the system when they are released.
    @Override
    public synchronized void close() {
        closed = true;
        trim();
    }

    /// The size of the smallest class that holds `bytes`: multiples of 64 up to 256, then quarters of powers of two.
    static long sizeClass(long bytes) {
        long wanted = Math.max(1, bytes);
        int log = 63 - Long.numberOfLeadingZeros(Math.max(256, wanted - 1));
        long step = 1L << (log - 2);
        return (wanted + step - 1) & -step;
    }
}
