package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/// Launches `copy.cu`: fill, copies of blocks of rows, permutations of dimensions, conversions.
final class CopyCuda {
    private CopyCuda() {}

    static void fill(CudaContext cuda, Buffer y, double value) {
        if (y.dtype() == DType.F64) {
            CudaContext.floating(y);
        }
        MemorySegment bits = MemorySegment.ofArray(new byte[8]);
        HostBuffer.set(bits, y.dtype(), 0, value);
        cuda.launch(
                "copy",
                "fill_" + y.dtype().bytes(),
                Grid.flat(y.size()),
                Grid.FLAT_BLOCK,
                cuda.address(y),
                y.size(),
                bits.get(ValueLayout.JAVA_LONG_UNALIGNED, 0));
    }

    static void copy(
            CudaContext cuda, Buffer y, int yStride, Buffer x, int xStride, int rows, int cols, boolean accumulate) {
        DType t = accumulate ? CudaContext.floating(y) : y.dtype();
        long to = cuda.address(y);
        long from = cuda.address(x, t);
        long n = (long) rows * cols;
        if (!accumulate && yStride == cols && xStride == cols) {
            cuda.copy(to, from, n * t.bytes());
            return;
        }
        String kernel = accumulate ? "add_rows" + Grid.suffix(t) : "copy_rows_" + t.bytes();
        cuda.launch("copy", kernel, Grid.flat(n), Grid.FLAT_BLOCK, to, from, yStride, xStride, rows, cols);
    }

    static void permute(CudaContext cuda, Buffer y, Buffer x, int[] shape, int[] perm) {
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
        long[] arguments = {cuda.address(y), cuda.address(x, y.dtype()), y.size()};
        Dims dims = Dims.of("permute", to, from);
        if (dims.dense()) {
            cuda.copy(arguments[0], arguments[1], y.bytes());
            return;
        }
        cuda.launch(
                "copy",
                "permute_" + y.dtype().bytes(),
                Grid.flat(y.size()),
                Grid.FLAT_BLOCK,
                CudaKernels.words(arguments, dims.words()));
    }

    static void cast(CudaContext cuda, Buffer y, Buffer x) {
        long to = cuda.address(y);
        long from = cuda.address(x);
        if (x.dtype() == y.dtype()) {
            cuda.copy(to, from, y.bytes());
            return;
        }
        String kernel = "cast" + Grid.suffix(x.dtype()) + Grid.suffix(y.dtype());
        cuda.launch("copy", kernel, Grid.flat(y.size()), Grid.FLAT_BLOCK, to, from, y.size());
    }
}
