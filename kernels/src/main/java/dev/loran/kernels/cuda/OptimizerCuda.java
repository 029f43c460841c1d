package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// Launches `optimizer.cu`: AdamW and SGD, in place, the norm of all gradients, and the scale that clips them.
final class OptimizerCuda {
    /// As in optimizer.cu.
    private static final int TENSORS = 80;

    private static final long SHARE = 4096;

    private OptimizerCuda() {}

    static void clipScale(CudaBackend cuda, Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        DType t = CudaBackend.floating(norm);
        int[] one = {1};
        cuda.device()
                .launch(
                        "optimizer",
                        "clip_scale" + Grid.suffix(t),
                        one,
                        one,
                        cuda.address(norm),
                        cuda.address(scale, t),
                        cuda.address(sumOfSquares, t),
                        CudaKernels.bits(maxNorm));
    }

    /// How many partial sums the squares of tensors of `sizes` elements take.
    private static int shares(long[] sizes) {
        long shares = 0;
        for (long size : sizes) {
            shares += Math.ceilDiv(size, SHARE);
        }
        return Math.toIntExact(shares);
    }

    static void sumOfSquares(CudaBackend cuda, Buffer y, List<Buffer> xs) {
        DType t = CudaBackend.floating(y);
        String s = Grid.suffix(t);
        long[] sizes = sizes(xs);
        int[] done = {0};
        try (Scratch scratch = new Scratch(cuda)) {
            long partial = cuda.address(scratch.allocate(DType.F32, shares(sizes)));
            forTensors(sizes, List.of(addresses(cuda, xs, t)), (blocks, tensors) -> {
                cuda.device()
                        .launch(
                                "optimizer",
                                "squares" + s,
                                blocks,
                                Grid.FLAT_BLOCK,
                                then(tensors, partial + 4L * done[0]));
                done[0] += blocks[0];
            });
            long to = cuda.address(y);
            cuda.device().launch("optimizer", "finish" + s, new int[] {1}, Grid.row(done[0]), to, partial, done[0]);
        }
    }

    static void adamW(
            CudaBackend cuda,
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
        DType type = CudaBackend.floating(lr);
        long[] scalars = {
            cuda.address(lr),
            cuda.address(t, DType.I32),
            cuda.optional(gScale, type),
            CudaKernels.bits(beta1),
            CudaKernels.bits(beta2),
            CudaKernels.bits(Math.log(beta1)),
            CudaKernels.bits(Math.log(beta2)),
            CudaKernels.bits(eps),
            CudaKernels.bits(weightDecay)
        };
        List<long[]> pmvg =
                Stream.of(p, m, v, g).map(list -> addresses(cuda, list, type)).toList();
        String kernel = "adamw" + Grid.suffix(type);
        forTensors(
                sizes(p),
                pmvg,
                (blocks, tensors) ->
                        cuda.device().launch("optimizer", kernel, blocks, Grid.FLAT_BLOCK, then(tensors, scalars)));
    }

    private static long[] addresses(CudaBackend cuda, List<Buffer> buffers, DType dtype) {
        return buffers.stream().mapToLong(b -> cuda.address(b, dtype)).toArray();
    }

    private static long[] sizes(List<Buffer> buffers) {
        return buffers.stream().mapToLong(Buffer::size).toArray();
    }

    /// A launch over some of the tensors: `blocks` blocks, and the words of `Tensors`.
    private interface Launch {
        void of(int[] blocks, long[] tensors);
    }

    /// Launches for as many tensors at a time as fit into the arguments.
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

    /// Arguments with a struct after them.
    private static long[] then(long[] struct, long... arguments) {
        long[] all = Arrays.copyOf(arguments, arguments.length + struct.length);
        System.arraycopy(struct, 0, all, arguments.length, struct.length);
        return all;
    }

    static void sgd(
            CudaBackend cuda,
            Buffer p,
            @Nullable Buffer velocity,
            Buffer g,
            Buffer lr,
            @Nullable Buffer gScale,
            double momentum,
            double weightDecay) {
        DType t = CudaBackend.floating(p);
        cuda.device()
                .launch(
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
}
