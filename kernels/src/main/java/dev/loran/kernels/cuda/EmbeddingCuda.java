package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;

/// Launches `embedding.cu`: rows of a table by id, and the table's gradient.
final class EmbeddingCuda {
    private EmbeddingCuda() {}

    static void forward(CudaContext cuda, Buffer y, Buffer table, Buffer ids, int n, int cols) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "embedding",
                "gather" + Grid.suffix(t),
                new int[] {n},
                Grid.row(cols),
                cuda.address(y),
                cuda.address(table, t),
                cuda.address(ids, DType.I32),
                cuda.complaint(),
                table.size() / Math.max(1, cols),
                cols);
    }

    static void backward(CudaContext cuda, Buffer dTable, Buffer dy, Buffer ids, int n, int rows, int cols) {
        DType t = CudaContext.floating(dTable);
        cuda.launch(
                "embedding",
                "gather_backward" + Grid.suffix(t),
                new int[] {n},
                Grid.row(cols),
                cuda.address(dTable),
                cuda.address(dy, t),
                cuda.address(ids, DType.I32),
                cuda.complaint(),
                n,
                rows,
                cols);
    }
}
