package dev.loran.engine;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The kernels' contract: buffers, sizes and scalars; no autograd, no modules, no configuration.
///
/// The abstract methods are the primitives. Every fused operation is a **default method composed of them**: fallback,
/// oracle and documentation at once; a fast backend overrides what matters. Its gradient stands under it.
///
/// Conventions, for all methods:
/// - Arguments: outputs first, then inputs, then sizes, then scalars. Buffers are dense and row-major unless a stride
///   is given; an offset is a [Buffer#slice]. Outputs may not overlap inputs unless the method says so.
/// - Outputs are overwritten; where a method takes `accumulate`, true adds to what is there (the memory must then hold
///   numbers), false overwrites (whatever was there, NaN too, vanishes).
/// - Floating arguments of one call have one dtype unless the method says otherwise; a backend never casts implicitly.
///   Labels, ids and masks are I32. Statistics kept for backward and losses have the dtype's [DType#accumulator]: F32
///   beside BF16 and F16.
/// - What changes from step to step (learning rate, step, Philox counter, norms) lives in one-element buffers, and no
///   method returns a number: [#read] is the only synchronisation.
/// - The same arguments give the same bits, for any number of threads.
/// - Threads: every method but [#close] is safe from any number of threads, each on outputs of its own, to the same bits. While a
///   step is recorded ([#capture]) other threads' calls fail. Closing must be the last call.
public interface Backend extends AutoCloseable {

    // ---- memory

    /// Short name for messages: `reference`, `simd`, `cuda`.
    String name();

    /// Whether floating tensors of `dtype` can be computed with.
    boolean supports(DType dtype);

    /// What the products of a model's linear layers, at least those with prepared weights ([#prepare]), take operands of: BF16,
    /// to which they round those of a model kept in F32 ([#storage]), or F32 where nothing is rounded.
    default DType operands() {
        return DType.F32;
    }

    /// What the weights and activations of a model that is to compute with [#operands] are kept in: these themselves where every
    /// operation takes them, else F32. Parameters that train are kept in its [DType#accumulator] and cast where they are used.
    default DType storage() {
        return DType.F32;
    }

    /// Uninitialised memory with one count.
    ///
    /// @throws BackendException if there is none left: how much was asked for, held and free
    Buffer allocate(DType dtype, long size);

    /// Copies `src` (same number of bytes) into `dst`; returns when `src` may be changed.
    void write(Buffer dst, MemorySegment src);

    /// Copies `src` into `dst` (same number of bytes); waits for all work that `src` depends on.
    void read(MemorySegment dst, Buffer src);

    /// Begins to read `src` as the work handed over so far leaves it. The result is asked for once it is needed: it waits
    /// for that work and not for what is handed over later.
    default Supplier<MemorySegment> readLater(Buffer src) {
        long[] words = new long[Math.toIntExact((src.bytes() + 7) / 8)];
        MemorySegment copy = MemorySegment.ofArray(words).asSlice(0, src.bytes());
        read(copy, src);
        return () -> copy;
    }

    /// A buffer over existing native memory, used in place where the backend can, else a copy. For memory-mapped model
    /// files: never written to. `onFree` is run once, when `memory` may go away: with the buffer's last count, or
    /// before this returns when it was copied.
    default Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
        Buffer b = allocate(dtype, memory.byteSize() / dtype.bytes());
        write(b, memory);
        onFree.run();
        return b;
    }

    /// Bytes of live buffers now.
    long liveBytes();

    /// The highest [#liveBytes] since the start or the last [#resetPeak].
    long peakBytes();

    /// Makes the current [#liveBytes] the peak.
    void resetPeak();

    /// A backend that counts memory as this one does and has none: its floating buffers have sizes but no contents, and its
    /// operations ask for all the memory that they need and compute nothing. So the peak of a step is known before it is
    /// run. Null where there is no such thing. Closed by the caller.
    default @Nullable Backend hollow() {
        return null;
    }

    /// Whether this is a [#hollow] backend: what is drawn or computed for it is of no use.
    default boolean isHollow() {
        return false;
    }

    /// Packs a frozen weight (`out`, `in`) once into the form this backend multiplies fastest by; the result stands in
    /// for the row-major buffer in `w` of [#linear], [#linearBackwardInput], [#loraLinear], [#loraLinearBackward],
    /// [#linearCrossEntropy], in `table` of [#gatherRows], and nowhere else. It takes its own count: the caller then releases the row-major one.
    default Buffer prepare(Buffer w, int out, int in) {
        return w.retain();
    }

    /// The row-major weight of a prepared one, bit for bit (of one that was rounded, as it was rounded), with a count of its
    /// own.
    default Buffer restore(Buffer prepared, int out, int in) {
        return prepared.retain();
    }

    @Override
    void close();

    // ---- recorded work

    /// Work that [#capture] recorded.
    interface Replay extends AutoCloseable {
        /// Does all of it again, on what its buffers hold now. False, with nothing done, if the backend gave it up: because
        /// a buffer it uses was released, or for want of memory.
        boolean run();

        @Override
        void close();
    }

    /// Whether [#capture] records.
    default boolean captures() {
        return false;
    }

    /// Runs `step` to record what it asks of this backend; nothing of that is done before [Replay#run], which costs one
    /// call where the step made hundreds. What `step` allocates it must release; what it writes from host memory is kept
    /// as it is; it reads nothing.
    ///
    /// @throws BackendException if `step` does otherwise, or this backend does not record
    default Replay capture(Runnable step) {
        throw new BackendException(name() + ": records no work; run the step itself");
    }

    // ---- primitives

    /// y ← value.
    void fill(Buffer y, double value);

    /// `rows` x `cols` block copy: y[i · yStride + j] ← x[i · xStride + j] (or +=); any dtype, the same for both when
    /// not accumulating.
    void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate);

    /// y ← x converted to y's dtype, rounded to nearest even.
    void cast(Buffer y, Buffer x);

    /// y ← fn(x). y may be x.
    void unary(UnaryFn fn, Buffer y, Buffer x);

    /// dx ← dy · fn′(x) (or +=). dx may be dy when not accumulating.
    void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate);

    /// y ← fn(a, b) over `shape`; strides in elements, one a dimension, 0 where an operand is stretched. y is dense and
    /// may be a or b where that one is not stretched.
    void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides);

    /// y ← alpha · x + beta · y; with beta = 0 what y held does not matter. y may be x.
    void axpby(Buffer y, Buffer x, double alpha, double beta);

    /// y (outer, inner) ← Σ over n of x (outer, n, inner) (or +=), accumulated in at least F32.
    void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate);

    /// y (rows) ← max over the columns of x (rows, cols).
    void rowMax(Buffer y, Buffer x, int rows, int cols);

    /// y ← x with its dimensions permuted: dimension i of y is dimension `perm[i]` of x, which has `shape`.
    void permute(Buffer y, Buffer x, int[] shape, int[] perm);

    /// `batch` products C ← alpha · op(A) · op(B) + beta · C of (m, k) by (k, n); `ld` is the distance of rows in
    /// memory, `stride` of consecutive matrices (0: the same matrix for all); op transposes when asked (A is then
    /// stored (k, m)).
    void gemm(
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
            double beta);

    /// y (n, cols) ← rows `ids` (n) of `table` (·, cols), row-major or prepared; a negative id gives a row of zeros.
    void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols);

    /// `dTable[ids[i]] += dy[i]` for i = 0 … n−1 in that order; negative ids are skipped.
    void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols);

    /// y ← x · [mask keeps (row, col)] / (1 − p) over (rows, cols) (or +=). y may be x when not accumulating.
    void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate);

    /// y (1, of a floating dtype) ← the number of entries of `ids` (n) that are not `ignore`.
    void countValid(Buffer y, Buffer ids, int n, int ignore);

    // ---- gates

    /// y = fn(gate) · up. Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
    default void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        unary(fn, y, gate);
        multiply(y, y, up);
    }

    /// Gradients of [#gated]: dGate ← dy · up · fn′(gate), dUp ← dy · fn(gate) (or +=); each may be null.
    default void gatedBackward(
            UnaryFn fn,
            @Nullable Buffer dGate,
            @Nullable Buffer dUp,
            Buffer dy,
            Buffer gate,
            Buffer up,
            boolean accumulateGate,
            boolean accumulateUp) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer work = scratch.like(dy);
            if (dUp != null) {
                unary(fn, work, gate);
                multiply(work, work, dy);
                axpby(dUp, work, 1, accumulateUp ? 1 : 0);
            }
            if (dGate != null) {
                multiply(work, dy, up);
                unaryBackward(fn, dGate, work, gate, accumulateGate);
            }
        }
    }

    /// y (outer, inner) ← Σ over n of a · b, both (outer, n, inner) (or +=), accumulated in at least F32: the gradient of a
    /// factor that was stretched over n.
    default void sumOfProducts(Buffer y, Buffer a, Buffer b, int outer, int n, int inner, boolean accumulate) {
        int most = 1 << 16;
        long each = Math.max(1, (long) n * inner);
        int group = Math.clamp(most / each, 1, Math.max(1, outer));
        int part = each <= most ? n : Math.max(1, most / inner);
        try (Scratch scratch = new Scratch(this)) {
            Buffer work = scratch.allocate(a.dtype(), Math.multiplyExact((long) group * part, inner));
            for (int o = 0; o < outer; o += group) {
                int outers = Math.min(group, outer - o);
                Buffer to = y.slice((long) o * inner, (long) outers * inner);
                int from = 0;
                do {
                    int rows = Math.min(part, n - from);
                    long at = ((long) o * n + from) * inner;
                    Buffer product = work.slice(0, (long) outers * rows * inner);
                    multiply(product, a.slice(at, product.size()), b.slice(at, product.size()));
                    sum(to, product, outers, rows, inner, accumulate || from > 0);
                    from += part;
                } while (from < n);
            }
        }
    }

    private void multiply(Buffer y, Buffer a, Buffer b) {
        int n = Math.toIntExact(y.size());
        binary(BinaryFn.MUL, y, a, b, new int[] {n}, new int[] {1}, new int[] {1});
    }

    // ---- linear

    /// y (n, out) = x (n, in) · wᵀ + bias; w is (out, in), row-major or prepared.
    default void linear(Buffer y, Buffer x, Buffer w, @Nullable Buffer bias, int n, int in, int out) {
        gemm(y, out, 0, x, in, 0, false, w, in, 0, true, 1, n, out, in, 1, 0);
        if (bias != null) {
            binary(BinaryFn.ADD, y, y, bias, new int[] {n, out}, new int[] {out, 1}, new int[] {0, 1});
        }
    }

    /// dx (n, in) ← dy (n, out) · w (or +=).
    default void linearBackwardInput(Buffer dx, Buffer dy, Buffer w, int n, int in, int out, boolean accumulate) {
        gemm(dx, in, 0, dy, out, 0, false, w, in, 0, false, 1, n, in, out, 1, accumulate ? 1 : 0);
    }

    /// dw (out, in) ← dyᵀ · x (or +=). Never called for a frozen weight.
    default void linearBackwardWeight(Buffer dw, Buffer dy, Buffer x, int n, int in, int out, boolean accumulate) {
        gemm(dw, in, 0, dy, out, 0, true, x, in, 0, false, 1, out, in, n, 1, accumulate ? 1 : 0);
    }

    /// y (n, out) = x · wᵀ + bias + scaling · t · bᵀ with t (n, r) = dropout(x) · aᵀ, from the small side: nothing of
    /// size out × in is formed. a is (r, in), b is (out, r). Hu et al., "LoRA", 2021, equation 3. t is an output, kept
    /// for backward.
    default void loraLinear(
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
        try (Scratch scratch = new Scratch(this)) {
            Buffer dropped = mask == null ? x : scratch.like(x);
            if (mask != null) {
                dropout(dropped, x, n, in, mask, false);
            }
            gemm(t, r, 0, dropped, in, 0, false, a, in, 0, true, 1, n, r, in, 1, 0);
        }
        linear(y, x, w, bias, n, in, out);
        gemm(y, out, 0, t, r, 0, false, b, r, 0, true, 1, n, out, r, scaling, 1);
    }

    /// Gradients of [#loraLinear], w and bias apart: dt = scaling · dy · b; db (out, r) ← scaling · dyᵀ · t; da (r, in)
    /// ← dtᵀ · dropout(x); dx (n, in) ← dy · w + dropout′(dt · a). Each may be absent (null); `accumulate*` adds.
    default void loraLinearBackward(
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
        if (db != null) {
            gemm(db, r, 0, dy, out, 0, true, t, r, 0, false, 1, out, r, n, scaling, accumulateB ? 1 : 0);
        }
        if (dx == null && da == null) {
            return;
        }
        try (Scratch scratch = new Scratch(this)) {
            Buffer dt = scratch.allocate(dy.dtype(), (long) n * r);
            // Holds dropout(x) first, then its gradient.
            Buffer dropped = mask == null ? x : scratch.like(x);
            gemm(dt, r, 0, dy, out, 0, false, b, r, 0, false, 1, n, r, out, scaling, 0);
            if (da != null) {
                if (mask != null) {
                    dropout(dropped, x, n, in, mask, false);
                }
                gemm(da, in, 0, dt, r, 0, true, dropped, in, 0, false, 1, r, in, n, 1, accumulateA ? 1 : 0);
            }
            if (dx != null) {
                linearBackwardInput(dx, dy, w, n, in, out, accumulateX);
                if (mask == null) {
                    gemm(dx, in, 0, dt, r, 0, false, a, in, 0, false, 1, n, in, r, 1, 1);
                } else {
                    gemm(dropped, in, 0, dt, r, 0, false, a, in, 0, false, 1, n, in, r, 1, 0);
                    dropout(dx, dropped, n, in, mask, true);
                }
            }
        }
    }

    // ---- what follows a product

    /// z (rows, cols) ← z + bias in place, and h (rows, cols) = scaling · dropout(fn(z)); bias and mask may be null.
    default void biasActivation(
            UnaryFn fn,
            Buffer h,
            Buffer z,
            @Nullable Buffer bias,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling) {
        if (bias != null) {
            binary(BinaryFn.ADD, z, z, bias, new int[] {rows, cols}, new int[] {cols, 1}, new int[] {0, 1});
        }
        unary(fn, h, z);
        dropAndScale(h, mask, rows, cols, scaling);
    }

    /// Gradients of [#biasActivation]: `dz` holds the gradient of h and becomes that of z, dz ← scaling · dropout′(dz) · fn′(z);
    /// dBias ← Σ rows dz (or +=), null if not wanted.
    default void biasActivationBackward(
            UnaryFn fn,
            Buffer dz,
            @Nullable Buffer dBias,
            Buffer z,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling,
            boolean accumulateBias) {
        dropAndScale(dz, mask, rows, cols, scaling);
        unaryBackward(fn, dz, dz, z, false);
        if (dBias != null) {
            sum(dBias, dz, 1, rows, cols, accumulateBias);
        }
    }

    private void dropAndScale(Buffer y, @Nullable DropoutMask mask, int rows, int cols, double scaling) {
        if (mask != null) {
            dropout(y, y, rows, cols, mask, false);
        }
        if (scaling != 1) {
            axpby(y, y, scaling, 0);
        }
    }

    /// y (rows, cols) ← y + scaling · bias + residual; bias (cols) and residual (rows, cols) may be null.
    default void biasResidual(
            Buffer y, @Nullable Buffer bias, @Nullable Buffer residual, int rows, int cols, double scaling) {
        if (bias != null) {
            try (Scratch scratch = new Scratch(this)) {
                Buffer scaled = scaling == 1 ? bias : scratch.like(bias);
                if (scaling != 1) {
                    axpby(scaled, bias, scaling, 0);
                }
                binary(BinaryFn.ADD, y, y, scaled, new int[] {rows, cols}, new int[] {cols, 1}, new int[] {0, 1});
            }
        }
        if (residual != null) {
            axpby(y, residual, 1, 1);
        }
    }

    /// One of several linear layers of the same x: y (n, out) = x · wᵀ + bias, and with a low-rank part the y of
    /// [#loraLinear]. w is (out, in), row-major or prepared.
    record Projection(
            Buffer y,
            Buffer w,
            @Nullable Buffer bias,
            int out,
            @Nullable LowRank lowRank) {}

    /// What [#loraLinear] adds to a linear layer: t (n, r), an output, by a (r, in) and b (out, r).
    record LowRank(Buffer t, Buffer a, Buffer b, @Nullable DropoutMask mask, int r, double scaling) {}

    /// The linear layers of one x (n, in), such as the queries, keys and values of an attention: each y as [#linear] and
    /// [#loraLinear] give it.
    default void projections(List<Projection> layers, Buffer x, int n, int in) {
        for (Projection p : layers) {
            LowRank l = p.lowRank;
            if (l == null) {
                linear(p.y, x, p.w, p.bias, n, in, p.out);
            } else {
                loraLinear(p.y, l.t, x, p.w, p.bias, l.a, l.b, l.mask, n, in, p.out, l.r, l.scaling);
            }
        }
    }

    // ---- normalisation

    /// y = (x − mean) · rstd · weight + bias along the columns; mean and rstd (rows) are outputs, kept for backward. Ba
    /// et al., "Layer Normalization", 2016.
    default void layerNorm(
            Buffer y, Buffer mean, Buffer rstd, Buffer x, Buffer weight, Buffer bias, int rows, int cols, double eps) {
        int[] shape = {rows, cols};
        int[] dense = {cols, 1};
        int[] perRow = {1, 0};
        int[] perCol = {0, 1};
        sum(mean, x, rows, cols, 1, false);
        axpby(mean, mean, 1.0 / cols, 0);
        try (Scratch scratch = new Scratch(this)) {
            Buffer centred = scratch.like(x);
            binary(BinaryFn.SUB, centred, x, mean, shape, dense, perRow);
            unary(UnaryFn.SQUARE, y, centred);
            sum(rstd, y, rows, cols, 1, false);
            inverseRoot(rstd, 1.0 / cols, eps);
            binary(BinaryFn.MUL, y, centred, rstd, shape, dense, perRow);
            binary(BinaryFn.MUL, y, y, weight, shape, dense, perCol);
            binary(BinaryFn.ADD, y, y, bias, shape, dense, perCol);
        }
    }

    /// sum = x + residual, of which the rest is the [#layerNorm].
    default void addLayerNorm(
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
        addRows(sum, x, residual, rows, cols);
        layerNorm(y, mean, rstd, sum, weight, bias, rows, cols, eps);
    }

    private void addRows(Buffer sum, Buffer x, Buffer residual, int rows, int cols) {
        int[] dense = {cols, 1};
        binary(BinaryFn.ADD, sum, x, residual, new int[] {rows, cols}, dense, dense);
    }

    /// Gradients of [#layerNorm]: with x̂ = (x − mean) · rstd and g = dy · weight, dx = rstd · (g − mean(g) − x̂ ·
    /// mean(g · x̂)); dWeight = Σ rows dy · x̂; dBias = Σ rows dy. Each may be null.
    default void layerNormBackward(
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
        int[] shape = {rows, cols};
        if (dBias != null) {
            sum(dBias, dy, 1, rows, cols, accumulateBias);
        }
        try (Scratch scratch = new Scratch(this)) {
            Buffer xHat = scratch.like(x);
            binary(BinaryFn.SUB, xHat, x, mean, shape, new int[] {cols, 1}, new int[] {1, 0});
            binary(BinaryFn.MUL, xHat, xHat, rstd, shape, new int[] {cols, 1}, new int[] {1, 0});
            normBackward(dx, dWeight, dy, xHat, rstd, weight, rows, cols, accumulateX, accumulateWeight, true);
        }
    }

    /// y = x · rstd · weight with rstd = 1 / √(mean(x²) + eps), kept for backward. Zhang and Sennrich, "Root Mean
    /// Square Layer Normalization", 2019, equation 4.
    default void rmsNorm(Buffer y, Buffer rstd, Buffer x, Buffer weight, int rows, int cols, double eps) {
        unary(UnaryFn.SQUARE, y, x);
        sum(rstd, y, rows, cols, 1, false);
        inverseRoot(rstd, 1.0 / cols, eps);
        binary(BinaryFn.MUL, y, x, rstd, new int[] {rows, cols}, new int[] {cols, 1}, new int[] {1, 0});
        binary(BinaryFn.MUL, y, y, weight, new int[] {rows, cols}, new int[] {cols, 1}, new int[] {0, 1});
    }

    /// sum = x + residual, of which the rest is the [#rmsNorm].
    default void addRmsNorm(
            Buffer y,
            Buffer sum,
            Buffer rstd,
            Buffer x,
            Buffer residual,
            Buffer weight,
            int rows,
            int cols,
            double eps) {
        addRows(sum, x, residual, rows, cols);
        rmsNorm(y, rstd, sum, weight, rows, cols, eps);
    }

    /// Gradients of [#rmsNorm]: with x̂ = x · rstd and g = dy · weight, dx = rstd · (g − x̂ · mean(g · x̂)); dWeight =
    /// Σ rows dy · x̂.
    default void rmsNormBackward(
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
        try (Scratch scratch = new Scratch(this)) {
            Buffer xHat = scratch.like(x);
            binary(BinaryFn.MUL, xHat, x, rstd, new int[] {rows, cols}, new int[] {cols, 1}, new int[] {1, 0});
            normBackward(dx, dWeight, dy, xHat, rstd, weight, rows, cols, accumulateX, accumulateWeight, false);
        }
    }

    private void inverseRoot(Buffer sumOfSquares, double factor, double eps) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer e = scratch.like(sumOfSquares);
            fill(e, eps);
            axpby(sumOfSquares, e, 1, factor);
            unary(UnaryFn.RSQRT, sumOfSquares, sumOfSquares);
        }
    }

    private void normBackward(
            @Nullable Buffer dx,
            @Nullable Buffer dWeight,
            Buffer dy,
            Buffer xHat,
            Buffer rstd,
            Buffer weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight,
            boolean centred) {
        int[] shape = {rows, cols};
        int[] dense = {cols, 1};
        int[] perRow = {1, 0};
        try (Scratch scratch = new Scratch(this)) {
            Buffer g = scratch.like(dy);
            if (dWeight != null) {
                binary(BinaryFn.MUL, g, dy, xHat, shape, dense, dense);
                sum(dWeight, g, 1, rows, cols, accumulateWeight);
            }
            if (dx != null) {
                Buffer work = scratch.like(dy);
                Buffer rowMean = scratch.allocate(dy.dtype(), rows);
                binary(BinaryFn.MUL, g, dy, weight, shape, dense, new int[] {0, 1});
                binary(BinaryFn.MUL, work, g, xHat, shape, dense, dense);
                sum(rowMean, work, rows, cols, 1, false);
                axpby(rowMean, rowMean, 1.0 / cols, 0);
                binary(BinaryFn.MUL, work, xHat, rowMean, shape, dense, perRow);
                if (centred) {
                    sum(rowMean, g, rows, cols, 1, false);
                    axpby(rowMean, rowMean, 1.0 / cols, 0);
                    binary(BinaryFn.SUB, g, g, rowMean, shape, dense, perRow);
                }
                axpby(g, work, -1, 1);
                binary(BinaryFn.MUL, g, g, rstd, shape, dense, perRow);
                axpby(dx, g, 1, accumulateX ? 1 : 0);
            }
        }
    }

    // ---- softmax and attention

    /// y = softmax of each row of x (rows, cols). y may be x.
    default void softmax(Buffer y, Buffer x, int rows, int cols) {
        int[] shape = {rows, cols};
        try (Scratch scratch = new Scratch(this)) {
            Buffer perRow = scratch.allocate(x.dtype(), rows);
            rowMax(perRow, x, rows, cols);
            binary(BinaryFn.SUB, y, x, perRow, shape, new int[] {cols, 1}, new int[] {1, 0});
            unary(UnaryFn.EXP, y, y);
            sum(perRow, y, rows, cols, 1, false);
            binary(BinaryFn.DIV, y, y, perRow, shape, new int[] {cols, 1}, new int[] {1, 0});
        }
    }

    /// dx ← y · (dy − Σ cols dy · y) (or +=).
    default void softmaxBackward(Buffer dx, Buffer dy, Buffer y, int rows, int cols, boolean accumulate) {
        int[] shape = {rows, cols};
        int[] dense = {cols, 1};
        try (Scratch scratch = new Scratch(this)) {
            Buffer work = scratch.like(y);
            Buffer perRow = scratch.allocate(y.dtype(), rows);
            binary(BinaryFn.MUL, work, dy, y, shape, dense, dense);
            sum(perRow, work, rows, cols, 1, false);
            binary(BinaryFn.SUB, work, dy, perRow, shape, dense, new int[] {1, 0});
            binary(BinaryFn.MUL, work, work, y, shape, dense, dense);
            axpby(dx, work, 1, accumulate ? 1 : 0);
        }
    }

    /// Rotary position embedding of x (batch, t, heads, d) in Llama's rotate-half layout: y = x · cos + rotate(x) · sin
    /// with rotate(x) = (−x₂, x₁) of the two halves. cos and sin are (t, d / 2); sign −1 turns back (the gradient). Su
    /// et al., "RoFormer", 2021, equation 34. y may be x.
    default void rope(Buffer y, Buffer x, Buffer cos, Buffer sin, int batch, int t, int heads, int d, int sign) {
        int half = d / 2;
        int rows = batch * t * heads;
        int[] shape = {batch, t, heads, half};
        int[] dense = {t * heads * half, heads * half, half, 1};
        int[] table = {0, half, 0, 1};
        BinaryFn minus = sign > 0 ? BinaryFn.SUB : BinaryFn.ADD;
        BinaryFn plus = sign > 0 ? BinaryFn.ADD : BinaryFn.SUB;
        try (Scratch scratch = new Scratch(this)) {
            Buffer x1 = scratch.allocate(x.dtype(), (long) rows * half);
            Buffer x2 = scratch.like(x1);
            Buffer work = scratch.like(x1);
            Buffer rotated = scratch.like(x1);
            copy(x1, half, x, d, rows, half, false);
            copy(x2, half, x.slice(half, x.size() - half), d, rows, half, false);
            binary(BinaryFn.MUL, rotated, x1, cos, shape, dense, table);
            binary(BinaryFn.MUL, work, x2, sin, shape, dense, table);
            binary(minus, rotated, rotated, work, shape, dense, dense);
            copy(y, d, rotated, half, rows, half, false);
            binary(BinaryFn.MUL, rotated, x2, cos, shape, dense, table);
            binary(BinaryFn.MUL, work, x1, sin, shape, dense, table);
            binary(plus, rotated, rotated, work, shape, dense, dense);
            copy(y.slice(half, y.size() - half), d, rotated, half, rows, half, false);
        }
    }

    /// Scaled dot-product attention, out = softmax(scale · q · [prefixK; k]ᵀ + visibility) · [prefixV; v] (Vaswani et
    /// al., 2017, equation 1), with grouped-query heads (query head h reads key head h / (heads / kvHeads)) and a
    /// prefix segment of keys and values (Li and Liang, "Prefix-Tuning", 2021) that stands before the real keys and is
    /// seen by every query.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | out, q | (batch, t, heads, d) |
    /// | k, v | (batch, s, kvHeads, d), s ≥ t when causal |
    /// | prefixK, prefixV | (p, kvHeads, d) for all rows of the batch or (batch, p, kvHeads, d); null when p = 0 |
    /// | mask | I32 (batch, p + s), 0 hides a key; null shows all |
    /// | lse | (batch, heads, t): log Σ exp of the scores, an output kept for backward |
    ///
    /// Causal: query i sees keys j ≤ i + (s − t), and all of the prefix. A query that sees no key at all gives zeros.
    default void attention(
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
        ComposedAttention.forward(
                this, out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p, heads, kvHeads, d, causal, scale);
    }

    /// Gradients of [#attention] with P = exp(scores − lse) made again and D = Σ dOut · out: dV = Pᵀ·dOut, dS = P ∘
    /// (dOut·Vᵀ − D), dQ = scale · dS·K, dK = scale · dSᵀ·Q (Dao et al., "FlashAttention", 2022, appendix B.2). The
    /// prefix' gradients have its shape, summed over the batch where it is shared. Any output may be null (dk and dv,
    /// and the prefix' two, come in pairs); all are overwritten.
    default void attentionBackward(
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
        ComposedAttention.backward(
                this, dq, dk, dv, dPrefixK, dPrefixV, dOut, out, lse, q, k, v, prefixK, prefixV, mask, batch, t, s, p,
                heads, kvHeads, d, causal, scale);
    }

    // ---- losses

    /// losses (n) ← lse less the logit of the label, 0 where the label is `ignore`; lse (n) = log Σ exp of each row of
    /// logits (n, v), kept for backward. Labels must lie in [0, v).
    void crossEntropy(Buffer losses, Buffer lse, Buffer logits, Buffer labels, int n, int v, int ignore);

    /// dLogits ← g · (exp(logits − lse) − onehot(label)), zero rows where the label is `ignore` (or +=); g has one
    /// element. dLogits may be logits when not accumulating.
    void crossEntropyBackward(
            Buffer dLogits,
            Buffer g,
            Buffer logits,
            Buffer lse,
            Buffer labels,
            int n,
            int v,
            int ignore,
            boolean accumulate);

    /// loss (1) = mean over the valid rows of the cross-entropy of x · wᵀ, in chunks of rows, so that logits for all n
    /// rows never exist; 0 when no row is valid. Both gradients of the loss are made on the way, each if asked for: dx
    /// (n, c) and dw (v, c), overwritten. x is (n, c), w is (v, c), row-major or prepared (then dw must be null).
    default void linearCrossEntropy(
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
        // With a gradient of w as many logits as it has elements: w, read and added to once a chunk, is then little of
        // it.
        long most = Math.max(1 << 20, dw == null ? 0 : dw.size());
        int chunk = Math.clamp(most / v, Math.min(n, 32), n);
        try (Scratch scratch = new Scratch(this)) {
            Buffer inverseCount = scratch.like(loss);
            Buffer logits = scratch.allocate(x.dtype(), (long) chunk * v);
            Buffer losses = scratch.allocate(loss.dtype(), chunk);
            Buffer lse = scratch.like(losses);
            inverseOfValid(inverseCount, labels, n, ignore);
            fill(loss, 0);
            if (dw != null && n == 0) {
                fill(dw, 0);
            }
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Buffer xs = x.slice((long) from * c, (long) rows * c);
                Buffer ls = labels.slice(from, rows);
                Buffer logit = logits.slice(0, (long) rows * v);
                linear(logit, xs, w, null, rows, c, v);
                crossEntropy(losses, lse, logit, ls, rows, v, ignore);
                sum(loss, losses, 1, rows, 1, true);
                if (dx != null || dw != null) {
                    crossEntropyBackward(logit, inverseCount, logit, lse, ls, rows, v, ignore, false);
                }
                if (dx != null) {
                    linearBackwardInput(dx.slice((long) from * c, (long) rows * c), logit, w, rows, c, v, false);
                }
                if (dw != null) {
                    linearBackwardWeight(dw, logit, xs, rows, c, v, from > 0);
                }
            }
            scaleBy(loss, inverseCount, 1);
        }
    }

    /// y (1) ← 1 / max(1, number of labels that are not `ignore`).
    default void inverseOfValid(Buffer y, Buffer labels, int n, int ignore) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer one = scratch.like(y);
            fill(one, 1);
            countValid(y, labels, n, ignore);
            binary(BinaryFn.MAX, y, y, one, new int[] {1}, new int[] {1}, new int[] {1});
            unary(UnaryFn.RECIPROCAL, y, y);
        }
    }

    /// y (n) ← y · factor, a one-element buffer of y's dtype or its accumulator's.
    default void scaleBy(Buffer y, Buffer factor, int n) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer f = factor.dtype() == y.dtype() ? factor : scratch.allocate(y.dtype(), 1);
            if (f != factor) {
                cast(f, factor);
            }
            binary(BinaryFn.MUL, y, y, f, new int[] {n}, new int[] {1}, new int[] {0});
        }
    }

    // ---- optimisation

    /// y (1) ← Σ x² over the elements of all of `xs`, accumulated in at least F32.
    default void sumOfSquares(Buffer y, List<Buffer> xs) {
        fill(y, 0);
        for (Buffer x : xs) {
            try (Scratch scratch = new Scratch(this)) {
                Buffer squares = scratch.like(x);
                unary(UnaryFn.SQUARE, squares, x);
                sum(y, squares, 1, Math.toIntExact(x.size()), 1, true);
            }
        }
    }

    /// norm (1) ← √sumOfSquares and scale (1) ← min(1, maxNorm / (norm + 1e-6)): torch's `clip_grad_norm_`. norm may be
    /// sumOfSquares.
    default void clipScale(Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer one = scratch.like(norm);
            fill(one, 1);
            unary(UnaryFn.SQRT, norm, sumOfSquares);
            fill(scale, 1e-6 / maxNorm);
            axpby(scale, norm, 1 / maxNorm, 1);
            binary(BinaryFn.MAX, scale, scale, one, new int[] {1}, new int[] {1}, new int[] {1});
            unary(UnaryFn.RECIPROCAL, scale, scale);
        }
    }

    /// One AdamW step over each of several tensors (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm
    /// 2), in torch's form: with ĝ = gScale · g, m ← β₁m + (1 − β₁)ĝ, v ← β₂v + (1 − β₂)ĝ², p ← p − lr · weightDecay ·
    /// p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps). lr, gScale (null: 1) and t (I32, from 1) are one-element
    /// buffers; p, m, v, lists in one order, are updated in place, but where gScale is NaN: all stays as it is then, so that a
    /// step is left out without anybody waiting to learn that it should be.
    void adamW(
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
            double weightDecay);

    /// AdaLoRA's smoothed importance of every entry (Zhang et al., "AdaLoRA", 2023, equations 8 to 10): with I = |gScale · p
    /// · g|, smooth ← β₁ · smooth + (1 − β₁) · I and then spread ← β₂ · spread + (1 − β₂) · |I − smooth|. gScale has one
    /// element (null: 1); smooth and spread are updated in place. On a backend that [#captures], both stay as they are where
    /// gScale is NaN.
    default void importance(
            Buffer smooth, Buffer spread, Buffer p, Buffer g, @Nullable Buffer gScale, double beta1, double beta2) {
        int n = Math.toIntExact(p.size());
        try (Scratch scratch = new Scratch(this)) {
            Buffer now = scratch.like(p);
            binary(BinaryFn.MUL, now, p, g, new int[] {n}, new int[] {1}, new int[] {1});
            if (gScale != null) {
                scaleBy(now, gScale, n);
            }
            unary(UnaryFn.ABS, now, now);
            axpby(smooth, now, 1 - beta1, beta1);
            axpby(now, smooth, -1, 1);
            unary(UnaryFn.ABS, now, now);
            axpby(spread, now, 1 - beta2, beta2);
        }
    }

    /// One SGD step in torch's form: with ĝ = gScale · g + weightDecay · p, velocity ← momentum · velocity + ĝ (absent:
    /// ĝ itself), p ← p − lr · velocity. Where gScale is NaN all stays as it is.
    void sgd(
            Buffer p,
            @Nullable Buffer velocity,
            Buffer g,
            Buffer lr,
            @Nullable Buffer gScale,
            double momentum,
            double weightDecay);

    // ---- host edges

    /// A buffer of `dtype` (F64 or F32) holding `values`.
    default Buffer of(DType dtype, double... values) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment s = arena.allocate((long) values.length * dtype.bytes(), 8);
            for (int i = 0; i < values.length; i++) {
                HostBuffer.set(s, dtype, i, values[i]);
            }
            Buffer b = allocate(dtype, values.length);
            write(b, s);
            return b;
        }
    }

    /// An I32 buffer holding `values`.
    default Buffer ofInts(int... values) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment s = arena.allocate(values.length * 4L, 8);
            MemorySegment.copy(values, 0, s, ValueLayout.JAVA_INT, 0, values.length);
            Buffer b = allocate(DType.I32, values.length);
            write(b, s);
            return b;
        }
    }
}
