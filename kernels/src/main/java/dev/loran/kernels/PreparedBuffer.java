package dev.loran.kernels;

import dev.loran.engine.Backend;
import dev.loran.engine.BackendException;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
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

    /// Packs `w`, the row-major weight, rounded to BF16 if so `rounded`.
    PreparedBuffer(
            Backend backend, BufferPool pool, Parallel parallel, MemorySegment w, int out, int in, boolean rounded) {
        super(backend, DType.F32, (long) out * in);
        this.pool = pool;
        if (!rounded) {
            weight = new PackedWeight(parallel, w, 0, in, out, in, this::take);
        } else if (GemmBf16.obstacle() == null) {
            weight = new PackedBf16(parallel, w, out, in, this::take);
        } else {
            try (Arena arena = Arena.ofShared()) {
                weight = new PackedWeight(parallel, rounded(arena, parallel, w, out, in), 0, in, out, in, this::take);
            }
        }
    }

    private static MemorySegment rounded(Arena arena, Parallel parallel, MemorySegment w, int out, int in) {
        MemorySegment copy = arena.allocate(4L * out * in, 64);
        parallel.parallelFor(out, j -> {
            for (long i = (long) j * in; i < (j + 1L) * in; i++) {
                int bits = GemmBf16.round(w.get(ValueLayout.JAVA_FLOAT, 4 * i)) << 16;
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
