package dev.loran.engine.backend;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The contract of the kernels: buffers, sizes and scalars; no autograd, no modules, no configuration.
///
/// A backend holds memory and records work; its abstract methods are the primitives. Fused operations are grouped into
/// families: [#linear], [#activation], [#norm], [#attention], [#loss] and [#optimizer]. Each fused operation is a
/// **default method composed of primitives**, which serves as fallback, oracle and documentation at once. A fast
/// backend has its own class per family and overrides what matters there. The gradient of an operation is declared
/// below its forward.
///
/// Conventions for all methods:
/// - Arguments: outputs first, then inputs, then sizes, then scalars; related arguments form a record, such as
///   [Matrix]. Buffers are dense and row-major unless a stride is given; an offset is expressed as a [Buffer#slice].
///   Outputs may not overlap inputs unless the method says so.
/// - Outputs are overwritten: whatever was there, even NaN, is discarded. A [Gradient], or a method that takes
///   `accumulate`, can ask for the result to be added instead; the memory must then hold numbers.
/// - Floating-point arguments of one call have the same dtype unless the method says otherwise; a backend never casts
///   implicitly. Labels, ids and masks are I32. Losses, and statistics kept for backward, have the dtype's
///   [DType#accumulator]: F32 for BF16 and F16.
/// - Values that change from step to step (learning rate, step, Philox counter, norms) live in one-element buffers, and
///   no method returns a number: [#read] is the only synchronization point.
/// - The same arguments give the same bits, for any number of threads.
/// - Threads: every method except [#close] may be called from any number of threads, as long as each writes to separate
///   outputs; the results have the same bits. While a step is being recorded ([#capture]), calls from other threads
///   fail. Closing must be the last call.
public interface Backend extends AutoCloseable {

    // ---- memory

    /// Short name for messages: `reference`, `simd`, `cuda`.
    String name();

    /// A human-readable description: the name, and what is known of the device.
    default String describe() {
        return name();
    }

    /// Whether this backend can compute with floating-point tensors of `dtype`.
    boolean supports(DType dtype);

    /// The dtype in which a model's linear layers, at least those with prepared weights ([#prepare]), take the operands
    /// of their products: BF16 if the operands of a model kept in F32 ([#storage]) are rounded to it, or F32 if nothing
    /// is rounded.
    default DType operands() {
        return DType.F32;
    }

    /// The dtype in which to keep the weights and activations of a model that is to compute with [#operands]: that
    /// dtype itself if every operation supports it, else F32. Trainable parameters are kept in its [DType#accumulator]
    /// and cast where they are used.
    default DType storage() {
        return DType.F32;
    }

    /// Allocates a buffer of uninitialized memory, with one reference held by the caller.
    ///
    /// @throws BackendException if there is not enough memory; the message says how much was requested, held and free
    Buffer allocate(DType dtype, long size);

    /// Copies `src` (same number of bytes) into `dst`; returns once `src` may be modified.
    void write(Buffer dst, MemorySegment src);

    /// Copies `src` into `dst` (same number of bytes); waits for all work that `src` depends on.
    void read(MemorySegment dst, Buffer src);

    /// Starts reading `src` in the state that the work submitted so far leaves it in. Getting the result waits for that
    /// work, but not for work submitted later.
    default Supplier<MemorySegment> readLater(Buffer src) {
        long[] words = new long[Math.toIntExact((src.bytes() + 7) / 8)];
        MemorySegment copy = MemorySegment.ofArray(words).asSlice(0, src.bytes());
        read(copy, src);
        return () -> copy;
    }

    /// Wraps existing native memory in a buffer, in place if the backend can, else as a copy. Meant for memory-mapped
    /// model files; the buffer is never written to. `onFree` runs once, when `memory` may be unmapped: when the
    /// buffer's last reference is released or, if the memory was copied, before this method returns.
    default Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
        Buffer b = allocate(dtype, memory.byteSize() / dtype.bytes());
        write(b, memory);
        onFree.run();
        return b;
    }

    /// Bytes of device memory that buffers may fill; 0 if buffers live in the memory of the process.
    default long totalBytes() {
        return 0;
    }

    /// Bytes held by live buffers.
    long liveBytes();

    /// The highest value of [#liveBytes] since the start or the last [#resetPeak].
    long peakBytes();

    /// Makes the current [#liveBytes] the peak.
    void resetPeak();

    /// Returns a backend that counts memory exactly as this one does but has none: its floating-point buffers have
    /// sizes but no contents, and its operations request all the memory they need but compute nothing. With it, the
    /// peak memory of a step can be determined before the step is run. Null if this backend has no such mode. The
    /// caller closes it.
    default @Nullable Backend hollow() {
        return null;
    }

    /// Whether this is a [#hollow] backend, for which there is no point in drawing or computing values.
    default boolean isHollow() {
        return false;
    }

    /// Packs a frozen weight (`out`, `in`) once into the form that this backend multiplies fastest. The result replaces
    /// the row-major buffer as `w` in [LinearKernels] and in [LossKernels#linearCrossEntropy] and as `table` in
    /// [#gatherRows], and nowhere else. It has its own reference count, so the caller then releases the row-major
    /// buffer.
    default Buffer prepare(Buffer w, int out, int in) {
        return w.retain();
    }

    /// Returns the row-major form of a prepared weight, bit for bit (if the weight was rounded, with the rounded
    /// values), with its own reference.
    default Buffer restore(Buffer prepared, int out, int in) {
        return prepared.retain();
    }

    @Override
    void close();

    // ---- recorded work

    /// Work recorded by [#capture].
    interface Replay extends AutoCloseable {
        /// Runs all of it again on the current contents of its buffers. Returns false, having done nothing, if the
        /// backend has discarded the recording because a buffer it uses was released or because memory ran short.
        boolean run();

        @Override
        void close();
    }

    /// Whether [#capture] is supported.
    default boolean captures() {
        return false;
    }

    /// Runs `step` in order to record what it asks of this backend. None of that work is done until [Replay#run], which
    /// costs one call where the step made hundreds. `step` must release what it allocates; what it writes from host
    /// memory is stored as written at recording time; it must not read.
    ///
    /// @throws BackendException if `step` breaks these rules, or if this backend does not record
    default Replay capture(Runnable step) {
        throw new BackendException(name() + ": records no work; run the step itself");
    }

    // ---- primitives

    /// y ← value.
    void fill(Buffer y, double value);

    /// Copies a block of `rows` x `cols`: y[i · yStride + j] ← x[i · xStride + j] (or +=). Any dtype, which must be the
    /// same for both when not accumulating.
    void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate);

    /// y ← x converted to y's dtype, rounded to nearest even.
    void cast(Buffer y, Buffer x);

    /// y ← fn(x). y may be x.
    void unary(UnaryFn fn, Buffer y, Buffer x);

    /// dx ← dy · fn′(x) (or +=). dx may be dy when not accumulating.
    void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate);

    /// y ← fn(a, b) over `shape`; strides are in elements, one per dimension, 0 where an operand is broadcast. y is
    /// dense and may be a or b if that one is not broadcast.
    void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides);

    /// y ← alpha · x + beta · y; with beta = 0 the previous contents of y do not matter. y may be x.
    void axpby(Buffer y, Buffer x, double alpha, double beta);

    /// y (outer, inner) ← Σ over n of x (outer, n, inner) (or +=), accumulated in at least F32.
    void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate);

    /// y (rows) ← max over the columns of x (rows, cols).
    void rowMax(Buffer y, Buffer x, int rows, int cols);

    /// y ← x with its dimensions permuted: dimension i of y is dimension `perm[i]` of x, which has `shape`.
    void permute(Buffer y, Buffer x, int[] shape, int[] perm);

    /// `batch` products c ← alpha · a · b + beta · c of (m, k) by (k, n), consecutive matrices being [Matrix#stride]
    /// elements apart. With beta = 0 the previous contents of c do not matter.
    void gemm(Matrix c, Matrix a, Matrix b, int batch, double alpha, double beta);

    /// One product: c ← alpha · a · b + beta · c.
    default void gemm(Matrix c, Matrix a, Matrix b, double alpha, double beta) {
        gemm(c, a, b, 1, alpha, beta);
    }

    /// y (n, cols) ← rows `ids` (n) of `table` (·, cols), row-major or prepared; a negative id gives a row of zeros.
    void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols);

    /// `dTable[ids[i]] += dy[i]` for i = 0 … n−1 in that order; negative ids are skipped.
    void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols);

    /// y ← x · [mask keeps (row, col)] / (1 − p) over (rows, cols) (or +=). y may be x when not accumulating.
    void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate);

    /// y (1, floating-point) ← the number of entries of `ids` (n) that are not `ignore`.
    void countValid(Buffer y, Buffer ids, int n, int ignore);

    // ---- composed of these

    /// y ← a · b, element-wise. y may be a or b.
    default void multiply(Buffer y, Buffer a, Buffer b) {
        int[] dense = {1};
        binary(BinaryFn.MUL, y, a, b, new int[] {Math.toIntExact(y.size())}, dense, dense);
    }

    /// y (n) ← y · factor, where factor is a one-element buffer of y's dtype or its accumulator's.
    default void scaleBy(Buffer y, Buffer factor, int n) {
        try (Scratch scratch = new Scratch(this)) {
            Buffer f = factor.dtype() == y.dtype() ? factor : scratch.allocate(y.dtype(), 1);
            if (f != factor) {
                cast(f, factor);
            }
            binary(BinaryFn.MUL, y, y, f, new int[] {n}, new int[] {1}, new int[] {0});
        }
    }

    // ---- kernel families

    /// Products with the weight of a linear layer, including LoRA's.
    default LinearKernels linear() {
        return () -> this;
    }

    /// Element-wise work that follows a product.
    default ActivationKernels activation() {
        return () -> this;
    }

    /// Layer norm and RMS norm.
    default NormKernels norm() {
        return () -> this;
    }

    /// Attention, softmax and rotary positions.
    default AttentionKernels attention() {
        return () -> this;
    }

    /// Losses with integer labels.
    LossKernels loss();

    /// Optimizer steps.
    OptimizerKernels optimizer();

    /// What this backend offers to custom operations beyond the contract, such as its worker threads or a way to launch
    /// kernels; null if it has no such thing. A backend that wraps another forwards the call.
    default <T> @Nullable T capability(Class<T> type) {
        return type.isInstance(this) ? type.cast(this) : null;
    }

    // ---- host data

    /// Returns a buffer of `dtype` (F64 or F32) holding `values`.
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

    /// Returns an I32 buffer holding `values`.
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
