package dev.loran.engine;

import dev.loran.engine.backend.ShapeException;
import java.util.Arrays;
import java.util.StringJoiner;

/// The sizes of a tensor's dimensions, outermost first; immutable. Prints as `(4, 128, 768)`; a scalar is `()`.
public final class Shape {
    private final int[] dims;
    private final long size;

    private Shape(int[] dims) {
        long product = 1;
        for (int d : dims) {
            if (d < 0) {
                throw new ShapeException("shape: dimensions must not be negative, got " + Arrays.toString(dims));
            }
            product = Math.multiplyExact(product, (long) d);
        }
        this.dims = dims;
        this.size = product;
    }

    /// @throws ShapeException if a dimension is negative
    public static Shape of(int... dims) {
        return new Shape(dims.clone());
    }

    /// Number of dimensions.
    public int rank() {
        return dims.length;
    }

    /// Size of dimension `i`; negative `i` counts from the end, so `dim(-1)` is the innermost.
    public int dim(int i) {
        return dims[axis(i)];
    }

    /// `i` as an index from 0; negative `i` counts from the end.
    public int axis(int i) {
        return axis("shape", i);
    }

    /// As [#axis(int)], naming `op` in the error.
    public int axis(String op, int i) {
        int axis = i < 0 ? i + dims.length : i;
        if (axis < 0 || axis >= dims.length) {
            throw new ShapeException(op + ": dimension " + i + " does not exist in " + this);
        }
        return axis;
    }

    /// Number of elements: the product of all dimensions, 1 for a scalar.
    public long size() {
        return size;
    }

    /// Size of the innermost dimension, 1 for a scalar.
    public int cols() {
        return dims.length == 0 ? 1 : dims[dims.length - 1];
    }

    /// Product of all dimensions but the innermost: the number of rows when viewed as a matrix.
    public int rows() {
        return Math.toIntExact(product(0, Math.max(0, dims.length - 1)));
    }

    /// Product of the dimensions `from` (inclusive) to `to` (exclusive).
    public long product(int from, int to) {
        long product = 1;
        for (int i = from; i < to; i++) {
            product *= dims[i];
        }
        return product;
    }

    /// A copy of the dimensions.
    public int[] dims() {
        return dims.clone();
    }

    /// This shape with its innermost dimension replaced.
    public Shape withCols(int cols) {
        int[] d = dims.clone();
        d[axis(-1)] = cols;
        return new Shape(d);
    }

    /// This shape with dimension `axis` replaced.
    public Shape withDim(int axis, int size) {
        int[] d = dims.clone();
        d[axis(axis)] = size;
        return new Shape(d);
    }

    /// The common shape of two operands by NumPy's broadcasting rules: dimensions are aligned at the end, and 1
    /// stretches.
    ///
    /// @throws ShapeException naming `op` and both shapes if they do not fit
    public static Shape broadcast(String op, Shape a, Shape b) {
        int rank = Math.max(a.rank(), b.rank());
        int[] d = new int[rank];
        for (int i = 1; i <= rank; i++) {
            int x = i <= a.rank() ? a.dim(-i) : 1;
            int y = i <= b.rank() ? b.dim(-i) : 1;
            if (x != y && x != 1 && y != 1) {
                throw new ShapeException(op + ": shapes " + a + " and " + b + " do not broadcast (dimension -" + i
                        + ": " + x + " and " + y + ")");
            }
            d[rank - i] = x == 1 ? y : x;
        }
        return new Shape(d);
    }

    /// Element strides of this shape within `target`, 0 where it is stretched; one entry per dimension of `target`.
    int[] stridesIn(Shape target) {
        int[] strides = new int[target.rank()];
        int stride = 1;
        for (int i = 1; i <= rank(); i++) {
            strides[target.rank() - i] = dim(-i) == 1 ? 0 : stride;
            stride *= dim(-i);
        }
        return strides;
    }

    @Override
    public boolean equals(Object o) {
        return o instanceof Shape s && Arrays.equals(dims, s.dims);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(dims);
    }

    @Override
    public String toString() {
        StringJoiner j = new StringJoiner(", ", "(", ")");
        for (int d : dims) {
            j.add(Integer.toString(d));
        }
        return j.toString();
    }
}
