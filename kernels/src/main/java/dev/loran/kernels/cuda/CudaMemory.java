package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/// Caching allocator for device memory: a released block waits in a list of its size class for the next request. Once a
/// training step has run at its largest shape, it therefore requests nothing from the driver (which would wait for the
/// device).
///
/// A released block may still be read by work submitted before; as all work goes through one stream, the next owner's
/// work runs later. Blocks that recorded work allocates are reserved for recorded work, which writes to them whenever
/// it is replayed; replays run one after another, so that all of them share these blocks. There are four classes per
/// power of two up to 64 MiB, and multiples of 2 MiB above. The counters report the exact sizes requested. Thread-safe.
final class CudaMemory implements AutoCloseable {
    /// The alignment that cuMemAlloc guarantees, which is more than any kernel access needs.
    private static final long SMALLEST = 512;

    private static final long LARGE = 64L << 20;
    private static final long LARGE_STEP = 2L << 20;

    private final CudaDevice device;
    private final Map<Long, ArrayDeque<Long>> free = new HashMap<>();
    private final Set<Long> addresses = new HashSet<>();
    /// The reserved blocks, and those of them that are free while more work is recorded.
    private final Set<Long> reserved = new HashSet<>();

    private final Map<Long, ArrayDeque<Long>> freeReserved = new HashMap<>();
    private final Set<Recording> recordings = new HashSet<>();
    private volatile @Nullable Recording current;
    private long liveReserved;
    private long liveBytes;
    private long peakBytes;
    private long heldBytes;
    private long freeBytes;
    private boolean closed;

    /// The memory that recorded work uses but does not own: releasing any of it invalidates the recording.
    static final class Recording {
        private final Set<Long> uses = new HashSet<>();
        private final Thread by = Thread.currentThread();
        private volatile boolean lost;

        boolean isLost() {
            return lost;
        }
    }

    CudaMemory(CudaDevice device) {
        this.device = device;
    }

    // ---- recording

    synchronized Recording beginRecording() {
        if (current != null) {
            throw new BackendException("cuda: a step is being recorded already");
        }
        Recording recording = new Recording();
        recordings.add(recording);
        current = recording;
        liveReserved = 0;
        return recording;
    }

    /// Ends the recording; returns how many bytes allocated during it are still live.
    synchronized long endRecording() {
        current = null;
        return liveReserved;
    }

    /// Notes that the work being recorded, if any, uses the block at `address`.
    void use(long address) {
        Recording recording = current;
        if (recording != null) {
            synchronized (this) {
                if (!reserved.contains(address)) {
                    recording.uses.add(address);
                }
            }
        }
    }

    /// Drops recorded work; once none is left, the reserved blocks become available to all requests.
    synchronized void drop(Recording recording) {
        recording.lost = true;
        if (current == recording) {
            current = null;
        }
        if (recordings.remove(recording) && recordings.isEmpty()) {
            freeReserved.forEach((size, list) -> {
                freeBytes += size * list.size();
                free.computeIfAbsent(size, s -> new ArrayDeque<>()).addAll(list);
            });
            freeReserved.clear();
            reserved.clear();
        }
    }

    /// The address of a block of at least `bytes` bytes, with undefined contents.
    ///
    /// @throws BackendException if the device has none left, even after releasing all memory that waits for reuse
    synchronized long take(long bytes) {
        if (current != null && current.by != Thread.currentThread()) {
            throw new BackendException("cuda: thread " + current.by.getName()
                    + " is recording a training step; no other" + " thread may use this backend meanwhile");
        }
        long size = sizeClass(bytes);
        ArrayDeque<Long> list = free.get(size);
        Long address = null;
        if (current != null) {
            ArrayDeque<Long> own = freeReserved.get(size);
            address = own == null ? null : own.poll();
            liveReserved += bytes;
        }
        if (address == null) {
            address = list == null ? null : list.poll();
            if (address == null) {
                address = fromDevice(bytes, size);
            } else {
                freeBytes -= size;
            }
            if (current != null) {
                reserved.add(address);
            }
        }
        liveBytes += bytes;
        peakBytes = Math.max(peakBytes, liveBytes);
        return address;
    }

    private long fromDevice(long bytes, long size) {
        long address = device.call(() -> device.allocate(size));
        if (address == 0) {
            if (current == null) {
                for (Recording recording : List.copyOf(recordings)) {
                    drop(recording);
                }
            }
            long waiting = freeBytes;
            trim();
            address = device.call(() -> device.allocate(size));
            if (address == 0) {
                long[] memory = device.call(device::memory);
                throw new BackendException("cuda: no memory for " + bytes + " bytes; live buffers hold " + liveBytes
                        + ", " + waiting + " that waited for reuse were given back, " + memory[0] + " of the device's "
                        + memory[1] + " are free. Use smaller batches or shorter sequences");
            }
        }
        addresses.add(address);
        heldBytes += size;
        return address;
    }

    /// Takes back the block at `address`, for which `bytes` bytes had been requested.
    synchronized void give(long address, long bytes) {
        liveBytes -= bytes;
        if (!closed) {
            long size = sizeClass(bytes);
            if (reserved.contains(address)) {
                freeReserved.computeIfAbsent(size, s -> new ArrayDeque<>()).push(address);
                liveReserved -= bytes;
                return;
            }
            for (Recording recording : recordings) {
                if (recording.uses.contains(address)) {
                    recording.lost = true;
                }
            }
            free.computeIfAbsent(size, s -> new ArrayDeque<>()).push(address);
            freeBytes += size;
        }
    }

    /// Returns all memory that waits for reuse to the device.
    synchronized void trim() {
        free.forEach((size, list) -> list.forEach(address -> {
            device.execute(() -> device.free(address));
            addresses.remove(address);
            heldBytes -= size;
        }));
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

    /// Bytes allocated from the device: live, waiting for reuse, or lost to rounding up.
    synchronized long heldBytes() {
        return heldBytes;
    }

    /// Returns everything to the device, including live memory.
    @Override
    public synchronized void close() {
        if (!closed) {
            closed = true;
            addresses.forEach(address -> device.execute(() -> device.free(address)));
            addresses.clear();
            free.clear();
            freeReserved.clear();
            reserved.clear();
            recordings.forEach(recording -> recording.lost = true);
            recordings.clear();
            heldBytes = 0;
            freeBytes = 0;
        }
    }

    /// The smallest class that holds `bytes`.
    static long sizeClass(long bytes) {
        long wanted = Math.max(SMALLEST, bytes);
        int log = 63 - Long.numberOfLeadingZeros(wanted - 1);
        long step = wanted > LARGE ? LARGE_STEP : Math.max(SMALLEST, 1L << Math.max(0, log - 2));
        return (wanted + step - 1) / step * step;
    }
}
