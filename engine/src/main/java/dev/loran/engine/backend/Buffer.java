package dev.loran.engine.backend;

import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;

/// Counted memory of one backend: `size` elements of one dtype. It starts with one count; [#release] of the last count
/// gives the memory back. A [#slice] shares the count of the buffer it was cut from.
public abstract class Buffer {
    private final Backend backend;
    private final DType dtype;
    private final long size;
    private final @Nullable Buffer root;
    private final AtomicInteger count = new AtomicInteger(1);
    private int version;

    /// A buffer of its own.
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

    /// False for a prepared weight, whose elements lie in an order known to its backend alone ([Backend#prepare]).
    public boolean isRowMajor() {
        return true;
    }

    /// Elements `offset` to `offset + size` as a buffer that shares this one's memory and count; nothing is copied and
    /// no count is taken.
    public abstract Buffer slice(long offset, long size);

    /// Gives the memory back; called once, when the last count is gone.
    protected abstract void free();

    /// How often the memory was declared written; shared by all slices.
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

    /// Takes one count.
    public final Buffer retain() {
        AtomicInteger c = owner().count;
        if (c.getAndIncrement() <= 0) {
            c.decrementAndGet();
            throw new BackendException("buffer: retain after the last release (" + dtype + ", " + size + " elements)");
        }
        return this;
    }

    /// Gives one count back.
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

    /// True while any count is held.
    public final boolean isLive() {
        return owner().count.get() > 0;
    }

    /// True if exactly one count is held: the holder may overwrite the memory in place.
    public final boolean isUnique() {
        return owner().count.get() == 1;
    }
}
