package dev.loran.kernels.simd;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.simd.gemm.FrozenWeight;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/// A frozen weight (out, in), packed in memory of the pool; its elements cannot be read from outside.
final class PreparedBuffer extends Buffer {
    private final BufferPool pool;
    private final List<Taken> taken = new ArrayList<>(2);
    private final FrozenWeight weight;

    private record Taken(BufferPool.Block block, long bytes) {}

    /// Packs `w`, the row-major weight, either unchanged (F32) or rounded (BF16).
    PreparedBuffer(
            Backend backend, BufferPool pool, Parallel parallel, MemorySegment w, int out, int in, DType operands) {
        super(backend, DType.F32, (long) out * in);
        this.pool = pool;
        weight = new FrozenWeight(parallel, w, out, in, this::take, operands == DType.F32 ? null : GemmBf16.tiles());
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
