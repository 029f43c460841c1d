package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import java.util.Arrays;
import java.util.List;

/// Launches `optimizer.cu`: AdamW and SGD, in place, the norm of all gradients, and the scale that clips them.
final class OptimizerCuda {
    /// As in optimizer.cu.
    private static final int TENSORS = 80;

    private static final long SHARE = 4096;

    private OptimizerCuda() {}

    static void clipScale(CudaDevice device, DType type, long norm, long scale, long sumOfSquares, double maxNorm) {
        int[] one = {1};
        device.launch(
                "optimizer",
                "clip_scale" + Grid.suffix(type),
                one,
                one,
                norm,
                scale,
                sumOfSquares,
                CudaDevice.bits(maxNorm));
    }

    /// How many partial sums the squares of tensors of `sizes` elements take.
    static int shares(long[] sizes) {
        long shares = 0;
        for (long size : sizes) {
            shares += Math.ceilDiv(size, SHARE);
        }
        return Math.toIntExact(shares);
    }

    /// y (1) ← Σ of the squares of tensors `xs`; `partial` has room for their [#shares] as floats.
    static void sumOfSquares(CudaDevice device, DType type, long y, long partial, long[] xs, long[] sizes) {
        String s = Grid.suffix(type);
        int[] done = {0};
        forTensors(sizes, List.of(xs), (blocks, tensors) -> {
            device.launch("optimizer", "squares" + s, blocks, Grid.FLAT_BLOCK, then(tensors, partial + 4L * done[0]));
            done[0] += blocks[0];
        });
        device.launch("optimizer", "finish" + s, new int[] {1}, Grid.row(done[0]), y, partial, done[0]);
    }

    /// As [dev.loran.engine.Backend#adamW], of addresses; `gScale` may be 0: none.
    static void adamW(
            CudaDevice device,
            DType type,
            List<long[]> pmvg,
            long[] sizes,
            long lr,
            long t,
            long gScale,
            double beta1,
            double beta2,
            double eps,
            double weightDecay) {
        forTensors(
                sizes,
                pmvg,
                (blocks, tensors) -> device.launch(
                        "optimizer",
                        "adamw" + Grid.suffix(type),
                        blocks,
                        Grid.FLAT_BLOCK,
                        then(
                                tensors,
                                lr,
                                t,
                                gScale,
                                CudaDevice.bits(beta1),
                                CudaDevice.bits(beta2),
                                CudaDevice.bits(Math.log(beta1)),
                                CudaDevice.bits(Math.log(beta2)),
                                CudaDevice.bits(eps),
                                CudaDevice.bits(weightDecay))));
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
            launch.of(new int[] {blocks}, CudaDevice.words(words, first));
        }
    }

    /// Arguments with a struct after them.
    private static long[] then(long[] struct, long... arguments) {
        long[] all = Arrays.copyOf(arguments, arguments.length + struct.length);
        System.arraycopy(struct, 0, all, arguments.length, struct.length);
        return all;
    }

    /// `velocity` and `gScale` may be 0: none.
    static void sgd(
            CudaDevice device,
            DType type,
            long p,
            long velocity,
            long g,
            long lr,
            long gScale,
            long n,
            double momentum,
            double weightDecay) {
        device.launch(
                "optimizer",
                "sgd" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                p,
                velocity,
                g,
                lr,
                gScale,
                n,
                CudaDevice.bits(momentum),
                CudaDevice.bits(weightDecay));
    }
}
