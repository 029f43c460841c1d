package dev.loran.engine;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Closes the tensors created while it is the innermost open scope of its thread: results of operations, and tensors
/// made by the factories of [Tensor]. Use [#keep] for a tensor that should outlive the scope; parameters of layers
/// never belong to one.
///
/// ```java
/// try (Scope scope = Scope.open()) {
///     Tensor hidden = Functional.gelu(up.forward(x));
///     return scope.keep(down.forward(hidden));     // hidden is closed here, unless backward needs it
/// }
/// ```
public final class Scope implements AutoCloseable {
    private static final ThreadLocal<@Nullable Scope> INNERMOST = new ThreadLocal<>();

    private final @Nullable Scope outer;
    private final List<Tensor> tensors = new ArrayList<>();
    /// Tensors taken out of this attempt, or of a scope inside it; null if this is not an attempt.
    private final @Nullable List<Tensor> detached;

    private Scope(@Nullable Scope outer, boolean attempt) {
        this.outer = outer;
        this.detached = attempt ? new ArrayList<>() : null;
    }

    /// Opens a scope inside the current one of this thread.
    public static Scope open() {
        return open(false);
    }

    /// As [#open], but for constructing something that owns tensors; [#undo] closes them if the construction fails.
    public static Scope attempt() {
        return open(true);
    }

    private static Scope open(boolean attempt) {
        Scope s = new Scope(INNERMOST.get(), attempt);
        INNERMOST.set(s);
        return s;
    }

    /// Closes the tensors that [Tensor#detachFromScope] took out of this attempt and of the scopes inside it.
    ///
    /// @throws IllegalStateException if this scope was not opened by [#attempt]
    public void undo() {
        if (detached == null) {
            throw new IllegalStateException("undo: this scope is no attempt");
        }
        detached.forEach(Tensor::close);
    }

    static void detached(Tensor tensor) {
        for (Scope s = INNERMOST.get(); s != null; s = s.outer) {
            if (s.detached != null) {
                s.detached.add(tensor);
                return;
            }
        }
    }

    /// Moves `tensor` to the enclosing scope, or to the caller if there is none; returns it.
    public Tensor keep(Tensor tensor) {
        if (tensor.leave(this) && outer != null) {
            outer.add(tensor);
        }
        return tensor;
    }

    static void register(Tensor tensor) {
        Scope s = INNERMOST.get();
        if (s != null) {
            s.add(tensor);
        }
    }

    private void add(Tensor tensor) {
        tensors.add(tensor);
        tensor.enter(this);
    }

    /// Closes the tensors that were not kept. Scopes must be closed in reverse order of opening, on the thread that
    /// opened them.
    @Override
    public void close() {
        if (INNERMOST.get() != this) {
            throw new IllegalStateException(
                    "scope: closed out of order, or by another thread than the one that opened it");
        }
        if (outer == null) {
            INNERMOST.remove();
        } else {
            INNERMOST.set(outer);
        }
        for (int i = tensors.size() - 1; i >= 0; i--) {
            if (tensors.get(i).leave(this)) {
                tensors.get(i).close();
            }
        }
    }
}
