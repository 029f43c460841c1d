package dev.loran.kernels.cuda;

import dev.loran.engine.BackendException;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;

/// Device memory that is used again: what is given back waits in a list of its size class for the next request, so that
/// a training step, once it has run at its largest shape, asks the driver for nothing (which would wait for the device).
///
/// What is given back may still be read by work that was handed over before; all work goes through one stream, so the
/// next owner's comes later. Classes are four to a power of two up to 64 MiB, multiples of 2 MiB above. The counters
/// speak of the exact sizes asked for. Safe for several threads.
final class CudaMemory implements AutoCloseable {
    /// What cuMemAlloc promises, and more than any access of a kernel needs.
    private static final long SMALLEST = 512;

    private static final long LARGE = 64L << 20;
    private static final long LARGE_STEP = 2L << 20;

    private final CudaDevice device;
    private final Map<Long, ArrayDeque<Long>> free = new HashMap<>();
    private final Set<Long> addresses = new HashSet<>();
    private long liveBytes;
    private long peakBytes;
    private long heldBytes;
    private long freeBytes;
    private boolean closed;

    CudaMemory(CudaDevice device) {
        this.device = device;
    }

    /// The address of at least `bytes` bytes, contents undefined.
    ///
    /// @throws BackendException if the device has none left, even with all that waits for reuse given back
    synchronized long take(long bytes) {
        long size = sizeClass(bytes);
        ArrayDeque<Long> list = free.get(size);
        Long address = list == null ? null : list.poll();
        if (address == null) {
            address = fromDevice(bytes, size);
        } else {
            freeBytes -= size;
        }
        liveBytes += bytes;
        peakBytes = Math.max(peakBytes, liveBytes);
        return address;
    }

    private long fromDevice(long bytes, long size) {
        long address = device.call(() -> device.allocate(size));
        if (address == 0) {
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

    /// Takes back the block at `address`, of which `bytes` bytes had been asked for.
    synchronized void give(long address, long bytes) {
        liveBytes -= bytes;
        if (!closed) {
            long size = sizeClass(bytes);
            free.computeIfAbsent(size, s -> new ArrayDeque<>()).push(address);
            freeBytes += size;
        }
    }

    /// Gives all memory that waits for reuse back to the device.
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

    /// Bytes taken from the device: live, waiting for reuse, or lost to rounding up.
    synchronized long heldBytes() {
        return heldBytes;
    }

    /// Gives everything back to the device, live memory too.
    @Override
    public synchronized void close() {
        if (!closed) {
            closed = true;
            addresses.forEach(address -> device.execute(() -> device.free(address)));
            addresses.clear();
            free.clear();
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
