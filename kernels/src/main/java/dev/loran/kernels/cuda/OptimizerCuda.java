package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.Scratch;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// Launches `optimizer.cu`: in-place AdamW and SGD, the norm of all gradients, and the scale that clips them.
record OptimizerCuda(Backend backend, CudaContext cuda) implements OptimizerKernels {
    /// As in optimizer.cu.
    private static final int TENSORS = 80;

    private static final long SHARE = 4096;

    @Override
    public void clipScale(Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        DType t = CudaContext.floating(norm);
        int[] one = {1};
        cuda.launch(
                "optimizer",
                "clip_scale" + Grid.suffix(t),
                one,
                one,
                cuda.address(norm),
                cuda.address(scale, t),
                cuda.address(sumOfSquares, t),
                CudaKernels.bits(maxNorm));
    }

    /// The number of partial sums for the squares of tensors of `sizes` elements.
    private static int shares(long[] sizes) {
        long shares = 0;
        for (long size : sizes) {
            shares += Math.ceilDiv(size, SHARE);
        }
        return Math.toIntExact(shares);
    }

    @Override
    public void sumOfSquares(Buffer y, List<Buffer> xs) {
        DType t = CudaContext.floating(y);
        String s = Grid.suffix(t);
        long[] sizes = sizes(xs);
        int[] done = {0};
        try (Scratch scratch = cuda.scratch()) {
            long partial = cuda.address(scratch.allocate(DType.F32, shares(sizes)));
            forTensors(sizes, List.of(addresses(xs, t)), (blocks, tensors) -> {
                cuda.launch("optimizer", "squares" + s, blocks, Grid.FLAT_BLOCK, then(tensors, partial + 4L * done[0]));
                done[0] += blocks[0];
            });
            long to = cuda.address(y);
            cuda.launch("optimizer", "finish" + s, new int[] {1}, Grid.row(done[0]), to, partial, done[0]);
        }
    }

    @Override
    public void adamW(List<Buffer> p, List<Buffer> m, List<Buffer> v, List<Buffer> g, AdamWStep step) {
        DType type = CudaContext.floating(step.lr());
        long[] scalars = {
            cuda.address(step.lr()),
            cuda.address(step.t(), DType.I32),
            cuda.optional(step.gScale(), type),
            CudaKernels.bits(step.beta1()),
            CudaKernels.bits(step.beta2()),
            CudaKernels.bits(Math.log(step.beta1())),
            CudaKernels.bits(Math.log(step.beta2())),
            CudaKernels.bits(step.eps()),
            CudaKernels.bits(step.weightDecay())
        };
        List<long[]> pmvg =
                Stream.of(p, m, v, g).map(list -> addresses(list, type)).toList();
        String kernel = "adamw" + Grid.suffix(type);
        forTensors(
                sizes(p),
                pmvg,
                (blocks, tensors) -> cuda.launch("optimizer", kernel, blocks, Grid.FLAT_BLOCK, then(tensors, scalars)));
    }

    private long[] addresses(List<Buffer> buffers, DType dtype) {
        return buffers.stream().mapToLong(b -> cuda.address(b, dtype)).toArray();
    }

    private static long[] sizes(List<Buffer> buffers) {
        return buffers.stream().mapToLong(Buffer::size).toArray();
    }

    /// A launch for some of the tensors: the number of blocks, and the words of `Tensors`.
    private interface Launch {
        void of(int[] blocks, long[] tensors);
    }

    /// Splits the tensors into launches of as many as fit into the arguments.
    private static void forTensors(long[] sizes, List<long[]> arrays, Launch launch) {
        for (int from = 0; from < sizes.length; from += TENSORS) {
            int count = Math.min(TENSORS, sizes.length - from);
            long[] words = new long[(arrays.size() + 1) * TENSORS];
            int[] first = new int[TENSORS + 1];
            int blocks = 0;
            for (int i = 0; i < count; i++) {
                for (int a = 0; a < arrays.size(); a++) {
                    words[a * TENSORS + i] = arrays.get(a)[from + i];
                }
                words[arrays.size() * TENSORS + i] = sizes[from + i];
                first[i] = blocks;
                blocks += Math.toIntExact(Math.ceilDiv(sizes[from + i], SHARE));
            }
            first[TENSORS] = count;
            launch.of(new int[] {blocks}, CudaKernels.words(words, first));
        }
    }

    /// Arguments followed by a struct.
    private static long[] then(long[] struct, long... arguments) {
        long[] all = Arrays.copyOf(arguments, arguments.length + struct.length);
        System.arraycopy(struct, 0, all, arguments.length, struct.length);
        return all;
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
        DType t = CudaContext.floating(p);
        cuda.launch(
                "optimizer",
                "sgd" + Grid.suffix(t),
                Grid.flat(p.size()),
                Grid.FLAT_BLOCK,
                cuda.address(p),
                cuda.optional(velocity, t),
                cuda.address(g, t),
                cuda.address(lr, t),
                cuda.optional(gScale, t),
                p.size(),
                CudaKernels.bits(momentum),
                CudaKernels.bits(weightDecay));
    }

    @Override
    public void importance(
            Buffer smooth, Buffer spread, Buffer p, Buffer g, @Nullable Buffer gScale, double beta1, double beta2) {
        DType t = CudaContext.floating(p);
        cuda.launch(
                "importance",
                "importance" + Grid.suffix(t),
                Grid.flat(p.size()),
                Grid.FLAT_BLOCK,
                cuda.address(smooth, t),
                cuda.address(spread, t),
                cuda.address(p),
                cuda.address(g, t),
                cuda.optional(gScale, t),
                p.size(),
                CudaKernels.bits(beta1),
                CudaKernels.bits(beta2));
    }
}
