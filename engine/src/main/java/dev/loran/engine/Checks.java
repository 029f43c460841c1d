package dev.loran.engine;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.ShapeException;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// Argument checks at the entry points: each failure names the operation, the argument, and what it does not fit.
public final class Checks {
    private Checks() {}

    /// Checks that `t` is present and its elements can be read.
    public static void readable(String op, String name, Tensor t) {
        open(op, name, t);
        if (!t.buffer().isRowMajor()) {
            throw new BackendException(op + ": " + name + " " + t.shape()
                    + " is prepared for linear operations and has no readable elements; restore() it first");
        }
    }

    public static void open(String op, String name, Tensor t) {
        if (t.isClosed()) {
            throw new BackendException(op + ": " + name + " " + t.shape()
                    + " is closed; keep() it, or take it out of its scope by detachFromScope()");
        }
    }

    /// Checks that `x` is readable and of a dtype that its backend computes with.
    public static void operand(String op, String name, Tensor x) {
        readable(op, name, x);
        computable(op, name, x);
    }

    /// Checks that `x` is present, row-major or prepared, and of a dtype that its backend computes with.
    public static void computable(String op, String name, Tensor x) {
        open(op, name, x);
        if (!x.backend().supports(x.dtype())) {
            throw new DTypeException(op + ": " + name + " is " + x.dtype() + ", but "
                    + x.backend().name() + " computes with "
                    + Arrays.stream(DType.values())
                            .filter(d -> d.isFloating() && x.backend().supports(d))
                            .toList());
        }
    }

    /// Checks that `t` is readable, and of the dtype and backend of `x`.
    public static void operand(String op, String name, Tensor t, String xName, Tensor x) {
        readable(op, name, t);
        same(op, name, t, xName, x);
    }

    /// Checks that `t` is readable, and of the dtype, backend and shape of `x`.
    public static void like(String op, String name, Tensor t, String xName, Tensor x) {
        operand(op, name, t, xName, x);
        if (!t.shape().equals(x.shape())) {
            throw new ShapeException(op + ": " + name + " is " + t.shape() + " but " + xName + " is " + x.shape()
                    + "; they must have one shape");
        }
    }

    /// Checks that `t` is of the dtype and backend of `x`.
    public static void same(String op, String name, Tensor t, String xName, Tensor x) {
        open(op, name, t);
        if (t.dtype() != x.dtype()) {
            throw new DTypeException(op + ": " + name + " is " + t.dtype() + " but " + xName + " is " + x.dtype()
                    + "; copyFrom() converts");
        }
        sameBackend(op, name, t, xName, x);
    }

    private static void sameBackend(String op, String name, Tensor t, String xName, Tensor x) {
        if (t.backend() != x.backend()) {
            throw new BackendException(
                    op + ": " + name + " lives on " + t.backend().name() + " but " + xName + " on "
                            + x.backend().name() + "; copy the elements over");
        }
    }

    /// Checks that `ids` is I32 and on the backend of `x`.
    public static void ints(String op, String name, Tensor ids, String xName, Tensor x) {
        readable(op, name, ids);
        if (ids.dtype() != DType.I32) {
            throw new DTypeException(op + ": " + name + " is " + ids.dtype() + ", needs I32");
        }
        sameBackend(op, name, ids, xName, x);
    }

    /// As [#ints], and checks that there are `size` entries.
    public static void ints(String op, String name, Tensor ids, long size, String xName, Tensor x) {
        ints(op, name, ids, xName, x);
        if (ids.shape().size() != size) {
            throw new ShapeException(op + ": " + name + " is " + ids.shape() + " but " + xName + " is " + x.shape()
                    + "; needs " + size + " entries");
        }
    }

    /// Checks that `v` is absent, or an operand of `size` elements.
    public static void vector(String op, String name, @Nullable Tensor v, int size, Tensor x) {
        if (v != null) {
            operand(op, name, v, "x", x);
            if (v.shape().size() != size) {
                throw new ShapeException(
                        op + ": " + name + " is " + v.shape() + " but x is " + x.shape() + "; needs (" + size + ")");
            }
        }
    }

    /// Checks that `mask` is absent, or has its counter on the backend of `x`.
    public static void mask(String op, @Nullable DropoutMask mask, Tensor x) {
        if (mask != null && mask.microStep().backend() != x.backend()) {
            throw new BackendException(op + ": the mask's microStep lives on "
                    + mask.microStep().backend().name() + " but x on "
                    + x.backend().name());
        }
    }
}
