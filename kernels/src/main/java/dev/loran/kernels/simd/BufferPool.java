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

/// Native memory that is used again: what is given back waits in a list of its size class for the next request, so that
/// a training step, once it has run at its largest shape, takes nothing from the system.
///
/// Classes are four to a power of two, at most a quarter larger than what was asked for; where a class has nothing
/// free, the smallest free block of up to eight times its size does, so that a step with shorter rows lives in the
/// memory of one with longer ones. Every block starts at a multiple of 64 bytes. The counters speak of the exact sizes
/// asked for. Safe for several threads.
final class BufferPool implements AutoCloseable {
    /// A 512-bit access elsewhere touches two cache lines.
    private static final long ALIGNMENT = 64;

    /// How much larger than asked for a block may be. Rows of a data set differ in length by less as a rule, and
    /// nothing small sits on the memory of something huge.
    private static final long REACH = 8;

    /// Memory with an arena of its own, so that it can go back to the system alone.
    record Block(Arena arena, MemorySegment memory) {}

    private final NavigableMap<Long, ArrayDeque<Block>> free = new TreeMap<>();
    private final Set<Long> retired = new HashSet<>();
    private final @Nullable HollowMemory hollow;
    private long liveBytes;
    private long peakBytes;
    private long freeBytes;
    private long systemAllocations;
    private boolean closed;

    /// @param hollow where memory comes from that nobody uses; null for real memory
    BufferPool(@Nullable HollowMemory hollow) {
        this.hollow = hollow;
    }

    /// A block of at least `bytes` bytes, contents undefined.
    ///
    /// @throws BackendException if the system has none left
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

    /// Takes back a block of which `bytes` bytes had been asked for.
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

    /// The live block at `address`, if there is one, goes back to the system when it is given back: a weight that
    /// nothing of its size will follow.
    synchronized void retire(long address) {
        retired.add(address);
    }

    /// Counts memory that is not the pool's own among the live bytes.
    synchronized void count(long bytes) {
        liveBytes += bytes;
        peakBytes = Math.max(peakBytes, liveBytes);
    }

    synchronized void uncount(long bytes) {
        liveBytes -= bytes;
    }

    /// Gives all memory that waits for reuse back to the system.
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

    /// How many times memory was taken from the system.
    synchronized long systemAllocations() {
        return systemAllocations;
    }

    /// As [#trim]; blocks still out go back to the system when they are given back.
    @Override
    public synchronized void close() {
        closed = true;
        trim();
    }

    /// The smallest class that holds `bytes`: multiples of 64 up to 256, then quarters of powers of two.
    static long sizeClass(long bytes) {
        long wanted = Math.max(1, bytes);
        int log = 63 - Long.numberOfLeadingZeros(Math.max(256, wanted - 1));
        long step = 1L << (log - 2);
        return (wanted + step - 1) & -step;
    }
}
