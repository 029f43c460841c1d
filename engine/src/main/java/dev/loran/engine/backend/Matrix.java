package dev.loran.engine.backend;

/// A matrix as kernels take it, or several of the same shape at equal distances: element (i, j) is at i · ld + j of
/// `buffer`, or at j · ld + i if `transposed`. Only [Backend#gemm] accepts matrices that are not dense.
///
/// @param buffer row-major memory; a weight may also be prepared ([Backend#prepare])
/// @param rows rows as read, that is, after transposing
/// @param cols columns as read
/// @param ld elements from one row to the next in memory
/// @param stride elements from one matrix to the next if there are several; 0 means the same matrix for all
public record Matrix(Buffer buffer, int rows, int cols, int ld, long stride, boolean transposed) {

    /// A dense row-major matrix; if there are several, they follow one another without gaps.
    public Matrix(Buffer buffer, int rows, int cols) {
        this(buffer, rows, cols, cols, (long) rows * cols, false);
    }

    /// The transposed matrix, in the same memory.
    public Matrix t() {
        return new Matrix(buffer, /* rows= */ cols, /* cols= */ rows, ld, stride, !transposed);
    }

    /// The same matrix for every one of several products.
    public Matrix forAll() {
        return new Matrix(buffer, rows, cols, ld, 0, transposed);
    }

    /// A matrix of this shape and layout in other memory.
    public Matrix in(Buffer other) {
        return new Matrix(other, rows, cols, ld, stride, transposed);
    }

    /// Rows `from` to `from + count` of a dense matrix.
    public Matrix rows(int from, int count) {
        return new Matrix(buffer.slice((long) from * cols, (long) count * cols), count, cols);
    }

    public long size() {
        return (long) rows * cols;
    }

    /// @throws ShapeException unless c = a · b is a product
    public static void check(Matrix c, Matrix a, Matrix b) {
        if (c.rows != a.rows || c.cols != b.cols || a.cols != b.rows || c.transposed) {
            throw new ShapeException("gemm: c is " + c.shape() + ", a is " + a.shape() + ", b is " + b.shape()
                    + "; needs (m, n), (m, k) and (k, n), c not transposed");
        }
    }

    private String shape() {
        return "(" + rows + ", " + cols + ")" + (transposed ? " transposed" : "");
    }
}
