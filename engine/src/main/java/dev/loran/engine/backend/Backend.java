package dev.loran.engine.backend;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The kernels' contract: buffers, sizes and scalars; no autograd, no modules, no configuration.
///
/// A backend holds memory and records work; its abstract methods are the primitives. Fused operations stand in
/// families, which it hands out: [#linear], [#activation], [#norm], [#attention], [#loss], [#optimizer]. Each of them
/// is a **default method composed of primitives**: fallback, oracle and documentation at once; a fast backend has a
/// class of its own for a family and overrides there what matters. A gradient stands under its forward.
///
/// Conventions, for all methods:
/// - Arguments: outputs first, then inputs, then sizes, then scalars; what belongs together is a record, such as a
///   [Matrix]. Buffers are dense and row-major unless a stride is given; an offset is a [Buffer#slice]. Outputs may not
///   overlap inputs unless the method says so.
/// - Outputs are overwritten; a [Gradient], or a method that takes `accumulate`, may ask to add to what is there (the
///   memory must then hold numbers) instead of overwriting (whatever was there, NaN too, vanishes).
/// - Floating arguments of one call have one dtype unless the method says otherwise; a backend never casts implicitly.
///   Labels, ids and masks are I32. Statistics kept for backward and losses have the dtype's [DType#accumulator]: F32
///   beside BF16 and F16.
/// - What changes from step to step (learning rate, step, Philox counter, norms) lives in one-element buffers, and no
///   method returns a number: [#read] is the only synchronisation.
/// - The same arguments give the same bits, for any number of threads.
/// - Threads: every method except [#close] is safe from any number of threads, each on outputs of its own, to the same
///   bits. While a step is recorded ([#capture]) other threads' calls fail. Closing must be the last call.
public interface Backend extends AutoCloseable {

    // ---- memory

    /// Short name for messages: `reference`, `simd`, `cuda`.
    String name();

    /// What computes, for people: the name, and what there is to say of the device.
    default String describe() {
        return name();
    }

    /// Whether floating tensors of `dtype` can be computed with.
    boolean supports(DType dtype);

    /// What the products of a model's linear layers, at least those with prepared weights ([#prepare]), take operands
    /// of: BF16, to which they round those of a model kept in F32 ([#storage]), or F32 where nothing is rounded.
    default DType operands() {
        return DType.F32;
    }

    /// What the weights and activations of a model that is to compute with [#operands] are kept in: these themselves
    /// where every operation takes them, else F32. Parameters that train are kept in its [DType#accumulator] and cast
    /// where they are used.
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

    /// Begins to read `src` as the work handed over so far leaves it. The result is asked for once it is needed: it
    /// waits for that work and not for what is handed over later.
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

    /// Bytes of memory of a device that buffers may fill; 0 where they lie in the memory of the process.
    default long totalBytes() {
        return 0;
    }

    /// Bytes of live buffers now.
    long liveBytes();

    /// The highest [#liveBytes] since the start or the last [#resetPeak].
    long peakBytes();

    /// Makes the current [#liveBytes] the peak.
    void resetPeak();

    /// A backend that counts memory as this one does and has none: its floating buffers have sizes but no contents, and
    /// its operations ask for all the memory that they need and compute nothing. So the peak of a step is known before
    /// it is run. Null where there is no such thing. Closed by the caller.
    default @Nullable Backend hollow() {
        return null;
    }

    /// Whether this is a [#hollow] backend: what is drawn or computed for it is of no use.
    default boolean isHollow() {
        return false;
    }

    /// Packs a frozen weight (`out`, `in`) once into the form this backend multiplies fastest by; the result stands in
    /// for the row-major buffer in `w` of [LinearKernels] and of [LossKernels#linearCrossEntropy], in `table` of
    /// [#gatherRows], and nowhere else. It takes its own count: the caller then releases the row-major one.
    default Buffer prepare(Buffer w, int out, int in) {
        return w.retain();
    }

    /// The row-major weight of a prepared one, bit for bit (of one that was rounded, as it was rounded), with a count
    /// of its own.
    default Buffer restore(Buffer prepared, int out, int in) {
        return prepared.retain();
    }

    @Override
    void close();

    // ---- recorded work

    /// Work that [#capture] recorded.
    interface Replay extends AutoCloseable {
        /// Does all of it again, on what its buffers hold now. False, with nothing done, if the backend gave it up:
        /// because a buffer it uses was released, or for want of memory.
        boolean run();

        @Override
        void close();
    }

    /// Whether [#capture] records.
    default boolean captures() {
        return false;
    }

    /// Runs `step` to record what it asks of this backend; nothing of that is done before [Replay#run], which costs one
    /// call where the step made hundreds. What `step` allocates it must release; what it writes from host memory is
    /// kept as it is; it reads nothing.
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

    /// `batch` products c ← alpha · a · b + beta · c of (m, k) by (k, n), each matrix [Matrix#stride] elements after
    /// the one before. With beta = 0 what c held does not matter.
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

    /// y (1, of a floating dtype) ← the number of entries of `ids` (n) that are not `ignore`.
    void countValid(Buffer y, Buffer ids, int n, int ignore);

    // ---- made of these

    /// y ← a · b, element by element. y may be a or b.
    default void multiply(Buffer y, Buffer a, Buffer b) {
        int[] dense = {1};
        binary(BinaryFn.MUL, y, a, b, new int[] {Math.toIntExact(y.size())}, dense, dense);
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

    // ---- families of kernels

    /// Products with the weight of a linear layer, LoRA's among them.
    default LinearKernels linear() {
        return () -> this;
    }

    /// What follows a product element by element.
    default ActivationKernels activation() {
        return () -> this;
    }

    /// Layer norm and RMS norm.
    default NormKernels norm() {
        return () -> this;
    }

    /// Attention, softmax, rotary positions.
    default AttentionKernels attention() {
        return () -> this;
    }

    /// Losses with integer labels.
    LossKernels loss();

    /// Steps of optimizers.
    OptimizerKernels optimizer();

    /// What this backend offers beyond the contract to an operation of your own, such as the threads that compute or a
    /// way to launch kernels: null where it has no such thing. A backend in front of another passes the question on.
    default <T> @Nullable T capability(Class<T> type) {
        return type.isInstance(this) ? type.cast(this) : null;
    }

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
