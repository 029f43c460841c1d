package dev.loran.engine;

import org.jspecify.annotations.Nullable;

/// The checks at the doors: each failure names the operation, the argument and both shapes.
final class Checks {
    private Checks() {}

    static void sameDType(String op, String aName, Tensor a, String bName, Tensor b) {
        if (a.dtype() != b.dtype()) {
            throw new DTypeException(op + ": " + aName + " is " + a.dtype() + " but " + bName + " is " + b.dtype()
                    + "; cast one of them");
        }
        if (a.backend() != b.backend()) {
            throw new BackendException(
                    op + ": " + aName + " lives on " + a.backend().name() + " but " + bName + " on "
                            + b.backend().name() + "; move one of them");
        }
    }

    static void floating(String op, Tensor x) {
        if (!x.backend().supports(x.dtype())) {
            throw new DTypeException(op + ": dtype " + x.dtype() + " is not supported on "
                    + x.backend().name());
        }
    }

    static void ints(String op, String name, Tensor ids, long size) {
        if (ids.dtype() != DType.I32) {
            throw new DTypeException(op + ": " + name + " is " + ids.dtype() + ", needs I32");
        }
        if (ids.shape().size() != size) {
            throw new ShapeException(op + ": " + name + " is " + ids.shape() + " but needs " + size + " elements");
        }
    }

    static void vector(String op, String name, @Nullable Tensor v, int size, Tensor x) {
        if (v != null) {
            if (v.shape().size() != size) {
                throw new ShapeException(
                        op + ": " + name + " is " + v.shape() + " but x is " + x.shape() + "; needs (" + size + ")");
            }
            sameDType(op, name, v, "x", x);
        }
    }

    static void rowMajor(String op, Tensor t) {
        if (!t.buffer().isRowMajor()) {
            throw new BackendException(op + ": tensor " + t.shape()
                    + " is prepared for linear operations and has no readable elements; restore() it first");
        }
    }
}
