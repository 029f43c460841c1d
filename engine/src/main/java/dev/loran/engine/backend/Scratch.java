package dev.loran.engine.backend;

import java.util.ArrayList;
import java.util.List;

/// Temporary memory, released at the end of the block however the block ends: working memory of an operation or a
/// composed kernel, and its outputs until they have been retained.
///
/// ```java
/// try (Scratch scratch = new Scratch(x.backend())) {
///     Buffer y = scratch.allocate(x.dtype(), x.shape().size());
///     x.backend().unary(UnaryFn.EXP, y, x.buffer());               // if this throws, y is released
///     return Autograd.record(new ExpOp(x), x.shape(), y.retain());
/// }
/// ```
public final class Scratch implements AutoCloseable {
    private final Backend backend;
    private final List<Buffer> buffers = new ArrayList<>();

    public Scratch(Backend backend) {
        this.backend = backend;
    }

    /// Allocates uninitialized memory that lives until the block ends.
    public Buffer allocate(DType dtype, long size) {
        return hold(backend.allocate(dtype, size));
    }

    /// Allocates uninitialized memory of the dtype and size of `b`.
    public Buffer like(Buffer b) {
        return allocate(b.dtype(), b.size());
    }

    /// Takes over one reference to `b`.
    public Buffer hold(Buffer b) {
        buffers.add(b);
        return b;
    }

    @Override
    public void close() {
        buffers.forEach(Buffer::release);
    }
}
