package dev.loran.peft.model;

import java.util.ConcurrentModificationException;
import java.util.concurrent.atomic.AtomicReference;
import org.jspecify.annotations.Nullable;

/// Detects conflicting concurrent use of an object: any number of threads may read it, or one thread may change it. It
/// never blocks: an operation that conflicts with another fails before doing anything. The thread that changes may
/// start nested reads and changes.
public final class Guard {
    private static final State FREE = new State(0, null, 0, "");

    /// @param readers number of open uses that read
    /// @param owner the thread that changes, with `depth` nested operations
    /// @param operation the last one started, or the owner's outermost
    private record State(int readers, @Nullable Thread owner, int depth, String operation) {}

    /// One use, from [#reading] or [#changing] until it is closed, once.
    public interface Use extends AutoCloseable {
        @Override
        void close();
    }

    private final String what;
    private final AtomicReference<State> state = new AtomicReference<>(FREE);

    /// @param what the name of the guarded object in messages: `model`
    public Guard(String what) {
        this.what = what;
    }

    /// Begins a read.
    ///
    /// @param operation for messages
    /// @throws ConcurrentModificationException if another thread is changing what is read
    public Use reading(String operation) {
        while (true) {
            State now = state.get();
            if (now.owner == Thread.currentThread()) {
                return () -> {};
            }
            if (now.owner != null) {
                throw conflict(operation, now);
            }
            if (state.compareAndSet(now, new State(now.readers + 1, null, 0, operation))) {
                return this::endReading;
            }
        }
    }

    private void endReading() {
        state.updateAndGet(s -> s.readers == 1 ? FREE : new State(s.readers - 1, null, 0, s.operation));
    }

    /// Begins a change.
    ///
    /// @param operation for messages
    /// @throws ConcurrentModificationException if any thread is reading, or another one changing
    public Use changing(String operation) {
        while (true) {
            State now = state.get();
            boolean again = now.owner == Thread.currentThread();
            if (now.readers > 0 || now.owner != null && !again) {
                throw conflict(operation, now);
            }
            State next = new State(0, Thread.currentThread(), now.depth + 1, again ? now.operation : operation);
            if (state.compareAndSet(now, next)) {
                return this::endChanging;
            }
        }
    }

    private void endChanging() {
        state.updateAndGet(s -> s.depth == 1 ? FREE : new State(0, s.owner, s.depth - 1, s.operation));
    }

    private ConcurrentModificationException conflict(String operation, State now) {
        String who = now.owner == null
                ? "is being read (" + now.operation + ")"
                : "is being changed by thread " + now.owner.getName() + " (" + now.operation + ")";
        return new ConcurrentModificationException(operation + ": the " + what + " " + who
                + "; any number of threads may read it at a time, but what changes it must be alone");
    }
}
