package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import org.jspecify.annotations.Nullable;

/// Memory of a GPU.
final class CudaBuffer extends Buffer {
    private final long address;
    /// Where the block begins that this is a part of.
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

    /// Where the first element lies, in the device's address space.
    long address() {
        return address;
    }

    /// The address of the block that this lies in, as it was allocated.
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
