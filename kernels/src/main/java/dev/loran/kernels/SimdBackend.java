package dev.loran.kernels;

import dev.loran.engine.Backend;
import dev.loran.engine.BinaryFn;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DTypeException;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.HostBuffer;
import dev.loran.engine.UnaryFn;
import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// F32 on the CPU by the Vector API, on a fixed number of threads; the kernels stand in the `…Simd` files, in the order
/// of [Backend]. Needs the module `jdk.incubator.vector`; [Backends] knows whether it is there.
///
/// The same arguments give the same bits for any number of threads (not on processors with other vectors). Any number of
/// threads may call operations at a time, each on outputs of its own: one of them has the pool's threads, the others do their
/// work themselves, to the same bits. Closing must be the last call.
public final class SimdBackend implements Backend {
    /// Below this size of a trainable weight or of what it meets, products stay in F32.
    private static final int ROUNDED_SIZE = 16;

    private final Parallel parallel;
    private final DType operands;
    private final BufferPool pool;
    /// The memory of a [#hollow] backend.
    private final @Nullable HollowMemory hollow;

    /// A backend of `threads` threads, the calling one included.
    public SimdBackend(int threads) {
        this(threads, DType.F32);
    }

    /// A backend whose products of linear layers and of attention take operands of type `operands`, F32 or BF16, and sum in
    /// F32; all else is F32. With BF16, [#prepare] rounds the weight for good, and a product rounds the other operand, or,
    /// with a trainable weight of 16 x 16 or more and as many rows, both; whether the processor multiplies BF16 or not
    /// ([Backends#describeBf16] says how it is done).
    ///
    /// @throws DTypeException for other operands
    public SimdBackend(int threads, DType operands) {
        if (operands != DType.F32 && operands != DType.BF16) {
            throw new DTypeException("simd: operands are F32 or BF16, not " + operands);
        }
        this.operands = operands;
        parallel = new Parallel(threads);
        pool = new BufferPool(null);
        hollow = null;
    }

    private SimdBackend(DType operands, HollowMemory memory) {
        this.operands = operands;
        parallel = new Parallel(memory);
        pool = new BufferPool(memory);
        hollow = memory;
    }

    /// {@inheritDoc}
    ///
    /// This very code over a pool of threads that runs no loop and over memory that is not there: an operation added here
    /// is counted right without being told.
    @Override
    public Backend hollow() {
        return new SimdBackend(operands, new HollowMemory());
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
            // Kernels look at ids before they run a loop.
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
    /// In place. Mapped memory is seen as plain native memory: a kernel that meets two kinds of segments slows down
    /// several times.
    @Override
    @SuppressWarnings("restricted")
    public Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
        if (!memory.isNative()) {
            return Backend.super.wrap(dtype, memory, onFree);
        }
        long bytes = memory.byteSize();
        MemorySegment plain = MemorySegment.ofAddress(memory.address()).reinterpret(bytes);
        pool.count(bytes);
        // What may not be written to must say so: a stray write would end the JVM.
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

    /// How many times memory was taken from the system so far; it stands still once a step has run at its largest shape.
    public long systemAllocations() {
        return pool.systemAllocations();
    }

    /// Gives memory that waits for reuse back to the system.
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

    /// The memory of a floating argument.
    private static MemorySegment f32(Buffer b) {
        return memory(b, DType.F32);
    }

    private static MemorySegment[] f32(List<Buffer> buffers) {
        return buffers.stream().map(SimdBackend::f32).toArray(MemorySegment[]::new);
    }

    private static long[] sizes(List<Buffer> buffers) {
        return buffers.stream().mapToLong(Buffer::size).toArray();
    }

    private static MemorySegment i32(Buffer b) {
        return memory(b, DType.I32);
    }

    private static @Nullable MemorySegment optional(@Nullable Buffer b) {
        return b == null ? null : f32(b);
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
        GemmSimd.gemmBatched(
                parallel,
                f32(c),
                0,
                ldc,
                strideC,
                f32(a),
                0,
                lda,
                strideA,
                transA,
                f32(b),
                0,
                ldb,
                strideB,
                transB,
                batch,
                m,
                n,
                k,
                (float) alpha,
                (float) beta);
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
        DropoutSimd.forward(
                parallel, f32(y), f32(x), rows, cols, DropoutSimd.Keep.of(mask, i32(mask.microStep())), accumulate);
    }

    private static DropoutSimd.@Nullable Keep keep(@Nullable DropoutMask mask) {
        return mask == null ? null : DropoutSimd.Keep.of(mask, i32(mask.microStep()));
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        ReductionSimd.countValid(f32(y), i32(ids), n, ignore);
    }

    // ---- gates

    @Override
    public void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        if (fn == UnaryFn.SILU) {
            GatedSimd.forward(parallel, f32(y), f32(gate), f32(up), y.size());
        } else {
            Backend.super.gated(fn, y, gate, up);
        }
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
        if (fn == UnaryFn.SILU && dGate != null && dUp != null && !accumulateGate && !accumulateUp) {
            GatedSimd.backward(parallel, f32(dGate), f32(dUp), f32(dy), f32(gate), f32(up), dy.size());
        } else {
            Backend.super.gatedBackward(fn, dGate, dUp, dy, gate, up, accumulateGate, accumulateUp);
        }
    }

    // ---- linear

    @Override
    public void linear(Buffer y, Buffer x, Buffer w, @Nullable Buffer bias, int n, int in, int out) {
        linear(y, x, w, bias, n, in, out, false);
    }

    private void linear(
            Buffer y, Buffer x, Buffer w, @Nullable Buffer bias, int n, int in, int out, boolean accumulate) {
        if (w instanceof PreparedBuffer p) {
            p.weight().linear(parallel, f32(y), 0, out, f32(x), 0, in, optional(bias), 0, n, accumulate ? 1 : 0);
            return;
        }
        float beta = accumulate ? 1 : 0;
        if (rounds(n, in, out)) {
            GemmBf16.product(
                    parallel,
                    GemmBf16.tiles(),
                    matrix(y, n, out, false),
                    matrix(x, n, in, false),
                    matrix(w, out, in, true),
                    n,
                    out,
                    in,
                    beta,
                    bias == null ? null : matrix(bias, 1, out, false));
            return;
        }
        gemm(y, out, 0, x, in, 0, false, w, in, 0, true, 1, n, out, in, 1, beta);
        if (bias != null) {
            binary(BinaryFn.ADD, y, y, bias, new int[] {n, out}, new int[] {out, 1}, new int[] {0, 1});
        }
    }

    @Override
    public void linearBackwardInput(Buffer dx, Buffer dy, Buffer w, int n, int in, int out, boolean accumulate) {
        if (w instanceof PreparedBuffer p) {
            p.weight().linearBackward(parallel, f32(dx), 0, in, f32(dy), 0, out, n, accumulate ? 1 : 0);
        } else if (rounds(n, in, out)) {
            GemmBf16.product(
                    parallel,
                    GemmBf16.tiles(),
                    matrix(dx, n, in, false),
                    matrix(dy, n, out, false),
                    matrix(w, out, in, false),
                    n,
                    in,
                    out,
                    accumulate ? 1 : 0,
                    null);
        } else {
            Backend.super.linearBackwardInput(dx, dy, w, n, in, out, accumulate);
        }
    }

    @Override
    public void linearBackwardWeight(Buffer dw, Buffer dy, Buffer x, int n, int in, int out, boolean accumulate) {
        if (rounds(n, in, out)) {
            GemmBf16.product(
                    parallel,
                    GemmBf16.tiles(),
                    matrix(dw, out, in, false),
                    matrix(dy, n, out, true),
                    matrix(x, n, in, false),
                    out,
                    in,
                    n,
                    accumulate ? 1 : 0,
                    null);
        } else {
            Backend.super.linearBackwardWeight(dw, dy, x, n, in, out, accumulate);
        }
    }

    /// Whether the products of a trainable weight (out, in) with n rows take BF16: not the head of a few classes, whose
    /// products are a few dots.
    private boolean rounds(int n, int in, int out) {
        return operands == DType.BF16 && Math.min(n, Math.min(in, out)) >= ROUNDED_SIZE;
    }

    /// Where operands are BF16, what multiplies them.
    private @Nullable Bf16Tiles tiles() {
        return operands == DType.BF16 ? GemmBf16.tiles() : null;
    }

    private static Matrix matrix(Buffer b, int rows, int cols, boolean transposed) {
        MemorySegment memory = f32(b);
        GemmSimd.check("linear", memory, 0, cols, rows, cols);
        return new Matrix(memory, 0, cols, transposed);
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
        Projection layer = new Projection(y, w, bias, out, new LowRank(t, a, b, mask, r, scaling));
        FrozenWeight frozen = inBlocks(w, n);
        LoraLinearSimd.forward(parallel, tiles(), List.of(layer(layer, frozen)), f32(x), n, in);
        if (frozen == null) {
            linear(y, x, w, bias, n, in, out, true);
        }
    }

    @Override
    public void projections(List<Projection> layers, Buffer x, int n, int in) {
        if (layers.stream().anyMatch(layer -> inBlocks(layer.w(), n) == null)) {
            Backend.super.projections(layers, x, n, in);
            return;
        }
        List<LoraLinearSimd.Layer> packed = layers.stream()
                .map(layer -> layer(layer, inBlocks(layer.w(), n)))
                .toList();
        LoraLinearSimd.forward(parallel, tiles(), packed, f32(x), n, in);
    }

    /// The weight `w` if it is packed, and n rows are enough to take a block of them at a time through it; else null.
    private @Nullable FrozenWeight inBlocks(Buffer w, int n) {
        return w instanceof PreparedBuffer p && LoraLinearSimd.fills(parallel, n) ? p.weight() : null;
    }

    private LoraLinearSimd.Layer layer(Projection layer, @Nullable FrozenWeight w) {
        LowRank low = layer.lowRank();
        return new LoraLinearSimd.Layer(
                f32(layer.y()),
                layer.out(),
                w == null ? null : w.forward(),
                w == null || layer.bias() == null ? null : matrix(layer.bias(), 1, layer.out(), false),
                low == null
                        ? null
                        : new LoraLinearSimd.LowRank(
                                f32(low.t()), f32(low.a()), f32(low.b()), keep(low.mask()), low.r(), (float)
                                        low.scaling()));
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
        FrozenWeight frozen = dx == null ? null : inBlocks(w, n);
        Panels panels = frozen == null ? null : frozen.backward(parallel);
        LoraLinearSimd.backward(
                parallel,
                tiles(),
                panels,
                optional(dx),
                optional(da),
                optional(db),
                f32(dy),
                f32(x),
                f32(t),
                f32(a),
                f32(b),
                keep(mask),
                n,
                in,
                out,
                r,
                (float) scaling,
                accumulateX,
                accumulateA,
                accumulateB);
        if (dx != null && panels == null) {
            linearBackwardInput(dx, dy, w, n, in, out, true);
        }
    }

    // ---- normalisation

    @Override
    public void layerNorm(
            Buffer y, Buffer mean, Buffer rstd, Buffer x, Buffer weight, Buffer bias, int rows, int cols, double eps) {
        NormSimd.forward(parallel, f32(y), f32(mean), f32(rstd), f32(x), f32(weight), f32(bias), rows, cols, eps);
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
        NormSimd.forward(
                parallel,
                f32(y),
                f32(sum),
                f32(mean),
                f32(rstd),
                f32(x),
                f32(residual),
                f32(weight),
                f32(bias),
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
            ReductionSimd.sum(parallel, f32(dBias), f32(dy), 1, rows, cols, accumulateBias);
        }
        NormSimd.backward(
                parallel,
                optional(dx),
                optional(dWeight),
                f32(dy),
                f32(x),
                f32(mean),
                f32(rstd),
                f32(weight),
                rows,
                cols,
                accumulateX,
                accumulateWeight);
    }

    @Override
    public void rmsNorm(Buffer y, Buffer rstd, Buffer x, Buffer weight, int rows, int cols, double eps) {
        NormSimd.forward(parallel, f32(y), null, f32(rstd), f32(x), f32(weight), null, rows, cols, eps);
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
        NormSimd.forward(
                parallel, f32(y), f32(sum), null, f32(rstd), f32(x), f32(residual), f32(weight), null, rows, cols, eps);
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
        NormSimd.backward(
                parallel,
                optional(dx),
                optional(dWeight),
                f32(dy),
                f32(x),
                null,
                f32(rstd),
                f32(weight),
                rows,
                cols,
                accumulateX,
                accumulateWeight);
    }

    // ---- softmax and attention

    @Override
    public void softmax(Buffer y, Buffer x, int rows, int cols) {
        SoftmaxSimd.forward(parallel, f32(y), f32(x), rows, cols);
    }

    @Override
    public void softmaxBackward(Buffer dx, Buffer dy, Buffer y, int rows, int cols, boolean accumulate) {
        SoftmaxSimd.backward(parallel, f32(dx), f32(dy), f32(y), rows, cols, accumulate);
    }

    @Override
    public void rope(Buffer y, Buffer x, Buffer cos, Buffer sin, int batch, int t, int heads, int d, int sign) {
        RopeSimd.forward(parallel, f32(y), f32(x), f32(cos), f32(sin), batch, t, heads, d, sign);
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
        AttentionSimd.forward(
                parallel,
                f32(out),
                f32(lse),
                problem(q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale),
                tiles());
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
        AttentionSimd.backward(
                parallel,
                new AttentionSimd.Gradients(
                        optional(dq), optional(dk), optional(dv), optional(dPrefixK), optional(dPrefixV)),
                f32(dOut),
                f32(out),
                f32(lse),
                problem(q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale),
                tiles());
    }

    private static AttentionSimd.Problem problem(
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
        return new AttentionSimd.Problem(
                f32(q),
                f32(k),
                f32(v),
                optional(prefixK),
                optional(prefixV),
                mask == null ? null : i32(mask),
                batch,
                t,
                s,
                p,
                heads,
                kvHeads,
                d,
                causal,
                (float) scale);
    }

    // ---- losses

    @Override
    public void crossEntropy(Buffer losses, Buffer lse, Buffer logits, Buffer labels, int n, int v, int ignore) {
        SoftmaxSimd.crossEntropy(parallel, f32(losses), f32(lse), f32(logits), i32(labels), n, v, ignore);
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
        SoftmaxSimd.crossEntropyBackward(
                parallel, f32(dLogits), f32(g), f32(logits), f32(lse), i32(labels), n, v, ignore, accumulate);
    }

    // ---- optimisation

    @Override
    public void sumOfSquares(Buffer y, List<Buffer> xs) {
        ReductionSimd.sumOfSquares(parallel, f32(y), f32(xs), sizes(xs));
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
        OptimizerSimd.adamW(
                parallel,
                f32(p),
                f32(m),
                f32(v),
                f32(g),
                f32(lr),
                i32(t),
                optional(gScale),
                sizes(p),
                beta1,
                beta2,
                eps,
                weightDecay);
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
        OptimizerSimd.sgd(
                parallel,
                f32(p),
                optional(velocity),
                f32(g),
                f32(lr),
                optional(gScale),
                p.size(),
                (float) momentum,
                (float) weightDecay);
    }
}
