package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `crossentropy.cu`: cross-entropy of logits with integer labels.
final class CrossEntropyCuda {
    private CrossEntropyCuda() {}

    static void forward(
            CudaDevice device, DType type, long losses, long lse, long logits, long labels, int n, int v, int ignore) {
        device.launch(
                "crossentropy",
                "cross_entropy" + Grid.suffix(type),
                new int[] {n},
                Grid.row(v),
                losses,
                lse,
                logits,
                labels,
                device.complaint(),
                v,
                ignore);
    }

    /// The losses of logits of `type`, and `g` times their gradients, of `gradType`: the same as `type`, in place if wanted,
    /// or BF16 of F32.
    static void both(
            CudaDevice device,
            DType gradType,
            DType type,
            long dLogits,
            long losses,
            long g,
            long logits,
            long labels,
            int n,
            int v,
            int ignore) {
        String suffix = Grid.suffix(type) + (gradType == type ? "" : Grid.suffix(gradType));
        device.launch(
                "crossentropy",
                "cross_entropy_both" + suffix,
                new int[] {n},
                Grid.row(v),
                dLogits,
                losses,
                g,
                logits,
                labels,
                device.complaint(),
                v,
                ignore);
    }

    static void backward(
            CudaDevice device,
            DType type,
            long dLogits,
            long g,
            long logits,
            long lse,
            long labels,
            int n,
            int v,
            int ignore,
            boolean accumulate) {
        device.launch(
                "crossentropy",
                "cross_entropy_backward" + Grid.suffix(type),
                new int[] {n},
                Grid.row(v),
                dLogits,
                g,
                logits,
                lse,
                labels,
                v,
                ignore,
                accumulate ? 1 : 0);
    }
}
