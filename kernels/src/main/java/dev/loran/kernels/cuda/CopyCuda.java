package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import dev.loran.engine.HostBuffer;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/// Launches `copy.cu`: fill, copies of blocks of rows, permuted dimensions, conversions.
final class CopyCuda {
    private CopyCuda() {}

    static void fill(CudaDevice device, DType type, long y, long n, double value) {
        MemorySegment bits = MemorySegment.ofArray(new byte[8]);
        HostBuffer.set(bits, type, 0, value);
        device.launch(
                "copy",
                "fill_" + type.bytes(),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                y,
                n,
                bits.get(ValueLayout.JAVA_LONG_UNALIGNED, 0));
    }

    static void copy(
            CudaDevice device,
            DType type,
            long y,
            int yStride,
            long x,
            int xStride,
            int rows,
            int cols,
            boolean accumulate) {
        if (!accumulate && yStride == cols && xStride == cols) {
            device.copy(y, x, (long) rows * cols * type.bytes());
            return;
        }
        device.launch(
                "copy",
                accumulate ? "add_rows" + Grid.suffix(type) : "copy_rows_" + type.bytes(),
                Grid.flat((long) rows * cols),
                Grid.FLAT_BLOCK,
                y,
                x,
                yStride,
                xStride,
                rows,
                cols);
    }

    static void permute(CudaDevice device, DType type, long y, long x, long n, int[] shape, int[] perm) {
        int[] strides = new int[shape.length];
        int stride = 1;
        for (int d = shape.length - 1; d >= 0; d--) {
            strides[d] = stride;
            stride *= shape[d];
        }
        int[] to = new int[shape.length];
        int[] from = new int[shape.length];
        for (int d = 0; d < shape.length; d++) {
            to[d] = shape[perm[d]];
            from[d] = strides[perm[d]];
        }
        Dims dims = Dims.of("permute", to, from);
        if (dims.dense()) {
            device.copy(y, x, n * type.bytes());
            return;
        }
        device.launch(
                "copy",
                "permute_" + type.bytes(),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                CudaDevice.words(new long[] {y, x, n}, dims.words()));
    }

    static void cast(CudaDevice device, DType to, long y, DType from, long x, long n) {
        if (from == to) {
            device.copy(y, x, n * to.bytes());
            return;
        }
        device.launch("copy", "cast" + Grid.suffix(from) + Grid.suffix(to), Grid.flat(n), Grid.FLAT_BLOCK, y, x, n);
    }
}
