package dev.loran.kernels.cuda;

import dev.loran.engine.BackendException;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;

/// A frozen weight (out, in) for products with BF16 operands: rounded for good, F32 to the outside.
final class CudaWeight extends Buffer {
    private final Buffer rounded;

    /// Takes over one count of `rounded`, BF16 in row-major order.
    CudaWeight(Buffer rounded) {
        super(rounded.backend(), DType.F32, rounded.size());
        this.rounded = rounded;
    }

    Buffer rounded() {
        return rounded;
    }

    @Override
    public boolean isRowMajor() {
        return false;
    }

    @Override
    public Buffer slice(long offset, long size) {
        throw new BackendException("slice: a prepared weight has no elements in order; restore it first");
    }

    @Override
    protected void free() {
        rounded.release();
    }
}
