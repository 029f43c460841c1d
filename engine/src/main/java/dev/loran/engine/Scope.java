package dev.loran.engine;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Closes the tensors made while it is the innermost open scope of its thread: those that operations return and those
/// made by the factories of [Tensor]. What should outlive it is handed out by [#keep]; parameters of layers never
/// belong to one.
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

    private Scope(@Nullable Scope outer) {
        this.outer = outer;
    }

    /// Opens a scope inside the current one of this thread.
    public static Scope open() {
        Scope s = new Scope(INNERMOST.get());
        INNERMOST.set(s);
        return s;
    }

    /// Moves `tensor` to the enclosing scope, or to the caller where there is none; returns it.
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

    /// Closes what was not kept. Scopes close in the reverse order of opening, on the thread that opened them.
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
