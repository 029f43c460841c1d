package dev.loran.kernels.simd.vector;

import dev.loran.engine.backend.BackendException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/// Memory for who asks for it and does not use it: all segments are one and the same, in addresses for which the system
/// has set nothing aside. A stray access is harmless, and finds whatever another one left. Safe for several threads.
public final class HollowMemory implements AutoCloseable {
    private static final long SMALLEST = 1 << 20;
    private static final long ALIGNMENT = 64;

    private final Arena arena = Arena.ofShared();
    private MemorySegment largest = MemorySegment.NULL;

    /// `bytes` bytes, 64-byte aligned, valid until this is closed.
    ///
    /// @throws BackendException if the system has no addresses for so many
    public synchronized MemorySegment segment(long bytes) {
        if (largest.byteSize() < bytes) {
            largest = reserve(Math.max(SMALLEST, bytes));
        }
        return largest.asSlice(0, bytes);
    }

    /// The C library gives large zeroed blocks as pages that the system supplies when they are first touched; the Java
    /// library would touch them all.
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
