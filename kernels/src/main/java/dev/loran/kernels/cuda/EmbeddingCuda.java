package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `embedding.cu`: rows of a table by id, and the table's gradient.
final class EmbeddingCuda {
    private EmbeddingCuda() {}

    static void forward(CudaDevice device, DType type, long y, long table, long ids, int n, long rows, int cols) {
        device.launch(
                "embedding",
                "gather" + Grid.suffix(type),
                new int[] {n},
                Grid.row(cols),
                y,
                table,
                ids,
                device.complaint(),
                rows,
                cols);
    }

    static void backward(CudaDevice device, DType type, long dTable, long dy, long ids, int n, int rows, int cols) {
        device.launch(
                "embedding",
                "gather_backward" + Grid.suffix(type),
                new int[] {n},
                Grid.row(cols),
                dTable,
                dy,
                ids,
                device.complaint(),
                n,
                rows,
                cols);
    }
}
