package dev.loran.engine.backend;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The specification: scalar loops in the order of [Backend], one element at a time, with every sum in double
/// precision, for F64 and F32. Fused operations are the composed defaults. It is slow, and written to be read.
///
/// Fresh memory is filled with NaN, released memory can no longer be read, and [#liveBuffers] counts what has not been
/// released yet, so tests catch use after release and leaks. For BF16 and F16 the reference is F64 on rounded inputs.
/// May be used by any number of threads.
public class ReferenceBackend implements Backend {
    /// Bytes up to which an arena is not worth closing: every thread of the process stops for it, for 25 µs and more.
    private static final long SMALL = 1 << 16;

    private long liveBytes;
    private long peakBytes;
    private int liveBuffers;

    // ---- memory

    @Override
    public String name() {
        return "reference";
    }

    @Override
    public boolean supports(DType dtype) {
        return dtype == DType.F64 || dtype == DType.F32;
    }

    /// The number of buffers not yet released.
    public synchronized int liveBuffers() {
        return liveBuffers;
    }

    @Override
    public Buffer allocate(DType dtype, long size) {
        long bytes = Math.max(size * dtype.bytes(), 1);
        // A large buffer's memory returns to the system with the last reference, a small one's with a collection.
        boolean large = bytes > SMALL;
        Arena arena = large ? Arena.ofShared() : Arena.ofAuto();
        MemorySegment s = arena.allocate(bytes, 64).asSlice(0, size * dtype.bytes());
        // All bits set is NaN in every floating-point type, and an invalid id.
        s.fill((byte) 0xff);
        count(s.byteSize(), 1);
        return new HostBuffer(this, dtype, s, b -> {
            count(-s.byteSize(), -1);
            if (large) {
                arena.close();
            }
        });
    }

    private synchronized void count(long bytes, int buffers) {
        liveBytes += bytes;
        peakBytes = Math.max(peakBytes, liveBytes);
        liveBuffers += buffers;
    }

    @Override
    public void write(Buffer dst, MemorySegment src) {
        segment(dst).copyFrom(src);
    }

    @Override
    public void read(MemorySegment dst, Buffer src) {
        dst.copyFrom(segment(src));
    }

    @Override
    public synchronized long liveBytes() {
        return liveBytes;
    }

    @Override
    public synchronized long peakBytes() {
        return peakBytes;
    }

    @Override
    public synchronized void resetPeak() {
        peakBytes = liveBytes;
    }

    @Override
    public void close() {}

    /// Element access that looks up the dtype only once.
    private record View(MemorySegment s, DType dtype) {
        static View of(Buffer b) {
            return new View(segment(b), b.dtype());
        }

        double get(long i) {
            return HostBuffer.get(s, dtype, i);
        }

        void set(long i, double value) {
            HostBuffer.set(s, dtype, i, value);
        }

        void put(long i, double value, boolean accumulate) {
            set(i, accumulate ? get(i) + value : value);
        }
    }

    private static MemorySegment segment(Buffer b) {
        return HostBuffer.segment(b);
    }

    // ---- primitives

    @Override
    public void fill(Buffer y, double value) {
        View vy = View.of(y);
        for (long i = 0; i < y.size(); i++) {
            vy.set(i, value);
        }
    }

    @Override
    public void copy(Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                vy.put((long) i * yStride + j, vx.get((long) i * xStride + j), accumulate);
            }
        }
    }

    @Override
    public void cast(Buffer y, Buffer x) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (long i = 0; i < y.size(); i++) {
            vy.set(i, vx.get(i));
        }
    }

    @Override
    public void unary(UnaryFn fn, Buffer y, Buffer x) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (long i = 0; i < y.size(); i++) {
            vy.set(i, fn.apply(vx.get(i)));
        }
    }

    @Override
    public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        View vd = View.of(dx);
        View vg = View.of(dy);
        View vx = View.of(x);
        for (long i = 0; i < dx.size(); i++) {
            vd.put(i, vg.get(i) * fn.derivative(vx.get(i)), accumulate);
        }
    }

    @Override
    public void binary(BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        View vy = View.of(y);
        View va = View.of(a);
        View vb = View.of(b);
        int[] index = new int[shape.length];
        for (long i = 0; i < y.size(); i++) {
            long ai = 0;
            long bi = 0;
            for (int d = 0; d < shape.length; d++) {
                ai += (long) index[d] * aStrides[d];
                bi += (long) index[d] * bStrides[d];
            }
            vy.set(i, fn.apply(va.get(ai), vb.get(bi)));
            advance(index, shape);
        }
    }

    /// Advances to the next index in row-major order.
    private static void advance(int[] index, int[] shape) {
        for (int d = shape.length - 1; d >= 0 && ++index[d] == shape[d]; d--) {
            index[d] = 0;
        }
    }

    @Override
    public void axpby(Buffer y, Buffer x, double alpha, double beta) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (long i = 0; i < y.size(); i++) {
            vy.set(i, beta == 0 ? alpha * vx.get(i) : alpha * vx.get(i) + beta * vy.get(i));
        }
    }

    @Override
    public void sum(Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (int o = 0; o < outer; o++) {
            for (int i = 0; i < inner; i++) {
                double sum = 0;
                for (int j = 0; j < n; j++) {
                    sum += vx.get(((long) o * n + j) * inner + i);
                }
                vy.put((long) o * inner + i, sum, accumulate);
            }
        }
    }

    @Override
    public void rowMax(Buffer y, Buffer x, int rows, int cols) {
        View vy = View.of(y);
        View vx = View.of(x);
        for (int i = 0; i < rows; i++) {
            double max = Double.NEGATIVE_INFINITY;
            for (int j = 0; j < cols; j++) {
                max = Math.max(max, vx.get((long) i * cols + j));
            }
            vy.set(i, max);
        }
    }

    @Override
    public void permute(Buffer y, Buffer x, int[] shape, int[] perm) {
        View vy = View.of(y);
        View vx = View.of(x);
        int rank = shape.length;
        long[] strides = new long[rank];
        long stride = 1;
        for (int d = rank - 1; d >= 0; d--) {
            strides[d] = stride;
            stride *= shape[d];
        }
        int[] out = new int[rank];
        for (int d = 0; d < rank; d++) {
            out[d] = shape[perm[d]];
        }
        int[] index = new int[rank];
        for (long i = 0; i < y.size(); i++) {
            long xi = 0;
            for (int d = 0; d < rank; d++) {
                xi += index[d] * strides[perm[d]];
            }
            vy.set(i, vx.get(xi));
            advance(index, out);
        }
    }

    @Override
    public void gemm(Matrix mc, Matrix ma, Matrix mb, int batch, double alpha, double beta) {
        Matrix.check(mc, ma, mb);
        View vc = View.of(mc.buffer());
        View va = View.of(ma.buffer());
        View vb = View.of(mb.buffer());
        for (int z = 0; z < batch; z++) {
            for (int i = 0; i < mc.rows(); i++) {
                for (int j = 0; j < mc.cols(); j++) {
                    double sum = 0;
                    for (int p = 0; p < ma.cols(); p++) {
                        sum += va.get(at(ma, z, i, p)) * vb.get(at(mb, z, p, j));
                    }
                    long at = at(mc, z, i, j);
                    vc.set(at, beta == 0 ? alpha * sum : alpha * sum + beta * vc.get(at));
                }
            }
        }
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        View vy = View.of(y);
        View vt = View.of(table);
        View vi = View.of(ids);
        for (int i = 0; i < n; i++) {
            int id = (int) vi.get(i);
            checkId("gatherRows", id, table.size() / Math.max(1, cols));
            for (int j = 0; j < cols; j++) {
                vy.set((long) i * cols + j, id < 0 ? 0 : vt.get((long) id * cols + j));
            }
        }
    }

    @Override
    public void scatterAddRows(Buffer dTable, Buffer dy, Buffer ids, int n, int tableRows, int cols) {
        View vt = View.of(dTable);
        View vy = View.of(dy);
        View vi = View.of(ids);
        for (int i = 0; i < n; i++) {
            int id = (int) vi.get(i);
            checkId("scatterAddRows", id, tableRows);
            for (int j = 0; j < cols && id >= 0; j++) {
                vt.put((long) id * cols + j, vy.get((long) i * cols + j), true);
            }
        }
    }

    private static void checkId(String op, int id, long rows) {
        if (id >= rows) {
            throw new BackendException(op + ": id " + id + " does not exist in a table of " + rows + " rows");
        }
    }

    @Override
    public void dropout(Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        View vy = View.of(y);
        View vx = View.of(x);
        int step = (int) View.of(mask.microStep()).get(0);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                long at = (long) i * cols + j;
                vy.put(at, mask.keeps(step, i, j) ? vx.get(at) * mask.scale() : 0, accumulate);
            }
        }
    }

    @Override
    public void countValid(Buffer y, Buffer ids, int n, int ignore) {
        View vi = View.of(ids);
        int count = 0;
        for (int i = 0; i < n; i++) {
            count += (int) vi.get(i) != ignore ? 1 : 0;
        }
        View.of(y).set(0, count);
    }

    /// The position of element (i, j) of matrix `z` in a series of matrices.
    private static long at(Matrix m, int z, int i, int j) {
        return z * m.stride() + (m.transposed() ? (long) j * m.ld() + i : (long) i * m.ld() + j);
    }

    // ---- not composable from primitives

    @Override
    public LossKernels loss() {
        return new Losses();
    }

    @Override
    public OptimizerKernels optimizer() {
        return new Optimizers();
    }

    private final class Losses implements LossKernels {
        @Override
        public Backend backend() {
            return ReferenceBackend.this;
        }

        @Override
        public void crossEntropy(Buffer losses, Buffer lse, Matrix logits, Labels labels) {
            View vo = View.of(losses);
            View vs = View.of(lse);
            View vx = View.of(logits.buffer());
            View vl = View.of(labels.ids());
            int v = logits.cols();
            for (int i = 0; i < logits.rows(); i++) {
                double max = Double.NEGATIVE_INFINITY;
                for (int j = 0; j < v; j++) {
                    max = Math.max(max, vx.get((long) i * v + j));
                }
                double sum = 0;
                for (int j = 0; j < v; j++) {
                    sum += Math.exp(vx.get((long) i * v + j) - max);
                }
                double logSum = max + Math.log(sum);
                int label = (int) vl.get(i);
                vs.set(i, logSum);
                if (label == labels.ignore()) {
                    vo.set(i, 0);
                } else {
                    checkLabel(label, v);
                    vo.set(i, logSum - vx.get((long) i * v + label));
                }
            }
        }

        private static void checkLabel(int label, int v) {
            if (label < 0 || label >= v) {
                throw new BackendException("crossEntropy: label " + label + " does not lie in [0, " + v + ")");
            }
        }

        @Override
        public void crossEntropyBackward(Gradient dLogits, Buffer g, Matrix logits, Buffer lse, Labels labels) {
            View vd = View.of(dLogits.buffer());
            View vx = View.of(logits.buffer());
            View vs = View.of(lse);
            View vl = View.of(labels.ids());
            int v = logits.cols();
            double factor = View.of(g).get(0);
            for (int i = 0; i < logits.rows(); i++) {
                int label = (int) vl.get(i);
                for (int j = 0; j < v; j++) {
                    long at = (long) i * v + j;
                    double p = Math.exp(vx.get(at) - vs.get(i)) - (j == label ? 1 : 0);
                    vd.put(at, label == labels.ignore() ? 0 : factor * p, dLogits.accumulate());
                }
            }
        }
    }

    private final class Optimizers implements OptimizerKernels {
        @Override
        public Backend backend() {
            return ReferenceBackend.this;
        }

        @Override
        public void adamW(List<Buffer> p, List<Buffer> m, List<Buffer> v, List<Buffer> g, AdamWStep by) {
            double rate = View.of(by.lr()).get(0);
            double step = View.of(by.t()).get(0);
            double scale = scale(by.gScale());
            if (Double.isNaN(scale)) {
                return;
            }
            double beta1 = by.beta1();
            double beta2 = by.beta2();
            double correction1 = 1 - Math.pow(beta1, step);
            double correction2 = Math.sqrt(1 - Math.pow(beta2, step));
            for (int k = 0; k < p.size(); k++) {
                View vp = View.of(p.get(k));
                View vm = View.of(m.get(k));
                View vv = View.of(v.get(k));
                View vg = View.of(g.get(k));
                for (long i = 0; i < p.get(k).size(); i++) {
                    double gradient = scale * vg.get(i);
                    vm.set(i, beta1 * vm.get(i) + (1 - beta1) * gradient);
                    vv.set(i, beta2 * vv.get(i) + (1 - beta2) * gradient * gradient);
                    double decayed = vp.get(i) * (1 - rate * by.weightDecay());
                    double root = Math.sqrt(vv.get(i)) / correction2 + by.eps();
                    vp.set(i, decayed - rate / correction1 * vm.get(i) / root);
                }
            }
        }

        private static double scale(@Nullable Buffer gScale) {
            return gScale == null ? 1 : View.of(gScale).get(0);
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
            View vp = View.of(p);
            View vg = View.of(g);
            double rate = View.of(lr).get(0);
            double scale = scale(gScale);
            if (Double.isNaN(scale)) {
                return;
            }
            for (long i = 0; i < p.size(); i++) {
                double direction = scale * vg.get(i) + weightDecay * vp.get(i);
                if (velocity != null) {
                    View vv = View.of(velocity);
                    direction += momentum * vv.get(i);
                    vv.set(i, direction);
                }
                vp.set(i, vp.get(i) - rate * direction);
            }
        }
    }
}
