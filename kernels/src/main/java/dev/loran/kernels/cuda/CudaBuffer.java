package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import org.jspecify.annotations.Nullable;

/// A buffer in GPU memory.
final class CudaBuffer extends Buffer {
    private final long address;
    /// Start address of the block that contains this buffer.
    private final long block;

    private final @Nullable CudaMemory memory;

    CudaBuffer(Backend backend, DType dtype, long size, long address, CudaMemory memory) {
        super(backend, dtype, size);
        this.address = address;
        this.block = address;
        this.memory = memory;
    }

    private CudaBuffer(CudaBuffer root, long size, long address) {
        super(root, size);
        this.address = address;
        this.block = root.block;
        this.memory = null;
    }

    /// Address of the first element, in the device's address space.
    long address() {
        return address;
    }

    /// Address of the allocated block that contains this buffer.
    long block() {
        return block;
    }

    @Override
    public CudaBuffer slice(long offset, long size) {
        if (offset < 0 || size < 0 || offset + size > size()) {
            throw new IndexOutOfBoundsException(
                    "slice: elements " + offset + " to " + (offset + size) + " of a buffer of " + size());
        }
        return new CudaBuffer(this, size, address + offset * dtype().bytes());
    }

    @Override
    protected void free() {
        if (memory != null) {
            memory.give(address, bytes());
        }
    }
}
