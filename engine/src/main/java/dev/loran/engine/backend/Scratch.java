package dev.loran.engine.backend;

import java.util.ArrayList;
import java.util.List;

/// Memory for the length of a block, given back however the block ends: what an operation or a composed kernel needs on
/// the way, and its outputs until somebody has retained them.
///
/// ```java
/// try (Scratch scratch = new Scratch(x.backend())) {
///     Buffer y = scratch.allocate(x.dtype(), x.shape().size());
///     x.backend().unary(UnaryFn.EXP, y, x.buffer());               // if this throws, y is given back
///     return Autograd.record(new ExpOp(x), x.shape(), y.retain());
/// }
/// ```
public final class Scratch implements AutoCloseable {
    private final Backend backend;
    private final List<Buffer> buffers = new ArrayList<>();

    public Scratch(Backend backend) {
        this.backend = backend;
    }

    /// Uninitialised memory until the block ends.
    public Buffer allocate(DType dtype, long size) {
        return hold(backend.allocate(dtype, size));
    }

    /// Uninitialised memory of the dtype and size of `b`.
    public Buffer like(Buffer b) {
        return allocate(b.dtype(), b.size());
    }

    /// Takes over one count of `b`.
    public Buffer hold(Buffer b) {
        buffers.add(b);
        return b;
    }

    @Override
    public void close() {
        buffers.forEach(Buffer::release);
    }
}
