package dev.loran.engine;

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
