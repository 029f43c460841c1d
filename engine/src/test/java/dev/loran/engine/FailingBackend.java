package dev.loran.engine;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;

/// A reference backend that runs out of memory on demand.
final class FailingBackend extends ReferenceBackend {
    private int left = Integer.MAX_VALUE;

    /// Makes the allocation after the next `count` fail, once; all allocations before and after it succeed.
    void failAfter(int count) {
        left = count;
    }

    @Override
    public Buffer allocate(DType dtype, long size) {
        if (left-- == 0) {
            throw new BackendException("test: out of memory");
        }
        return super.allocate(dtype, size);
    }
}
