package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import jcuda.driver.CUevent;
import jcuda.driver.JCudaDriver;
import org.jspecify.annotations.Nullable;

/// Page-locked memory for transfers between host and device. Transfers to the device alternate between two halves: one
/// is filled while the device copies from the other. Small transfers to the host each have their own place, so that
/// reading the results of one step does not wait for the next.
final class CudaStaging {
    private static final long HALF = 4 << 20;
    /// Transfers up to this size do not make the caller wait for a free half.
    private static final long SMALL = 256 << 10;

    private static final int PLACES = 32;
    private static final long PLACE = 64;

    private final CudaDevice device;
    private final MemorySegment[] halves = new MemorySegment[2];
    private final CUevent[] emptied = new CUevent[2];
    private MemorySegment outgoing = MemorySegment.NULL;
    private final CUevent[] arrived = new CUevent[PLACES];
    private final @Nullable Reading[] readings = new Reading[PLACES];
    private int half;
    private long used;
    private int place;
    private List<MemorySegment> constants = new ArrayList<>();

    CudaStaging(CudaDevice device) {
        this.device = device;
        if (!device.isHollow()) {
            device.call(this::open);
        }
    }

    /// Waits for all earlier work and releases the memory.
    void close() {
        if (!device.isHollow()) {
            device.call(() -> {
                device.finish();
                free();
                return true;
            });
        }
    }

    // ---- on the owner thread

    private boolean open() {
        for (int i = 0; i < halves.length; i++) {
            halves[i] = device.pinned(HALF);
            emptied[i] = CudaDevice.event(false);
        }
        outgoing = device.pinned(PLACES * PLACE);
        for (int i = 0; i < PLACES; i++) {
            arrived[i] = CudaDevice.event(false);
        }
        return true;
    }

    private void free() {
        for (MemorySegment memory : new MemorySegment[] {halves[0], halves[1], outgoing}) {
            device.unpin(memory);
        }
        for (CUevent[] events : List.of(emptied, arrived)) {
            for (CUevent event : events) {
                JCudaDriver.cuEventDestroy(event);
            }
        }
    }

    /// `bytes` unused bytes of a half.
    private MemorySegment room(long bytes) {
        if (used + bytes > HALF) {
            device.record(emptied[half]);
            half = 1 - half;
            // An event that was never recorded counts as completed.
            CudaDevice.await(emptied[half]);
            used = 0;
        }
        MemorySegment room = halves[half].asSlice(used, bytes);
        used += bytes + 63 & -64;
        return room;
    }

    // ---- on any thread

    synchronized void write(long address, MemorySegment src) {
        long bytes = src.byteSize();
        if (bytes == 0) {
            return;
        }
        if (device.isCapturing()) {
            MemorySegment constant = device.call(() -> device.pinned(bytes));
            constant.copyFrom(src);
            constants.add(constant);
            device.execute(() -> device.copyToDevice(address, constant));
        } else if (bytes <= SMALL) {
            byte[] copy = src.toArray(ValueLayout.JAVA_BYTE);
            device.execute(() -> {
                MemorySegment room = room(bytes);
                room.copyFrom(MemorySegment.ofArray(copy));
                device.copyToDevice(address, room);
            });
        } else {
            for (long from = 0; from < bytes; from += HALF) {
                long at = from;
                long size = Math.min(HALF, bytes - from);
                MemorySegment room = device.call(() -> room(size));
                room.copyFrom(src.asSlice(at, size));
                device.execute(() -> device.copyToDevice(address + at, room));
            }
        }
    }

    synchronized List<MemorySegment> takeConstants() {
        List<MemorySegment> taken = constants;
        constants = new ArrayList<>();
        return taken;
    }

    /// Waits for all work submitted before, and reads.
    synchronized void read(MemorySegment dst, long address) {
        long bytes = dst.byteSize();
        if (bytes == 0) {
            device.synchronize();
        }
        MemorySegment[] arrived = new MemorySegment[1];
        for (long from = 0; from < bytes; from += HALF) {
            long at = from;
            long size = Math.min(HALF, bytes - from);
            device.await(() -> {
                arrived[0] = room(size);
                device.copyToHost(arrived[0], address + at);
                device.record(emptied[half]);
                CudaDevice.await(emptied[half]);
            });
            dst.asSlice(at, size).copyFrom(arrived[0]);
        }
    }

    Supplier<MemorySegment> readLater(long address, long bytes) {
        device.refuseWhileCapturing();
        long[] words = new long[Math.toIntExact((bytes + 7) / 8)];
        MemorySegment result = MemorySegment.ofArray(words).asSlice(0, bytes);
        if (bytes == 0 || bytes > PLACE) {
            read(result, address);
            return () -> result;
        }
        Reading reading = new Reading(address, result);
        device.execute(reading::begin);
        return reading;
    }

    /// A small transfer to the host.
    private final class Reading implements Supplier<MemorySegment> {
        private final long address;
        private final MemorySegment result;
        private int at = -1;
        private boolean done;

        Reading(long address, MemorySegment result) {
            this.address = address;
            this.result = result;
        }

        private void begin() {
            int here = place;
            place = (place + 1) % PLACES;
            Reading before = readings[here];
            if (before != null) {
                // It has not been requested yet, but may still be.
                before.finish();
            }
            readings[here] = this;
            at = here;
            device.copyToHost(memory(), address);
            device.record(arrived[here]);
        }

        private MemorySegment memory() {
            return outgoing.asSlice(at * PLACE, result.byteSize());
        }

        private void finish() {
            if (done) {
                return;
            }
            if (at < 0) {
                throw new BackendException("cuda: the read was never begun, for work before it failed");
            }
            CudaDevice.await(arrived[at]);
            result.copyFrom(memory());
            readings[at] = null;
            done = true;
        }

        @Override
        public MemorySegment get() {
            device.await(this::finish);
            return result;
        }
    }
}
