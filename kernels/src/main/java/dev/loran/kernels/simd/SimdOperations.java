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
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// What [SimdBackend] computes: the primitives, and the families of fused kernels.
abstract class SimdOperations implements Backend {
    final Parallel parallel;

    private final LinearKernels linear;
    private final ActivationKernels activation;
    private final NormKernels norm;
    private final AttentionKernels attention;
    private final LossKernels loss;
    private final OptimizerKernels optimizer;

    SimdOperations(Parallel parallel) {
        this.parallel = parallel;
        linear = new LinearSimd(this, parallel);
        activation = new ActivationSimd(this, parallel);
        norm = new NormSimd(this, parallel);
        attention = new AttentionSimd(this, parallel);
        loss = new LossSimd(this, parallel);
        optimizer = new OptimizerSimd(this, parallel);
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

    /// The tiles that multiply two operands of this type; null for F32.
    static @Nullable Bf16Tiles tiles(DType operands) {
        return operands == DType.BF16 ? GemmBf16.productTiles() : null;
    }

    private static MemorySegment memory(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("simd: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return HostBuffer.segment(b);
    }
}
