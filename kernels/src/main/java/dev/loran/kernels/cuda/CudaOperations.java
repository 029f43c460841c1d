package dev.loran.kernels.cuda;

import dev.loran.engine.backend.ActivationKernels;
import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.UnaryFn;
import org.jspecify.annotations.Nullable;

/// What [CudaBackend] computes: the primitives, and the families of fused kernels.
abstract class CudaOperations implements Backend {
    final CudaDevice device;
    final CudaMemory memory;
    final CudaContext cuda;
    final CublasProducts products;

    private final LinearKernels linear;
    private final ActivationKernels activation;
    private final NormKernels norm;
    private final AttentionKernels attention;
    private final LossKernels loss;
    private final OptimizerKernels optimizer;

    CudaOperations(CudaDevice device) {
        this.device = device;
        memory = new CudaMemory(device);
        cuda = new CudaContext(this, device, memory);
        products = new CublasProducts(device);
        linear = new LinearCuda(this, cuda);
        activation = new ActivationCuda(this, cuda);
        norm = new NormCuda(this, cuda);
        attention = new AttentionCuda(this, cuda);
        loss = new LossCuda(this, cuda);
        optimizer = new OptimizerCuda(this, cuda);
    }

    // ---- primitives

    @Override
    public void fill(Buffer y, double value) {
        CopyCuda.fill(cuda, y, value);
    }

    @Override
    public void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        CopyCuda.copy(cuda, y, yStride, x, xStride, rows, cols, accumulate);
    }

    @Override
    public void cast(Buffer y, Buffer x) {
        CopyCuda.cast(cuda, y, x);
    }

    @Override
    public void unary(UnaryFn fn, Buffer y, Buffer x) {
        UnaryCuda.forward(cuda, fn, y, x);
    }

    @Override
    public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        UnaryCuda.backward(cuda, fn, dx, dy, x, accumulate);
    }

    @Override
    public void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        BinaryCuda.binary(cuda, fn, y, a, b, shape, aStrides, bStrides);
    }

    @Override
    public void axpby(Buffer y, Buffer x, double alpha, double beta) {
        BinaryCuda.axpby(cuda, y, x, alpha, beta);
    }

    @Override
    public void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        ReductionCuda.sum(cuda, new Gradient(y, accumulate), x, outer, n, inner);
    }

    @Override
    public void rowMax(Buffer y, Buffer x, int rows, int cols) {
        ReductionCuda.rowMax(cuda, y, x, rows, cols);
    }

    @Override
    public void permute(Buffer y, Buffer x, int[] shape, int[] perm) {
        CopyCuda.permute(cuda, y, x, shape, perm);
    }

    @Override
    public void gemm(Matrix c, Matrix a, Matrix b, int batch, double alpha, double beta) {
        products.gemm(cuda, c, a, b, batch, alpha, beta);
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        EmbeddingCuda.forward(cuda, y, table, ids, n, cols);
    }

    @Override
    public void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols) {
        EmbeddingCuda.backward(cuda, dTable, dy, ids, n, tableRows, cols);
    }

    @Override
    public void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        DropoutCuda.forward(cuda, y, x, rows, cols, mask, accumulate);
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        ReductionCuda.countValid(cuda, y, ids, n, ignore);
    }

    // ---- families

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
    /// [CudaContext]: launches user-defined kernels.
    @Override
    public <T> @Nullable T capability(Class<T> type) {
        return type == CudaContext.class ? type.cast(cuda) : Backend.super.capability(type);
    }
}
