package dev.loran.engine.backend;

import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;

/// Reference-counted memory of one backend: `size` elements of one dtype. It starts with one reference; releasing the
/// last one ([#release]) frees the memory. A [#slice] shares the count of the buffer it was cut from.
public abstract class Buffer {
    private final Backend backend;
    private final DType dtype;
    private final long size;
    private final @Nullable Buffer root;
    private final AtomicInteger count = new AtomicInteger(1);
    private int version;

    /// A buffer that owns its memory.
    protected Buffer(Backend backend, DType dtype, long size) {
        this.backend = backend;
        this.dtype = dtype;
        this.size = size;
        this.root = null;
    }

    /// A slice of `root` (or of the buffer that `root` itself is a slice of).
    protected Buffer(Buffer root, long size) {
        this.backend = root.backend;
        this.dtype = root.dtype;
        this.size = size;
        this.root = root.owner();
    }

    public final Backend backend() {
        return backend;
    }

    public final DType dtype() {
        return dtype;
    }

    /// Number of elements.
    public final long size() {
        return size;
    }

    /// Number of bytes.
    public final long bytes() {
        return size * dtype.bytes();
    }

    /// False for a prepared weight, whose element order is known only to its backend ([Backend#prepare]).
    public boolean isRowMajor() {
        return true;
    }

    /// Elements `offset` to `offset + size` as a buffer that shares this one's memory and count; nothing is copied and
    /// no reference is taken.
    public abstract Buffer slice(long offset, long size);

    /// Frees the memory; called once, when the last reference is released.
    protected abstract void free();

    /// The number of times the memory was marked as written; shared by all slices.
    public final int version() {
        return owner().version;
    }

    /// Declares the memory written by one more operation.
    public final void markWritten() {
        owner().version++;
    }

    /// Takes the place of `before`, whose version this buffer's never falls below.
    public final void replaces(Buffer before) {
        owner().version = Math.max(version(), before.version());
    }

    private Buffer owner() {
        return root == null ? this : root;
    }

    /// Takes one reference.
    public final Buffer retain() {
        AtomicInteger c = owner().count;
        if (c.getAndIncrement() <= 0) {
            c.decrementAndGet();
            throw new BackendException("buffer: retain after the last release (" + dtype + ", " + size + " elements)");
        }
        return this;
    }

    /// Releases one reference.
    public final void release() {
        Buffer owner = owner();
        int left = owner.count.decrementAndGet();
        if (left == 0) {
            owner.free();
        } else if (left < 0) {
            throw new BackendException(
                    "buffer: released more often than retained (" + dtype + ", " + size + " elements)");
        }
    }

    /// True while any reference is held.
    public final boolean isLive() {
        return owner().count.get() > 0;
    }

    /// True if exactly one reference is held, in which case the holder may overwrite the memory in place.
    public final boolean isUnique() {
        return owner().count.get() == 1;
    }
}
