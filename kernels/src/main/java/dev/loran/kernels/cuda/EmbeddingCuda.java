package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;

/// Launches `embedding.cu`: rows of a table by id, and the table's gradient.
final class EmbeddingCuda {
    private EmbeddingCuda() {}

    static void forward(CudaBackend cuda, Buffer y, Buffer table, Buffer ids, int n, int cols) {
        DType t = CudaBackend.floating(y);
        cuda.device()
                .launch(
                        "embedding",
                        "gather" + Grid.suffix(t),
                        new int[] {n},
                        Grid.row(cols),
                        cuda.address(y),
                        cuda.address(table, t),
                        cuda.address(ids, DType.I32),
                        cuda.device().complaint(),
                        table.size() / Math.max(1, cols),
                        cols);
    }

    static void backward(CudaBackend cuda, Buffer dTable, Buffer dy, Buffer ids, int n, int rows, int cols) {
        DType t = CudaBackend.floating(dTable);
        cuda.device()
                .launch(
                        "embedding",
                        "gather_backward" + Grid.suffix(t),
                        new int[] {n},
                        Grid.row(cols),
                        cuda.address(dTable),
                        cuda.address(dy, t),
                        cuda.address(ids, DType.I32),
                        cuda.device().complaint(),
                        n,
                        rows,
                        cols);
    }
}
