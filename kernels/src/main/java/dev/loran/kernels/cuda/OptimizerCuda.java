package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `optimizer.cu`: AdamW and SGD, in place, and the scale that clips gradients.
final class OptimizerCuda {
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

    /// `gScale` may be 0: none.
    static void adamW(
            CudaDevice device,
            DType type,
            long p,
            long m,
            long v,
            long g,
            long lr,
            long t,
            long gScale,
            long n,
            double beta1,
            double beta2,
            double eps,
            double weightDecay) {
        device.launch(
                "optimizer",
                "adamw" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                CudaDevice.words(
                        new long[] {p, m, v, g, lr, t, gScale, n},
                        word(beta1),
                        word(beta2),
                        word(Math.log(beta1)),
                        word(Math.log(beta2)),
                        word(eps),
                        word(weightDecay)));
    }

    private static int word(double value) {
        return Float.floatToRawIntBits((float) value);
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
