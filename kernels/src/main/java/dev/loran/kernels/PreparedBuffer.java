package dev.loran.kernels;

import dev.loran.engine.Backend;
import dev.loran.engine.BackendException;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.HostBuffer;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/// A frozen weight (out, in), packed, in memory of the pool; it has no elements that others could read.
final class PreparedBuffer extends Buffer {
    private final BufferPool pool;
    private final List<Taken> taken = new ArrayList<>(2);
    private final FrozenWeight weight;

    private record Taken(BufferPool.Block block, long bytes) {}

    /// How a weight is kept.
    enum Form {
        /// As it is.
        F32,
        /// In BF16, for a processor that multiplies it.
        BF16,
        /// Rounded to BF16 and kept in F32, for one that does not.
        ROUNDED
    }

    /// Packs `w`, the row-major weight.
    PreparedBuffer(Backend backend, BufferPool pool, Parallel parallel, MemorySegment w, int out, int in, Form form) {
        super(backend, DType.F32, (long) out * in);
        this.pool = pool;
        weight = switch (form) {
            case F32 -> new PackedWeight(parallel, w, 0, in, out, in, this::take);
            case BF16 -> new PackedBf16(parallel, w, out, in, this::take);
            case ROUNDED -> {
                try (Arena arena = Arena.ofShared()) {
                    yield new PackedWeight(parallel, rounded(arena, parallel, w, out, in), 0, in, out, in, this::take);
                }
            }
        };
    }

    private static MemorySegment rounded(Arena arena, Parallel parallel, MemorySegment w, int out, int in) {
        MemorySegment copy = arena.allocate(4L * out * in, 64);
        parallel.parallelFor(out, j -> {
            for (long i = (long) j * in; i < (j + 1L) * in; i++) {
                int bits = HostBuffer.toBf16(w.get(ValueLayout.JAVA_FLOAT, 4 * i)) << 16;
                copy.set(ValueLayout.JAVA_INT, 4 * i, bits);
            }
        });
        return copy;
    }

    private MemorySegment take(long bytes) {
        BufferPool.Block block = pool.take(bytes);
        taken.add(new Taken(block, bytes));
        return block.memory();
    }

    FrozenWeight weight() {
        return weight;
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
        for (Taken t : taken) {
            pool.retire(t.block.memory().address());
            pool.give(t.block, t.bytes);
        }
    }
}
