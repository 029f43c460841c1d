package dev.loran.kernels.simd;

import dev.loran.engine.backend.ActivationKernels;
import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.gemm.GemmSimd;
import dev.loran.kernels.simd.gemm.Operand;
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
public final class SimdBackend implements Backend {
    private final Parallel parallel;
    private final DType operands;
    private final BufferPool pool;
    /// The memory of a [#hollow] backend.
    private final @Nullable HollowMemory hollow;

    private final LinearKernels linear;
    private final ActivationKernels activation;
    private final NormKernels norm;
    private final AttentionKernels attention;
    private final LossKernels loss;
    private final OptimizerKernels optimizer;

    /// A backend that uses `threads` threads, including the calling one.
    public SimdBackend(int threads) {
        this(threads, DType.F32);
    }

    /// A backend in which the products of linear layers and of attention take operands of type `operands`, F32 or BF16,
    /// and accumulate in F32; everything else is F32. With BF16, [#prepare] rounds the weight permanently, and a
    /// product rounds the other operand. A product with a trainable weight rounds both, provided the weight is at least
    /// 16 x 16 and there are at least as many rows. This holds whether or not the processor can multiply BF16
    /// ([GemmBf16#describe] says how it is done).
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
        this.operands = operands;
        this.parallel = parallel;
        pool = new BufferPool(memory);
        hollow = memory;
        linear = new LinearSimd(this, parallel);
        activation = new ActivationSimd(this, parallel);
        norm = new NormSimd(this, parallel);
        attention = new AttentionSimd(this, parallel);
        loss = new LossSimd(this, parallel);
        optimizer = new OptimizerSimd(this, parallel);
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
            return Backend.super.wrap(dtype, memory, onFree);
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

    /// The memory of a floating-point argument.
    static MemorySegment f32(Buffer b) {
        return memory(b, DType.F32);
    }

    static MemorySegment i32(Buffer b) {
        return memory(b, DType.I32);
    }

    static @Nullable MemorySegment optional(@Nullable Buffer b) {
        return b == null ? null : f32(b);
    }

    static Operand operand(Matrix m) {
        return new Operand(f32(m.buffer()), 0, m.ld(), m.transposed(), m.rows(), m.cols());
    }

    /// The tiles that multiply BF16 operands; null for F32 operands.
    static @Nullable Bf16Tiles tiles(DType operands) {
        return operands == DType.BF16 ? GemmBf16.tiles() : null;
    }

    private static MemorySegment memory(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("simd: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return HostBuffer.segment(b);
    }

    // ---- primitives

    @Override
    public void fill(Buffer y, double value) {
        if (y.dtype() == DType.I32) {
            CopySimd.fillInts(i32(y), y.size(), (int) value);
        } else {
            CopySimd.fill(parallel, f32(y), y.size(), (float) value);
        }
    }

    @Override
    public void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        if (accumulate) {
            CopySimd.addRows(parallel, f32(y), yStride, f32(x), xStride, rows, cols);
        } else {
            CopySimd.copy(
                    parallel,
                    memory(y, x.dtype()),
                    yStride,
                    HostBuffer.segment(x),
                    xStride,
                    rows,
                    cols,
                    x.dtype().bytes());
        }
    }

    @Override
    public void cast(Buffer y, Buffer x) {
        CopySimd.cast(parallel, HostBuffer.segment(y), y.dtype(), HostBuffer.segment(x), x.dtype(), y.size());
    }

    @Override
    public void unary(UnaryFn fn, Buffer y, Buffer x) {
        UnarySimd.forward(parallel, fn, f32(y), f32(x), y.size());
    }

    @Override
    public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        UnarySimd.backward(parallel, fn, f32(dx), f32(dy), f32(x), dx.size(), accumulate);
    }

    @Override
    public void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        BinarySimd.binary(parallel, fn, f32(y), f32(a), f32(b), shape, aStrides, bStrides);
    }

    @Override
    public void axpby(Buffer y, Buffer x, double alpha, double beta) {
        BinarySimd.axpby(parallel, f32(y), f32(x), y.size(), (float) alpha, (float) beta);
    }

    @Override
    public void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        ReductionSimd.sum(parallel, f32(y), f32(x), outer, n, inner, accumulate);
    }

    @Override
    public void rowMax(Buffer y, Buffer x, int rows, int cols) {
        ReductionSimd.rowMax(parallel, f32(y), f32(x), rows, cols);
    }

    @Override
    public void permute(Buffer y, Buffer x, int[] shape, int[] perm) {
        CopySimd.permute(
                parallel,
                memory(y, x.dtype()),
                HostBuffer.segment(x),
                shape,
                perm,
                x.dtype().bytes());
    }

    @Override
    public void gemm(Matrix c, Matrix a, Matrix b, int batch, double alpha, double beta) {
        Matrix.check(c, a, b);
        long[] strides = {c.stride(), a.stride(), b.stride()};
        GemmSimd.gemmBatched(parallel, batch, operand(c), operand(a), operand(b), strides, (float) alpha, (float) beta);
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        if (table instanceof PreparedBuffer p) {
            EmbeddingSimd.forward(parallel, f32(y), p.weight(), i32(ids), n, cols);
        } else {
            EmbeddingSimd.forward(parallel, f32(y), f32(table), i32(ids), n, table.size() / Math.max(1, cols), cols);
        }
    }

    @Override
    public void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols) {
        EmbeddingSimd.backward(parallel, f32(dTable), f32(dy), i32(ids), n, tableRows, cols);
    }

    @Override
    public void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        DropoutSimd.forward(parallel, f32(y), f32(x), rows, cols, DropoutSimd.Keep.of(mask), accumulate);
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        ReductionSimd.countValid(f32(y), i32(ids), n, ignore);
    }

    // ---- kernel families

    @Override
    public LinearKernels linear() {
        return linear;
    }

    @Override
    public ActivationKernels activation() {
        return activation;
    }

    @Override
    public NormKernels norm() {
        return norm;
    }

    @Override
    public AttentionKernels attention() {
        return attention;
    }

    @Override
    public LossKernels loss() {
        return loss;
    }

    @Override
    public OptimizerKernels optimizer() {
        return optimizer;
    }

    /// {@inheritDoc}
    ///
    /// [Parallel]: the worker threads, with scratch memory for each.
    @Override
    public <T> @Nullable T capability(Class<T> type) {
        return type == Parallel.class ? type.cast(parallel) : Backend.super.capability(type);
    }
}
