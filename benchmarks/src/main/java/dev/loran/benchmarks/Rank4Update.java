package dev.loran.benchmarks;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.Autograd;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCase.Input;
import dev.loran.kernels.cuda.CudaContext;
import dev.loran.kernels.cuda.PtxKernel;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import jdk.incubator.vector.FloatVector;

/// The worked example of the kernel guide in `dev.loran.kernels`: y = x + t · bᵀ with x (n, out), t (n, 4), b (out, 4),
/// the last step of a LoRA layer of rank 4, as a custom operation with a kernel that evolves from naive to fast.
///
/// The capabilities of the backend decide what runs: if it offers [Parallel], a kernel for the CPU; if it offers
/// [CudaContext], a kernel in PTX. On other backends (such as the reference, which checks the gradients in F64), and in
/// types other than F32, the backend's own matrix product is used.
record Rank4Update(Tensor x, Tensor t, Tensor b) implements Op {
    static final int RANK = 4;

    /// y (n, out) ← x (n, out) + t (n, 4) · bᵀ; all row-major F32. Most steps use only the calling thread.
    interface Kernel {
        void run(Parallel parallel, MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment b, int n, int out);
    }

    static Tensor forward(Tensor x, Tensor t, Tensor b, Kernel kernel) {
        int n = x.shape().rows();
        int out = x.shape().cols();
        Backend backend = x.backend();
        try (Scratch scratch = new Scratch(backend)) {
            Buffer y = scratch.like(x.buffer());
            Parallel parallel = backend.capability(Parallel.class);
            CudaContext cuda = backend.capability(CudaContext.class);
            if (parallel != null) {
                kernel.run(
                        parallel,
                        HostBuffer.segment(y),
                        HostBuffer.segment(x.buffer()),
                        HostBuffer.segment(t.buffer()),
                        HostBuffer.segment(b.buffer()),
                        n,
                        out);
            } else if (cuda != null && x.dtype() == DType.F32) {
                launch(cuda, y, x.buffer(), t.buffer(), b.buffer(), n, out);
            } else {
                backend.axpby(y, x.buffer(), 1, 0);
                backend.gemm(x.matrix().in(y), t.matrix(), b.matrix().t(), 1, 1);
            }
            return Autograd.record(new Rank4Update(x, t, b), x.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x, t, b);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(t, b);
    }

    /// dx = dy, dt = dy · b, db = dyᵀ · t.
    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Backend backend = gradOut.backend();
        Matrix dy = gradOut.matrix();
        if (gradients.wants(x)) {
            gradients.pass(x, dy.buffer());
        }
        if (gradients.wants(t)) {
            backend.linear().linearBackwardInput(gradients.into(t), dy, b.matrix());
        }
        if (gradients.wants(b)) {
            backend.linear().linearBackwardWeight(gradients.into(b), dy, t.matrix());
        }
    }

    /// The case that checks it: sizes, the same function composed of the engine's operations, and its cost.
    static OpCase opCase(int n, int out, Kernel kernel) {
        return OpCase.of(
                        "rank4Update",
                        n + "x" + out,
                        Shape.of(n, out),
                        in -> forward(in.get("x"), in.get("t"), in.get("b"), kernel))
                .with(Input.trainable("x", n, out), Input.trainable("t", n, RANK), Input.trainable("b", out, RANK))
                .composed(in -> in.get("x").add(Functional.linear(in.get("t"), in.get("b"), null)))
                .flops(2L * RANK * n * out, 4L * RANK * n * out);
    }

    // ---- step 1: the definition

    /// Element by element, exactly as in the formula.
    static void scalar(
            Parallel parallel, MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment b, int n, int out) {
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < out; j++) {
                float sum = x.get(FLOAT, 4 * ((long) i * out + j));
                for (int r = 0; r < RANK; r++) {
                    sum += t.get(FLOAT, 4L * (RANK * i + r)) * b.get(FLOAT, 4L * (RANK * j + r));
                }
                y.set(FLOAT, 4 * ((long) i * out + j), sum);
            }
        }
    }

    // ---- step 2: vectors along a row

    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    /// A vector of y is x plus four rows of bᵀ, each multiplied by one element of t. bᵀ is laid out once per call,
    /// because what is read along a row must be stored along a row.
    static void vector(
            Parallel parallel, MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment b, int n, int out) {
        MemorySegment rows = transposed(parallel, b, out);
        for (int i = 0; i < n; i++) {
            rowsOf1(y, x, t, rows, i, out);
        }
    }

    private static MemorySegment transposed(Parallel parallel, MemorySegment b, int out) {
        MemorySegment rows = parallel.workspace().segment(Workspace.Slot.OWN, 4L * RANK * out);
        for (int j = 0; j < out; j++) {
            for (int r = 0; r < RANK; r++) {
                rows.set(FLOAT, 4 * ((long) r * out + j), b.get(FLOAT, 4L * (RANK * j + r)));
            }
        }
        return rows;
    }

    private static void rowsOf1(MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment rows, int i, int out) {
        float t0 = t.get(FLOAT, 16L * i);
        float t1 = t.get(FLOAT, 16L * i + 4);
        float t2 = t.get(FLOAT, 16L * i + 8);
        float t3 = t.get(FLOAT, 16L * i + 12);
        long high = 4L * out;
        int j = 0;
        for (; j <= out - V; j += V) {
            long at = 4L * j;
            FloatVector sum = load(x, i * high + at)
                    .add(load(rows, at).mul(t0))
                    .add(load(rows, high + at).mul(t1))
                    .add(load(rows, 2 * high + at).mul(t2))
                    .add(load(rows, 3 * high + at).mul(t3));
            store(y, i * high + at, sum);
        }
        tail(y, x, t, rows, i, j, out);
    }

    // ---- step 3: four rows at a time

    /// Four vectors of bᵀ, once loaded into registers, serve four rows of y: instead of five loads, a vector of y takes
    /// two, and each term is added in one fused operation.
    static void blocked(
            Parallel parallel, MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment b, int n, int out) {
        blockedRows(y, x, t, transposed(parallel, b, out), 0, n, out);
    }

    private static void blockedRows(
            MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment rows, int from, int to, int out) {
        int i = from;
        for (; i <= to - 4; i += 4) {
            rowsOf4(y, x, t, rows, i, out);
        }
        for (; i < to; i++) {
            rowsOf1(y, x, t, rows, i, out);
        }
    }

    private static void rowsOf4(MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment rows, int i, int out) {
        long high = 4L * out;
        long first = i * high;
        int whole = out - out % V;
        for (int j = 0; j < whole; j += V) {
            long at = 4L * j;
            FloatVector b0 = load(rows, at);
            FloatVector b1 = load(rows, high + at);
            FloatVector b2 = load(rows, 2 * high + at);
            FloatVector b3 = load(rows, 3 * high + at);
            for (int k = 0; k < 4; k++) {
                long row = first + k * high + at;
                long low = 16L * (i + k);
                FloatVector sum = b0.fma(splat(t, low), load(x, row));
                sum = b1.fma(splat(t, low + 4), sum);
                sum = b2.fma(splat(t, low + 8), sum);
                store(y, row, b3.fma(splat(t, low + 12), sum));
            }
        }
        for (int k = 0; k < 4; k++) {
            tail(y, x, t, rows, i + k, whole, out);
        }
    }

    private static void tail(
            MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment rows, int i, int from, int out) {
        for (int j = from; j < out; j++) {
            float sum = x.get(FLOAT, 4 * ((long) i * out + j));
            for (int r = 0; r < RANK; r++) {
                sum += t.get(FLOAT, 4L * (RANK * i + r)) * rows.get(FLOAT, 4 * ((long) r * out + j));
            }
            y.set(FLOAT, 4 * ((long) i * out + j), sum);
        }
    }

    // ---- step 4: all cores

    /// Blocks of rows, distributed among threads; the bits do not depend on which thread takes which block.
    static void parallel(
            Parallel parallel, MemorySegment y, MemorySegment x, MemorySegment t, MemorySegment b, int n, int out) {
        MemorySegment rows = transposed(parallel, b, out);
        int each = 64;
        parallel.parallelFor(
                Math.ceilDiv(n, each),
                task -> blockedRows(y, x, t, rows, task * each, Math.min(n, (task + 1) * each), out));
    }

    // ---- on a GPU

    /// Threads per block, along a row.
    private static final int THREADS = 256;

    private static final PtxKernel PTX = new PtxKernel("rank4_update", PtxKernel.text(Rank4Update.class, "rank4.ptx"));

    /// One thread per element of y, and one row of blocks per row of y: the row of t is a single load for all threads
    /// of a block, and rows of b are adjacent.
    private static void launch(CudaContext cuda, Buffer y, Buffer x, Buffer t, Buffer b, int n, int out) {
        cuda.launch(
                PTX,
                new int[] {n, Math.ceilDiv(out, THREADS)},
                new int[] {THREADS},
                0,
                cuda.address(y, DType.F32),
                cuda.address(x, DType.F32),
                cuda.address(t, DType.F32),
                cuda.address(b, DType.F32),
                out);
    }
}
