package dev.loran.kernels.cuda;

import dev.loran.engine.Backend;
import dev.loran.engine.BackendException;
import dev.loran.engine.BinaryFn;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DTypeException;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.UnaryFn;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// F32, BF16 and F16 on one NVIDIA GPU: products by cuBLAS, everything else by the kernels of `src-cuda`; their launchers
/// are the `…Cuda` files. BF16 and F16 are storage: every kernel and product computes and adds up in F32.
///
/// Operations return when they are handed over; [#read] waits for them, and throws what went wrong on the way: an id or
/// a label out of range is complained about there, not at the call. The same arguments give the same bits on the same
/// kind of GPU.
///
/// Any number of threads may call operations at a time, each on outputs of its own: all go through one stream, those of a
/// thread in its order, to the same bits. While one thread records a step ([#capture]) the calls of others fail. What went
/// wrong is told to the thread that next reads or hands over work, which need not be the one that was wrong. Closing must be
/// the last call.
public final class CudaBackend implements Backend {
    private final CudaDevice device;
    private final CudaMemory memory;
    private final String description;
    private final DType operands;

    private CudaBackend(CudaDevice device, String description, DType operands) {
        this.device = device;
        this.description = description;
        this.operands = operands;
        memory = new CudaMemory(device);
    }

    private static CudaBackend open(CudaLibraries libraries, int ordinal, DType operands) {
        if (operands != DType.F32 && operands != DType.BF16) {
            throw new DTypeException("cuda: operands are F32 or BF16, not " + operands);
        }
        CudaDevice device = new CudaDevice(ordinal);
        String description = device.name() + ", " + libraries.cublas().describe();
        CudaBackend backend = new CudaBackend(device, description, operands);
        backend.allowTf32(operands == DType.BF16);
        return backend;
    }

    /// GPU number `ordinal`, counted from 0, for models of which weights and activations are of type `operands`, F32 or BF16
    /// ([#storage]). With BF16, the products of F32 that there are beside may be of TF32 ([#allowTf32]).
    ///
    /// @throws BackendException saying what is missing and what to do about it
    public static CudaBackend open(int ordinal, DType operands) {
        return open(CudaLibraries.load(), ordinal, operands);
    }

    /// The CPU stand-in for tests, built from `src-cuda/standin` into `folder`. It runs the same kernels and knows nothing
    /// of a GPU; [dev.loran.kernels.Backends] never picks it. A process that has opened it cannot open a GPU any more.
    public static CudaBackend standIn(Path folder, DType operands) {
        return open(CudaLibraries.loadStandIn(folder), 0, operands);
    }

    /// {@inheritDoc}
    ///
    /// This very code over a device that does no work: an operation added here is counted right without being told.
    @Override
    public Backend hollow() {
        return new CudaBackend(CudaDevice.hollow(), description, operands);
    }

    @Override
    public boolean isHollow() {
        return device.isHollow();
    }

    /// The device and the cuBLAS in use, for people.
    public String describe() {
        return description;
    }

    /// Whether F32 products may round their operands to TF32 (ten bits of fraction), which is several times as fast;
    /// allowed at first where operands are BF16, which are coarser still.
    public void allowTf32(boolean allowed) {
        device.products().allowTf32(allowed);
    }

    // ---- memory

    @Override
    public String name() {
        return "cuda";
    }

    @Override
    public boolean supports(DType dtype) {
        return dtype == DType.F32 || dtype == DType.BF16 || dtype == DType.F16;
    }

    @Override
    public DType operands() {
        return operands;
    }

    @Override
    public DType storage() {
        return operands;
    }

    @Override
    public Buffer allocate(DType dtype, long size) {
        return new CudaBuffer(this, dtype, size, memory.take(size * dtype.bytes()), memory);
    }

    @Override
    public void write(Buffer dst, MemorySegment src) {
        checkBytes("write", dst, src);
        if (isHollow()) {
            return;
        }
        device.staging().write(address(dst), src);
    }

    @Override
    public void read(MemorySegment dst, Buffer src) {
        checkBytes("read", src, dst);
        if (isHollow()) {
            dst.fill((byte) 0);
            return;
        }
        device.staging().read(dst, address(src));
    }

    @Override
    public Supplier<MemorySegment> readLater(Buffer src) {
        if (isHollow()) {
            return Backend.super.readLater(src);
        }
        return device.staging().readLater(address(src), src.bytes());
    }

    private static void checkBytes(String op, Buffer b, MemorySegment s) {
        if (b.bytes() != s.byteSize()) {
            throw new BackendException(
                    "cuda: " + op + ": the buffer has " + b.bytes() + " bytes, the segment " + s.byteSize());
        }
    }

    @Override
    public long liveBytes() {
        return memory.liveBytes();
    }

    @Override
    public long peakBytes() {
        return memory.peakBytes();
    }

    @Override
    public void resetPeak() {
        memory.resetPeak();
    }

    /// Bytes taken from the device: live, waiting for reuse, or lost to rounding up; it stands still once a step has run
    /// at its largest shape.
    public long heldBytes() {
        return memory.heldBytes();
    }

    /// Bytes of memory that the device has.
    public long totalBytes() {
        return device.call(device::memory)[1];
    }

    /// Gives memory that waits for reuse back to the device.
    public void trim() {
        memory.trim();
    }

    /// How often the driver was handed work so far: each launch, product or copy counts, and so does a replay of however many.
    public long submissions() {
        return device.submissions();
    }

    /// Milliseconds of the device, by its own clock, for what `work` hands over; waits for it.
    public double milliseconds(Runnable work) {
        return device.milliseconds(work);
    }

    // ---- recorded work

    @Override
    public boolean captures() {
        return true;
    }

    /// {@inheritDoc}
    ///
    /// As a CUDA graph. Memory that `step` allocates stays set aside for recorded steps, which share it, until the last of
    /// them is closed; where memory runs out they are given up first.
    @Override
    public Replay capture(Runnable step) {
        if (isHollow()) {
            step.run();
            return new Replay() {
                @Override
                public boolean run() {
                    return true;
                }

                @Override
                public void close() {}
            };
        }
        return CudaGraph.of(device, memory, step);
    }

    /// Waits for all work, then gives everything back to the device, live buffers too.
    @Override
    public void close() {
        memory.close();
        device.close();
    }

    // ---- for launchers

    CudaDevice device() {
        return device;
    }

    /// Where `b` lies on the device.
    long address(Buffer b) {
        if (!(b instanceof CudaBuffer c) || b.backend() != this) {
            throw new BackendException("cuda: a buffer of " + b.size() + " elements of " + b.dtype()
                    + " lies in memory of " + b.backend().name() + ", not of this device; move it first");
        }
        if (!b.isLive()) {
            throw new BackendException("buffer: used after its last release (" + b.dtype() + ", " + b.size()
                    + " elements); keep it in a scope or retain it");
        }
        memory.use(c.block());
        return c.address();
    }

    /// As [#address(Buffer)], of a buffer that must be of `dtype`.
    long address(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return address(b);
    }

    /// As [#address(Buffer, DType)]; 0 for none.
    long optional(@Nullable Buffer b, DType dtype) {
        return b == null ? 0 : address(b, dtype);
    }

    /// The type of `b`, one that kernels compute with.
    static DType floating(Buffer b) {
        if (!b.dtype().isFloating() || b.dtype() == DType.F64) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype()
                    + ", needs F32, BF16 or F16; cast it first");
        }
        return b.dtype();
    }

    // ---- primitives

    @Override
    public void fill(Buffer y, double value) {
        CopyCuda.fill(this, y, value);
    }

    @Override
    public void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        CopyCuda.copy(this, y, yStride, x, xStride, rows, cols, accumulate);
    }

    @Override
    public void cast(Buffer y, Buffer x) {
        CopyCuda.cast(this, y, x);
    }

    @Override
    public void unary(UnaryFn fn, Buffer y, Buffer x) {
        UnaryCuda.forward(this, fn, y, x);
    }

    @Override
    public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        UnaryCuda.backward(this, fn, dx, dy, x, accumulate);
    }

    @Override
    public void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        BinaryCuda.binary(this, fn, y, a, b, shape, aStrides, bStrides);
    }

    @Override
    public void axpby(Buffer y, Buffer x, double alpha, double beta) {
        BinaryCuda.axpby(this, y, x, alpha, beta);
    }

    @Override
    public void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        ReductionCuda.sum(this, y, x, outer, n, inner, accumulate);
    }

    @Override
    public void rowMax(Buffer y, Buffer x, int rows, int cols) {
        ReductionCuda.rowMax(this, y, x, rows, cols);
    }

    @Override
    public void permute(Buffer y, Buffer x, int[] shape, int[] perm) {
        CopyCuda.permute(this, y, x, shape, perm);
    }

    @Override
    public void gemm(
            Buffer c,
            int ldc,
            long strideC,
            Buffer a,
            int lda,
            long strideA,
            boolean transA,
            Buffer b,
            int ldb,
            long strideB,
            boolean transB,
            int batch,
            int m,
            int n,
            int k,
            double alpha,
            double beta) {
        device.products()
                .gemm(
                        this, c, ldc, strideC, a, lda, strideA, transA, b, ldb, strideB, transB, batch, m, n, k, alpha,
                        beta);
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        EmbeddingCuda.forward(this, y, table, ids, n, cols);
    }

    @Override
    public void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols) {
        EmbeddingCuda.backward(this, dTable, dy, ids, n, tableRows, cols);
    }

    @Override
    public void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        DropoutCuda.forward(this, y, x, rows, cols, mask, accumulate);
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        ReductionCuda.countValid(this, y, ids, n, ignore);
    }

    // ---- linear

    @Override
    public void loraLinear(
            Buffer y,
            Buffer t,
            Buffer x,
            Buffer w,
            @Nullable Buffer bias,
            Buffer a,
            Buffer b,
            @Nullable DropoutMask mask,
            int n,
            int in,
            int out,
            int r,
            double scaling) {
        if (mask != null && r <= LoraLinearCuda.MAX_RANK) {
            LoraLinearCuda.forward(this, y, t, x, w, bias, a, b, mask, n, in, out, r, scaling);
        } else {
            Backend.super.loraLinear(y, t, x, w, bias, a, b, mask, n, in, out, r, scaling);
        }
    }

    @Override
    public void loraLinearBackward(
            @Nullable Buffer dx,
            @Nullable Buffer da,
            @Nullable Buffer db,
            Buffer dy,
            Buffer x,
            Buffer t,
            Buffer w,
            Buffer a,
            Buffer b,
            @Nullable DropoutMask mask,
            int n,
            int in,
            int out,
            int r,
            double scaling,
            boolean accumulateX,
            boolean accumulateA,
            boolean accumulateB) {
        if (mask != null && r <= LoraLinearCuda.MAX_RANK) {
            LoraLinearCuda.backward(
                    this,
                    dx,
                    da,
                    db,
                    dy,
                    x,
                    t,
                    w,
                    a,
                    b,
                    mask,
                    n,
                    in,
                    out,
                    r,
                    scaling,
                    accumulateX,
                    accumulateA,
                    accumulateB);
        } else {
            Backend.super.loraLinearBackward(
                    dx, da, db, dy, x, t, w, a, b, mask, n, in, out, r, scaling, accumulateX, accumulateA, accumulateB);
        }
    }

    // ---- gates

    @Override
    public void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        GatedCuda.forward(this, fn, y, gate, up);
    }

    @Override
    public void gatedBackward(
            UnaryFn fn,
            @Nullable Buffer dGate,
            @Nullable Buffer dUp,
            Buffer dy,
            Buffer gate,
            Buffer up,
            boolean accumulateGate,
            boolean accumulateUp) {
        GatedCuda.backward(this, fn, dGate, dUp, dy, gate, up, accumulateGate, accumulateUp);
    }

    @Override
    public void sumOfProducts(Buffer y, Buffer a, Buffer b, int outer, int n, int inner, boolean accumulate) {
        ReductionCuda.sumOfProducts(this, y, a, b, outer, n, inner, accumulate);
    }

    // ---- what follows a product

    @Override
    public void biasActivation(
            UnaryFn fn,
            Buffer h,
            Buffer z,
            @Nullable Buffer bias,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling) {
        BiasCuda.activation(this, fn, h, z, bias, mask, rows, cols, scaling);
    }

    @Override
    public void biasActivationBackward(
            UnaryFn fn,
            Buffer dz,
            @Nullable Buffer dBias,
            Buffer z,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling,
            boolean accumulateBias) {
        BiasCuda.activationBackward(this, fn, dz, dBias, z, mask, rows, cols, scaling, accumulateBias);
    }

    @Override
    public void biasResidual(
            Buffer y, @Nullable Buffer bias, @Nullable Buffer residual, int rows, int cols, double scaling) {
        BiasCuda.residual(this, y, bias, residual, rows, cols, scaling);
    }

    // ---- normalisation

    @Override
    public void layerNorm(
            Buffer y, Buffer mean, Buffer rstd, Buffer x, Buffer weight, Buffer bias, int rows, int cols, double eps) {
        NormCuda.forward(this, y, null, mean, rstd, x, null, weight, bias, rows, cols, eps);
    }

    @Override
    public void addLayerNorm(
            Buffer y,
            Buffer sum,
            Buffer mean,
            Buffer rstd,
            Buffer x,
            Buffer residual,
            Buffer weight,
            Buffer bias,
            int rows,
            int cols,
            double eps) {
        NormCuda.forward(this, y, sum, mean, rstd, x, residual, weight, bias, rows, cols, eps);
    }

    @Override
    public void layerNormBackward(
            @Nullable Buffer dx,
            @Nullable Buffer dWeight,
            @Nullable Buffer dBias,
            Buffer dy,
            Buffer x,
            Buffer mean,
            Buffer rstd,
            Buffer weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight,
            boolean accumulateBias) {
        if (dBias != null) {
            sum(dBias, dy, 1, rows, cols, accumulateBias);
        }
        NormCuda.backward(this, dx, dWeight, dy, x, mean, rstd, weight, rows, cols, accumulateX, accumulateWeight);
    }

    @Override
    public void rmsNorm(Buffer y, Buffer rstd, Buffer x, Buffer weight, int rows, int cols, double eps) {
        NormCuda.forward(this, y, null, null, rstd, x, null, weight, null, rows, cols, eps);
    }

    @Override
    public void addRmsNorm(
            Buffer y,
            Buffer sum,
            Buffer rstd,
            Buffer x,
            Buffer residual,
            Buffer weight,
            int rows,
            int cols,
            double eps) {
        NormCuda.forward(this, y, sum, null, rstd, x, residual, weight, null, rows, cols, eps);
    }

    @Override
    public void rmsNormBackward(
            @Nullable Buffer dx,
            @Nullable Buffer dWeight,
            Buffer dy,
            Buffer x,
            Buffer rstd,
            Buffer weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight) {
        NormCuda.backward(this, dx, dWeight, dy, x, null, rstd, weight, rows, cols, accumulateX, accumulateWeight);
    }

    // ---- softmax and attention

    @Override
    public void softmax(Buffer y, Buffer x, int rows, int cols) {
        SoftmaxCuda.forward(this, y, x, rows, cols);
    }

    @Override
    public void softmaxBackward(Buffer dx, Buffer dy, Buffer y, int rows, int cols, boolean accumulate) {
        SoftmaxCuda.backward(this, dx, dy, y, rows, cols, accumulate);
    }

    @Override
    public void rope(Buffer y, Buffer x, Buffer cos, Buffer sin, int batch, int t, int heads, int d, int sign) {
        RopeCuda.forward(this, y, x, cos, sin, batch, t, heads, d, sign);
    }

    @Override
    public void attention(
            Buffer out,
            Buffer lse,
            Buffer q,
            Buffer k,
            Buffer v,
            @Nullable Buffer prefixK,
            @Nullable Buffer prefixV,
            @Nullable Buffer mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            double scale) {
        if (d <= AttentionCuda.MAX_HEAD) {
            AttentionCuda.forward(
                    this,
                    out,
                    lse,
                    AttentionCuda.Problem.of(
                            this, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale));
            return;
        }
        if (q.dtype() == DType.F16) {
            // The composed form marks hidden keys by numbers that F16 has not.
            throw new DTypeException(
                    "attention: heads have " + d + " columns, in F16 at most " + AttentionCuda.MAX_HEAD + "; use BF16");
        }
        Backend.super.attention(
                out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
    }

    @Override
    public void attentionBackward(
            @Nullable Buffer dq,
            @Nullable Buffer dk,
            @Nullable Buffer dv,
            @Nullable Buffer dPrefixK,
            @Nullable Buffer dPrefixV,
            Buffer dOut,
            Buffer out,
            Buffer lse,
            Buffer q,
            Buffer k,
            Buffer v,
            @Nullable Buffer prefixK,
            @Nullable Buffer prefixV,
            @Nullable Buffer mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            double scale) {
        if (d <= AttentionCuda.MAX_HEAD) {
            AttentionCuda.Problem a = AttentionCuda.Problem.of(
                    this, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
            AttentionCuda.backward(this, dq, dk, dv, dPrefixK, dPrefixV, dOut, out, lse, a);
        } else {
            Backend.super.attentionBackward(
                    dq, dk, dv, dPrefixK, dPrefixV, dOut, out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p,
                    heads, kvHeads, d, causal, scale);
        }
    }

    // ---- losses

    @Override
    public void crossEntropy(Buffer losses, Buffer lse, Buffer logits, Buffer labels, int n, int v, int ignore) {
        CrossEntropyCuda.forward(this, losses, lse, logits, labels, n, v, ignore);
    }

    @Override
    public void crossEntropyBackward(
            Buffer dLogits,
            Buffer g,
            Buffer logits,
            Buffer lse,
            Buffer labels,
            int n,
            int v,
            int ignore,
            boolean accumulate) {
        CrossEntropyCuda.backward(this, dLogits, g, logits, lse, labels, n, v, ignore, accumulate);
    }

    @Override
    public void linearCrossEntropy(
            Buffer loss,
            @Nullable Buffer dx,
            @Nullable Buffer dw,
            Buffer x,
            Buffer w,
            Buffer labels,
            int n,
            int c,
            int v,
            int ignore) {
        if (n > 0) {
            CrossEntropyCuda.linear(this, loss, dx, dw, x, w, labels, n, c, v, ignore);
        } else {
            Backend.super.linearCrossEntropy(loss, dx, dw, x, w, labels, n, c, v, ignore);
        }
    }

    @Override
    public void inverseOfValid(Buffer y, Buffer labels, int n, int ignore) {
        ReductionCuda.inverseOfValid(this, y, labels, n, ignore);
    }

    // ---- optimisation

    @Override
    public void sumOfSquares(Buffer y, List<Buffer> xs) {
        OptimizerCuda.sumOfSquares(this, y, xs);
    }

    @Override
    public void clipScale(Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        OptimizerCuda.clipScale(this, norm, scale, sumOfSquares, maxNorm);
    }

    @Override
    public void adamW(
            List<Buffer> p,
            List<Buffer> m,
            List<Buffer> v,
            List<Buffer> g,
            Buffer lr,
            Buffer t,
            @Nullable Buffer gScale,
            double beta1,
            double beta2,
            double eps,
            double weightDecay) {
        OptimizerCuda.adamW(this, p, m, v, g, lr, t, gScale, beta1, beta2, eps, weightDecay);
    }

    @Override
    public void importance(
            Buffer smooth, Buffer spread, Buffer p, Buffer g, @Nullable Buffer gScale, double beta1, double beta2) {
        ImportanceCuda.importance(this, smooth, spread, p, g, gScale, beta1, beta2);
    }

    @Override
    public void sgd(
            Buffer p,
            @Nullable Buffer velocity,
            Buffer g,
            Buffer lr,
            @Nullable Buffer gScale,
            double momentum,
            double weightDecay) {
        OptimizerCuda.sgd(this, p, velocity, g, lr, gScale, momentum, weightDecay);
    }
}
