package dev.loran.kernels.cuda;

import dev.loran.engine.Backend;
import dev.loran.engine.BackendException;
import dev.loran.engine.BinaryFn;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DTypeException;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Scratch;
import dev.loran.engine.UnaryFn;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Supplier;
import jcuda.cudaDataType;
import jcuda.jcublas.cublasComputeType;
import org.jspecify.annotations.Nullable;

/// F32, BF16 and F16 on one NVIDIA GPU: products by cuBLAS, everything else by the kernels of `src-cuda`; their launchers
/// are the `…Cuda` files. BF16 and F16 are storage: every kernel and product computes and adds up in F32.
///
/// Operations return when they are handed over; [#read] waits for them, and throws what went wrong on the way: an id or
/// a label out of range is complained about there, not at the call. The same arguments give the same bits on the same
/// kind of GPU. Memory may be released on any thread; operations are called from one thread at a time, any thread.
public final class CudaBackend implements Backend {
    /// Logits of a chunk of [#linearCrossEntropy], at least so many rows of them.
    private static final int CHUNK = 1 << 24;

    private static final int CHUNK_ROWS = 32;

    private final CudaDevice device;
    private final CudaMemory memory;
    private final String description;
    private final DType operands;
    private int f32Compute = cublasComputeType.CUBLAS_COMPUTE_32F;

    private CudaBackend(CudaLibraries libraries, int ordinal, DType operands) {
        if (operands != DType.F32 && operands != DType.BF16) {
            throw new DTypeException("cuda: operands are F32 or BF16, not " + operands);
        }
        this.operands = operands;
        allowTf32(operands == DType.BF16);
        device = new CudaDevice(ordinal);
        memory = new CudaMemory(device);
        description = device.name() + ", " + libraries.cublas().describe();
    }

    /// GPU number `ordinal`, counted from 0. Products with prepared weights, and attention, take operands of type
    /// `operands`, F32 or BF16, and sum in F32; what lies between them keeps its dtype. With BF16, [#prepare] rounds an F32
    /// weight for good, a product rounds the other operand, and all other products of F32 may be of TF32 ([#allowTf32]).
    ///
    /// @throws BackendException saying what is missing and what to do about it
    public static CudaBackend open(int ordinal, DType operands) {
        return new CudaBackend(CudaLibraries.load(), ordinal, operands);
    }

    /// The CPU stand-in for tests, built from `src-cuda/standin` into `folder`. It runs the same kernels and knows nothing
    /// of a GPU; [dev.loran.kernels.Backends] never picks it. A process that has opened it cannot open a GPU any more.
    public static CudaBackend standIn(Path folder, DType operands) {
        return new CudaBackend(CudaLibraries.loadStandIn(folder), 0, operands);
    }

    /// The device and the cuBLAS in use, for people.
    public String describe() {
        return description;
    }

    /// Whether F32 products may round their operands to TF32 (ten bits of fraction), which is several times as fast;
    /// allowed at first where operands are BF16, which are coarser still.
    public void allowTf32(boolean allowed) {
        f32Compute = allowed ? cublasComputeType.CUBLAS_COMPUTE_32F_FAST_TF32 : cublasComputeType.CUBLAS_COMPUTE_32F;
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
    public Buffer allocate(DType dtype, long size) {
        return new CudaBuffer(this, dtype, size, memory.take(size * dtype.bytes()), memory);
    }

    @Override
    public void write(Buffer dst, MemorySegment src) {
        checkBytes("write", dst, src);
        device.write(address(dst), src);
    }

    @Override
    public void read(MemorySegment dst, Buffer src) {
        checkBytes("read", src, dst);
        device.read(dst, address(src));
    }

    @Override
    public Supplier<MemorySegment> readLater(Buffer src) {
        return device.readLater(address(src), src.bytes());
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

    @Override
    public Buffer prepare(Buffer w, int out, int in) {
        if (operands == DType.F32 || w.dtype() != DType.F32) {
            return w.retain();
        }
        Buffer rounded = allocate(DType.BF16, w.size());
        cast(rounded, w);
        return new CudaWeight(rounded);
    }

    @Override
    public Buffer restore(Buffer prepared, int out, int in) {
        if (!(prepared instanceof CudaWeight weight)) {
            return prepared.retain();
        }
        Buffer rows = allocate(DType.F32, prepared.size());
        cast(rows, weight.rounded());
        return rows;
    }

    /// Bytes taken from the device: live, waiting for reuse, or lost to rounding up; it stands still once a step has run
    /// at its largest shape.
    public long heldBytes() {
        return memory.heldBytes();
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
        return CudaGraph.of(device, memory, step);
    }

    /// Waits for all work, then gives everything back to the device, live buffers too.
    @Override
    public void close() {
        memory.close();
        device.close();
    }

    private long address(Buffer b) {
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

    private long address(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return address(b);
    }

    private long optional(@Nullable Buffer b, DType dtype) {
        return b == null ? 0 : address(b, dtype);
    }

    private static DType floating(Buffer b) {
        if (!b.dtype().isFloating() || b.dtype() == DType.F64) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype()
                    + ", needs F32, BF16 or F16; cast it first");
        }
        return b.dtype();
    }

    // ---- primitives

    @Override
    public void fill(Buffer y, double value) {
        if (y.dtype() == DType.F64) {
            floating(y);
        }
        CopyCuda.fill(device, y.dtype(), address(y), y.size(), value);
    }

    @Override
    public void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        DType t = accumulate ? floating(y) : y.dtype();
        CopyCuda.copy(device, t, address(y), yStride, address(x, t), xStride, rows, cols, accumulate);
    }

    @Override
    public void cast(Buffer y, Buffer x) {
        CopyCuda.cast(device, y.dtype(), address(y), x.dtype(), address(x), y.size());
    }

    @Override
    public void unary(UnaryFn fn, Buffer y, Buffer x) {
        DType t = floating(y);
        UnaryCuda.forward(device, fn, t, address(y), address(x, t), y.size());
    }

    @Override
    public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        DType t = floating(dx);
        UnaryCuda.backward(device, fn, t, address(dx), address(dy, t), address(x, t), dx.size(), accumulate);
    }

    @Override
    public void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        DType t = floating(y);
        BinaryCuda.binary(device, fn, t, address(y), address(a, t), address(b, t), y.size(), shape, aStrides, bStrides);
    }

    @Override
    public void axpby(Buffer y, Buffer x, double alpha, double beta) {
        DType t = floating(y);
        BinaryCuda.axpby(device, t, address(y), address(x, t), y.size(), alpha, beta);
    }

    @Override
    public void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        DType t = floating(y);
        int parts = inner == 1 ? 1 : ReductionCuda.parts(n);
        try (Scratch scratch = new Scratch(this)) {
            long partial = parts == 1 ? 0 : address(scratch.allocate(DType.F32, (long) outer * parts * inner));
            ReductionCuda.sum(device, t, address(y), address(x, t), partial, parts, outer, n, inner, accumulate);
        }
    }

    @Override
    public void rowMax(Buffer y, Buffer x, int rows, int cols) {
        DType t = floating(y);
        ReductionCuda.rowMax(device, t, address(y), address(x, t), rows, cols);
    }

    @Override
    public void permute(Buffer y, Buffer x, int[] shape, int[] perm) {
        CopyCuda.permute(device, y.dtype(), address(y), address(x, y.dtype()), y.size(), shape, perm);
    }

    /// {@inheritDoc}
    ///
    /// By cuBLAS, which counts columns first: to it C is Cᵀ = op(B)ᵀ · op(A)ᵀ, the operands in the other order.
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
        DType t = floating(c);
        long ac = address(c);
        long aa = address(a, t);
        long ab = address(b, t);
        if (m == 0 || n == 0 || batch == 0) {
            return;
        }
        if (k == 0) {
            scaleRows(c, ldc, strideC, batch, m, n, beta);
            return;
        }
        int compute = t == DType.F32 ? f32Compute : cublasComputeType.CUBLAS_COMPUTE_32F;
        int type = type(t);
        device.gemm(
                transB, transA, n, m, k, alpha, ab, ldb, strideB, aa, lda, strideA, type, beta, ac, ldc, strideC, type,
                batch, compute);
    }

    /// CUDA's number of a type.
    private static int type(DType dtype) {
        return switch (dtype) {
            case F32 -> cudaDataType.CUDA_R_32F;
            case BF16 -> cudaDataType.CUDA_R_16BF;
            default -> cudaDataType.CUDA_R_16F;
        };
    }

    /// What is left of a product over nothing: C ← beta · C.
    private void scaleRows(Buffer c, int ldc, long strideC, int batch, int m, int n, double beta) {
        for (int i = 0; i < batch * m; i++) {
            Buffer row = c.slice(i / m * strideC + (long) (i % m) * ldc, n);
            if (beta == 0) {
                fill(row, 0);
            } else {
                axpby(row, row, beta, 0);
            }
        }
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        DType t = floating(y);
        long rows = table.size() / Math.max(1, cols);
        if (table instanceof CudaWeight weight) {
            try (Scratch scratch = new Scratch(this)) {
                Buffer narrow = scratch.allocate(DType.BF16, (long) n * cols);
                gatherRows(narrow, weight.rounded(), ids, n, cols);
                cast(y.slice(0, narrow.size()), narrow);
            }
            return;
        }
        EmbeddingCuda.forward(device, t, address(y), address(table, t), address(ids, DType.I32), n, rows, cols);
    }

    @Override
    public void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols) {
        DType t = floating(dTable);
        EmbeddingCuda.backward(device, t, address(dTable), address(dy, t), address(ids, DType.I32), n, tableRows, cols);
    }

    @Override
    public void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        DType t = floating(y);
        long step = address(mask.microStep(), DType.I32);
        DropoutCuda.forward(device, t, address(y), address(x, t), step, rows, cols, accumulate, mask);
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        ReductionCuda.countValid(device, floating(y), address(y), address(ids, DType.I32), n, ignore);
    }

    // ---- linear

    @Override
    public void linear(Buffer y, Buffer x, Buffer w, @Nullable Buffer bias, int n, int in, int out) {
        if (w instanceof CudaWeight weight) {
            rounded(y, x, weight, true, n, in, out, 0);
            if (bias != null) {
                binary(BinaryFn.ADD, y, y, bias, new int[] {n, out}, new int[] {out, 1}, new int[] {0, 1});
            }
        } else {
            Backend.super.linear(y, x, w, bias, n, in, out);
        }
    }

    @Override
    public void linearBackwardInput(Buffer dx, Buffer dy, Buffer w, int n, int in, int out, boolean accumulate) {
        if (w instanceof CudaWeight weight) {
            rounded(dx, dy, weight, false, n, out, in, accumulate ? 1 : 0);
        } else {
            Backend.super.linearBackwardInput(dx, dy, w, n, in, out, accumulate);
        }
    }

    /// y (n, cols) ← x (n, k) · op(w) + beta · y, x rounded to BF16; w is (cols, k) if it is to be transposed, else
    /// (k, cols).
    private void rounded(Buffer y, Buffer x, CudaWeight w, boolean transpose, int n, int k, int cols, double beta) {
        if (n == 0) {
            return;
        }
        try (Scratch scratch = new Scratch(this)) {
            Buffer narrow = scratch.allocate(DType.BF16, (long) n * k);
            cast(narrow, x.slice(0, (long) n * k));
            multiply(y, narrow, w, transpose, n, k, cols, beta);
        }
    }

    /// As [#rounded], of an x that is BF16 already.
    private void multiply(Buffer y, Buffer x, CudaWeight w, boolean transpose, int n, int k, int cols, double beta) {
        int ldw = transpose ? k : cols;
        int bf16 = type(DType.BF16);
        int f32 = type(DType.F32);
        device.gemm(
                transpose,
                false,
                cols,
                n,
                k,
                1,
                address(w.rounded()),
                ldw,
                0,
                address(x, DType.BF16),
                k,
                0,
                bf16,
                beta,
                address(y, DType.F32),
                cols,
                0,
                f32,
                1,
                cublasComputeType.CUBLAS_COMPUTE_32F);
    }

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
        if (mask == null || r > LoraLinearCuda.MAX_RANK) {
            Backend.super.loraLinear(y, t, x, w, bias, a, b, mask, n, in, out, r, scaling);
            return;
        }
        DType type = floating(y);
        long step = address(mask.microStep(), DType.I32);
        LoraLinearCuda.down(device, type, address(t, type), address(x, type), address(a, type), step, n, in, r, mask);
        linear(y, x, w, bias, n, in, out);
        gemm(y, out, 0, t, r, 0, false, b, r, 0, true, 1, n, out, r, scaling, 1);
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
        if (mask == null || r > LoraLinearCuda.MAX_RANK) {
            Backend.super.loraLinearBackward(
                    dx, da, db, dy, x, t, w, a, b, mask, n, in, out, r, scaling, accumulateX, accumulateA, accumulateB);
            return;
        }
        if (db != null) {
            gemm(db, r, 0, dy, out, 0, true, t, r, 0, false, 1, out, r, n, scaling, accumulateB ? 1 : 0);
        }
        if (dx == null && da == null) {
            return;
        }
        DType type = floating(dy);
        long step = address(mask.microStep(), DType.I32);
        try (Scratch scratch = new Scratch(this)) {
            Buffer dt = scratch.allocate(type, (long) n * r);
            gemm(dt, r, 0, dy, out, 0, false, b, r, 0, false, 1, n, r, out, scaling, 0);
            if (da != null) {
                long partial = address(scratch.allocate(DType.F32, (long) ReductionCuda.parts(n) * r * in));
                long ada = address(da, type);
                long ax = address(x, type);
                LoraLinearCuda.backwardA(
                        device, type, ada, partial, address(dt), ax, step, n, in, r, mask, accumulateA);
            }
            if (dx != null) {
                linearBackwardInput(dx, dy, w, n, in, out, accumulateX);
                long adx = address(dx, type);
                LoraLinearCuda.backwardX(device, type, adx, address(dt), address(a, type), step, n, in, r, mask);
            }
        }
    }

    // ---- gates

    @Override
    public void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        DType t = floating(y);
        GatedCuda.forward(device, fn, t, address(y), address(gate, t), address(up, t), y.size());
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
        DType t = floating(dy);
        GatedCuda.backward(
                device,
                fn,
                t,
                optional(dGate, t),
                optional(dUp, t),
                address(dy),
                address(gate, t),
                address(up, t),
                dy.size(),
                accumulateGate,
                accumulateUp);
    }

    // ---- normalisation

    @Override
    public void layerNorm(
            Buffer y, Buffer mean, Buffer rstd, Buffer x, Buffer weight, Buffer bias, int rows, int cols, double eps) {
        norm(y, null, mean, rstd, x, null, weight, bias, rows, cols, eps);
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
        norm(y, sum, mean, rstd, x, residual, weight, bias, rows, cols, eps);
    }

    private void norm(
            Buffer y,
            @Nullable Buffer sum,
            @Nullable Buffer mean,
            Buffer rstd,
            Buffer x,
            @Nullable Buffer residual,
            Buffer weight,
            @Nullable Buffer bias,
            int rows,
            int cols,
            double eps) {
        DType t = floating(y);
        NormCuda.forward(
                device,
                t,
                address(y),
                optional(sum, t),
                optional(mean, DType.F32),
                address(rstd, DType.F32),
                address(x, t),
                optional(residual, t),
                address(weight, t),
                optional(bias, t),
                rows,
                cols,
                eps);
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
        normBackward(dx, dWeight, dy, x, mean, rstd, weight, rows, cols, accumulateX, accumulateWeight);
    }

    @Override
    public void rmsNorm(Buffer y, Buffer rstd, Buffer x, Buffer weight, int rows, int cols, double eps) {
        norm(y, null, null, rstd, x, null, weight, null, rows, cols, eps);
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
        norm(y, sum, null, rstd, x, residual, weight, null, rows, cols, eps);
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
        normBackward(dx, dWeight, dy, x, null, rstd, weight, rows, cols, accumulateX, accumulateWeight);
    }

    private void normBackward(
            @Nullable Buffer dx,
            @Nullable Buffer dWeight,
            Buffer dy,
            Buffer x,
            @Nullable Buffer mean,
            Buffer rstd,
            Buffer weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight) {
        DType t = floating(dy);
        long ady = address(dy);
        long ax = address(x, t);
        long am = optional(mean, DType.F32);
        long ar = address(rstd, DType.F32);
        if (dx != null) {
            long aw = address(weight, t);
            NormCuda.backward(device, t, address(dx, t), ady, ax, am, ar, aw, rows, cols, accumulateX);
        }
        if (dWeight != null) {
            try (Scratch scratch = new Scratch(this)) {
                long partial = address(scratch.allocate(DType.F32, (long) ReductionCuda.parts(rows) * cols));
                long adw = address(dWeight, t);
                NormCuda.backwardWeight(device, t, adw, partial, ady, ax, am, ar, rows, cols, accumulateWeight);
            }
        }
    }

    // ---- softmax and attention

    @Override
    public void softmax(Buffer y, Buffer x, int rows, int cols) {
        DType t = floating(y);
        SoftmaxCuda.forward(device, t, address(y), address(x, t), rows, cols);
    }

    @Override
    public void softmaxBackward(Buffer dx, Buffer dy, Buffer y, int rows, int cols, boolean accumulate) {
        DType t = floating(dx);
        SoftmaxCuda.backward(device, t, address(dx), address(dy, t), address(y, t), rows, cols, accumulate);
    }

    @Override
    public void rope(Buffer y, Buffer x, Buffer cos, Buffer sin, int batch, int t, int heads, int d, int sign) {
        DType type = floating(y);
        RopeCuda.forward(
                device,
                type,
                address(y),
                address(x, type),
                address(cos, type),
                address(sin, type),
                batch,
                t,
                heads,
                d,
                sign);
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
        if (d > AttentionCuda.MAX_HEAD) {
            if (q.dtype() == DType.F16) {
                // The composed form marks hidden keys by numbers that F16 has not.
                throw new DTypeException("attention: heads have " + d + " columns, in F16 at most "
                        + AttentionCuda.MAX_HEAD + "; use BF16");
            }
            Backend.super.attention(
                    out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
            return;
        }
        AttentionCuda.Problem a =
                problem(q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
        if (onTensorCores(a.type())) {
            AttentionMmaCuda.forward(device, address(out, a.type()), address(lse, DType.F32), a);
        } else {
            AttentionCuda.forward(device, address(out, a.type()), address(lse, DType.F32), a);
        }
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
        if (d > AttentionCuda.MAX_HEAD) {
            Backend.super.attentionBackward(
                    dq, dk, dv, dPrefixK, dPrefixV, dOut, out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p,
                    heads, kvHeads, d, causal, scale);
            return;
        }
        AttentionCuda.Problem a =
                problem(q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
        DType type = a.type();
        long ady = address(dOut, type);
        long al = address(lse, DType.F32);
        try (Scratch scratch = new Scratch(this)) {
            long rowDot = address(scratch.allocate(DType.F32, (long) batch * heads * t));
            long adk = optional(dk, type);
            long adv = optional(dv, type);
            long adpk = optional(dPrefixK, type);
            long adpv = optional(dPrefixV, type);
            if (onTensorCores(type)) {
                AttentionMmaCuda.rowDot(device, rowDot, ady, address(out, type), a);
                if (dq != null) {
                    AttentionMmaCuda.backwardQueries(device, address(dq, type), ady, al, rowDot, a);
                }
                AttentionMmaCuda.backwardKeys(device, adk, adv, adpk, adpv, ady, al, rowDot, a);
            } else {
                AttentionCuda.rowDot(device, rowDot, ady, address(out, type), a);
                if (dq != null) {
                    AttentionCuda.backwardQueries(device, address(dq, type), ady, al, rowDot, a);
                }
                AttentionCuda.backwardKeys(device, adk, adv, adpk, adpv, ady, al, rowDot, a);
            }
        }
    }

    /// Whether attention over `type` goes through products of BF16.
    private boolean onTensorCores(DType type) {
        return type == DType.BF16 || type == DType.F32 && operands == DType.BF16;
    }

    private AttentionCuda.Problem problem(
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
        DType type = floating(q);
        return new AttentionCuda.Problem(
                type,
                address(q),
                address(k, type),
                address(v, type),
                optional(prefixK, type),
                optional(prefixV, type),
                optional(mask, DType.I32),
                batch,
                t,
                s,
                p,
                heads,
                kvHeads,
                d,
                causal,
                prefixK != null && prefixK.size() == (long) p * kvHeads * d,
                scale);
    }

    // ---- losses

    @Override
    public void crossEntropy(Buffer losses, Buffer lse, Buffer logits, Buffer labels, int n, int v, int ignore) {
        DType t = floating(logits);
        CrossEntropyCuda.forward(
                device,
                t,
                address(losses, DType.F32),
                address(lse, DType.F32),
                address(logits),
                address(labels, DType.I32),
                n,
                v,
                ignore);
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
        DType t = floating(dLogits);
        CrossEntropyCuda.backward(
                device,
                t,
                address(dLogits),
                address(g, DType.F32),
                address(logits, t),
                address(lse, DType.F32),
                address(labels, DType.I32),
                n,
                v,
                ignore,
                accumulate);
    }

    /// {@inheritDoc}
    ///
    /// One launch a chunk between the two products: losses and gradient of the logits at once, the gradient in the type that
    /// the second product takes.
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
        if (dx == null && dw == null || n == 0) {
            Backend.super.linearCrossEntropy(loss, dx, dw, x, w, labels, n, c, v, ignore);
            return;
        }
        DType t = floating(x);
        CudaWeight narrow = w instanceof CudaWeight weight ? weight : null;
        int chunk = Math.min(n, Math.max(CHUNK_ROWS, CHUNK / v));
        try (Scratch scratch = new Scratch(this)) {
            Buffer inverseCount = scratch.like(loss);
            Buffer losses = scratch.allocate(DType.F32, n);
            Buffer logits = scratch.allocate(t, (long) chunk * v);
            Buffer slopes = narrow == null ? logits : scratch.allocate(DType.BF16, logits.size());
            inverseOfValid(inverseCount, labels, n, ignore);
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Buffer xs = x.slice((long) from * c, (long) rows * c);
                Buffer dLogits = slopes.slice(0, (long) rows * v);
                linear(logits.slice(0, (long) rows * v), xs, w, null, rows, c, v);
                CrossEntropyCuda.both(
                        device,
                        slopes.dtype(),
                        t,
                        address(dLogits),
                        address(losses.slice(from, rows)),
                        address(inverseCount),
                        address(logits),
                        address(labels.slice(from, rows), DType.I32),
                        rows,
                        v,
                        ignore);
                if (dx != null) {
                    Buffer dxs = dx.slice((long) from * c, (long) rows * c);
                    if (narrow == null) {
                        linearBackwardInput(dxs, dLogits, w, rows, c, v, false);
                    } else {
                        multiply(dxs, dLogits, narrow, false, rows, v, c, 0);
                    }
                }
                if (dw != null) {
                    linearBackwardWeight(dw, dLogits, xs, rows, c, v, from > 0);
                }
            }
            sum(loss, losses, 1, n, 1, false);
            scaleBy(loss, inverseCount, 1);
        }
    }

    @Override
    public void inverseOfValid(Buffer y, Buffer labels, int n, int ignore) {
        ReductionCuda.inverseOfValid(device, floating(y), address(y), address(labels, DType.I32), n, ignore);
    }

    // ---- optimisation

    @Override
    public void sumOfSquares(Buffer y, List<Buffer> xs) {
        DType t = floating(y);
        long[] sizes = sizes(xs);
        try (Scratch scratch = new Scratch(this)) {
            long partial = address(scratch.allocate(DType.F32, OptimizerCuda.shares(sizes)));
            OptimizerCuda.sumOfSquares(device, t, address(y), partial, addresses(xs, t), sizes);
        }
    }

    @Override
    public void clipScale(Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        DType t = floating(norm);
        OptimizerCuda.clipScale(device, t, address(norm), address(scale, t), address(sumOfSquares, t), maxNorm);
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
        DType type = floating(lr);
        OptimizerCuda.adamW(
                device,
                type,
                List.of(addresses(p, type), addresses(m, type), addresses(v, type), addresses(g, type)),
                sizes(p),
                address(lr),
                address(t, DType.I32),
                optional(gScale, type),
                beta1,
                beta2,
                eps,
                weightDecay);
    }

    private long[] addresses(List<Buffer> buffers, DType dtype) {
        return buffers.stream().mapToLong(b -> address(b, dtype)).toArray();
    }

    private static long[] sizes(List<Buffer> buffers) {
        return buffers.stream().mapToLong(Buffer::size).toArray();
    }

    @Override
    public void importance(
            Buffer smooth, Buffer spread, Buffer p, Buffer g, @Nullable Buffer gScale, double beta1, double beta2) {
        DType t = floating(p);
        ImportanceCuda.importance(
                device,
                t,
                address(smooth, t),
                address(spread, t),
                address(p),
                address(g, t),
                optional(gScale, t),
                p.size(),
                beta1,
                beta2);
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
        DType type = floating(p);
        OptimizerCuda.sgd(
                device,
                type,
                address(p),
                optional(velocity, type),
                address(g, type),
                address(lr, type),
                optional(gScale, type),
                p.size(),
                momentum,
                weightDecay);
    }
}
