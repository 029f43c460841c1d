package dev.loran.kernels.simd;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.kernels.simd.vector.HollowMemory;
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// F32 on the CPU through the Vector API, on a fixed number of threads; the kernels are in the `…Simd` files, in the
/// order of [Backend]. Needs the module `jdk.incubator.vector`; [dev.loran.kernels.Backends] checks whether it is
/// present.
///
/// The same arguments give the same bits for any number of threads (but not on processors with other vector sizes). Any
/// number of threads may call operations at the same time, each on separate outputs: one of them gets the threads of
/// the pool, and the others do their work on their own thread, with the same bits. Closing must be the last call.
public final class SimdBackend extends SimdOperations {
    private final DType operands;
    private final BufferPool pool;
    /// The memory of a [#hollow] backend.
    private final @Nullable HollowMemory hollow;

    /// A backend that uses `threads` threads, including the calling one.
    public SimdBackend(int threads) {
        this(threads, DType.F32);
    }

    /// A backend in which the products of linear layers and of attention take operands of type `operands`, F32 or BF16,
    /// and accumulate in F32; everything else is F32. With BF16, [#prepare] rounds the weight permanently, to half its
    /// size. If the processor can multiply BF16 ([dev.loran.kernels.Backends#describeBf16]), a product with it rounds
    /// the other operand, too; one with a trainable weight rounds both, provided the weight is at least 16 x 16 and
    /// there are at least as many rows; and so does attention.
    ///
    /// @throws DTypeException for other operands
    public SimdBackend(int threads, DType operands) {
        this(checked(operands), new Parallel(threads), null);
    }

    private static DType checked(DType operands) {
        if (operands != DType.F32 && operands != DType.BF16) {
            throw new DTypeException("simd: operands are F32 or BF16, not " + operands);
        }
        return operands;
    }

    private SimdBackend(DType operands, Parallel parallel, @Nullable HollowMemory memory) {
        super(parallel);
        this.operands = operands;
        pool = new BufferPool(memory);
        hollow = memory;
    }

    /// {@inheritDoc}
    ///
    /// It runs this same code with a thread pool that runs no loops and with memory that does not exist, so an
    /// operation added here is counted correctly without further work.
    @Override
    public Backend hollow() {
        HollowMemory memory = new HollowMemory();
        return new SimdBackend(operands, new Parallel(memory), memory);
    }

    @Override
    public boolean isHollow() {
        return hollow != null;
    }

    // ---- memory

    @Override
    public String name() {
        return "simd";
    }

    @Override
    public boolean supports(DType dtype) {
        return dtype == DType.F32;
    }

    @Override
    public DType operands() {
        return operands;
    }

    @Override
    public Buffer allocate(DType dtype, long size) {
        long bytes = size * dtype.bytes();
        if (hollow != null && !dtype.isFloating()) {
            // Kernels read ids before they run a loop, so ids get real memory.
            pool.count(bytes);
            return new HostBuffer(this, dtype, Arena.ofAuto().allocate(bytes, dtype.bytes()), b -> pool.uncount(bytes));
        }
        BufferPool.Block block = pool.take(bytes);
        return new HostBuffer(this, dtype, block.memory().asSlice(0, bytes), b -> pool.give(block, bytes));
    }

    @Override
    public void write(Buffer dst, MemorySegment src) {
        if (hollow == null || !dst.dtype().isFloating()) {
            HostBuffer.segment(dst).copyFrom(src);
        }
    }

    @Override
    public void read(MemorySegment dst, Buffer src) {
        dst.copyFrom(HostBuffer.segment(src));
    }

    /// {@inheritDoc}
    ///
    /// In place. Mapped memory is presented as plain native memory, because a kernel that sees two kinds of segments
    /// becomes several times slower.
    @Override
    @SuppressWarnings("restricted")
    public Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
        if (!memory.isNative()) {
            return super.wrap(dtype, memory, onFree);
        }
        long bytes = memory.byteSize();
        MemorySegment plain = MemorySegment.ofAddress(memory.address()).reinterpret(bytes);
        pool.count(bytes);
        // Memory that must not be written to has to be marked read-only: a stray write would crash the JVM.
        return new HostBuffer(this, dtype, memory.isReadOnly() ? plain.asReadOnly() : plain, b -> {
            pool.uncount(bytes);
            onFree.run();
        });
    }

    @Override
    public long liveBytes() {
        return pool.liveBytes();
    }

    @Override
    public long peakBytes() {
        return pool.peakBytes();
    }

    @Override
    public void resetPeak() {
        pool.resetPeak();
    }

    /// The number of times memory has been taken from the system so far; it stops growing once a step has run at its
    /// largest shape.
    public long systemAllocations() {
        return pool.systemAllocations();
    }

    /// Returns memory that is waiting for reuse to the system.
    public void trim() {
        pool.trim();
    }

    @Override
    public Buffer prepare(Buffer w, int out, int in) {
        if (w instanceof PreparedBuffer) {
            return w.retain();
        }
        MemorySegment rows = f32(w);
        Buffer prepared = new PreparedBuffer(this, pool, parallel, rows, out, in, operands);
        pool.retire(rows.address());
        return prepared;
    }

    @Override
    public Buffer restore(Buffer prepared, int out, int in) {
        if (!(prepared instanceof PreparedBuffer p)) {
            return prepared.retain();
        }
        Buffer w = allocate(DType.F32, (long) out * in);
        p.weight().unpack(parallel, f32(w), 0, in);
        return w;
    }

    @Override
    public void close() {
        parallel.close();
        pool.close();
        if (hollow != null) {
            hollow.close();
        }
    }
}
