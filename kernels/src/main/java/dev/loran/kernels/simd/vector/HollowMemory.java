package dev.loran.kernels.simd.vector;

import dev.loran.engine.backend.BackendException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/// Memory for callers that request it but do not use it: all segments are the same, at addresses for which the system
/// has reserved no memory. A stray access is harmless, and finds whatever an earlier one left. Thread-safe.
public final class HollowMemory implements AutoCloseable {
    private static final long SMALLEST = 1 << 20;
    private static final long ALIGNMENT = 64;

    private final Arena arena = Arena.ofShared();
    private MemorySegment largest = MemorySegment.NULL;

    /// Returns `bytes` bytes, 64-byte aligned, valid until this is closed.
    ///
    /// @throws BackendException if the system cannot provide an address range of that size
    public synchronized MemorySegment segment(long bytes) {
        if (largest.byteSize() < bytes) {
            largest = reserve(Math.max(SMALLEST, bytes));
        }
        return largest.asSlice(0, bytes);
    }

    /// The C library allocates large zeroed blocks as pages that the system supplies on first access; Java's own
    /// allocation would touch all of them.
    @SuppressWarnings("restricted")
    private MemorySegment reserve(long bytes) {
        Linker linker = Linker.nativeLinker();
        MethodHandle calloc = linker.downcallHandle(
                linker.defaultLookup().findOrThrow("calloc"),
                FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
        MethodHandle free = linker.downcallHandle(
                linker.defaultLookup().findOrThrow("free"), FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));
        try {
            MemorySegment block = (MemorySegment) calloc.invokeExact(1L, bytes + ALIGNMENT);
            if (block.equals(MemorySegment.NULL)) {
                throw new BackendException("hollow: the system has no addresses for a block of " + bytes + " bytes");
            }
            long skipped = -block.address() & (ALIGNMENT - 1);
            return block.reinterpret(bytes + ALIGNMENT, arena, b -> free(free, b))
                    .asSlice(skipped, bytes);
        } catch (RuntimeException | Error e) {
            throw e;
        } catch (Throwable e) {
            throw new BackendException("hollow: " + e, e);
        }
    }

    private static void free(MethodHandle free, MemorySegment block) {
        try {
            free.invokeExact(block);
        } catch (Throwable e) {
            throw new BackendException("hollow: " + e, e);
        }
    }

    @Override
    public void close() {
        arena.close();
    }
}
