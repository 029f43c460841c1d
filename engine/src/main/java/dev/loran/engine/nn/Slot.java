package dev.loran.engine.nn;

import java.util.HashMap;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A place in a model that holds one replaceable part. Its content is the same for every thread, except that a thread
/// running a [#call] may see different content for that call alone. Several threads can thus use one model with
/// different adapters without affecting one another.
///
/// [#set] outside a call changes the model for every thread and must not run while others read the slot; within a call
/// it affects only that call.
public final class Slot<T> {
    private static final ScopedValue<Call> CALL = ScopedValue.newInstance();

    /// The contents of slots as seen by one call.
    ///
    /// @param hides whether slots that the call has not set appear empty, rather than with their shared content
    private record Call(Map<Slot<?>, @Nullable Object> own, boolean hides) {}

    private @Nullable T standing;

    /// Returns the content as seen by this thread; null if the slot is empty.
    @SuppressWarnings("unchecked")
    public @Nullable T get() {
        if (CALL.isBound()) {
            Call call = CALL.get();
            if (call.hides || call.own.containsKey(this)) {
                return (T) call.own.get(this);
            }
        }
        return standing;
    }

    /// Puts `next` here, or empties the slot (null): for the [#call] running on this thread or, outside a call, for
    /// every thread.
    public void set(@Nullable T next) {
        if (CALL.isBound()) {
            CALL.get().own.put(this, next);
        } else {
            standing = next;
        }
    }

    /// Runs `work` on this thread with its own view of the slots, which starts as they are now and is discarded at the
    /// end.
    public static <R> R call(Supplier<R> work) {
        return CALL.isBound()
                ? run(new Call(new HashMap<>(CALL.get().own), CALL.get().hides), work)
                : run(new Call(new HashMap<>(), false), work);
    }

    /// As [#call], but all slots start out empty.
    public static <R> R callEmpty(Supplier<R> work) {
        return run(new Call(new HashMap<>(), true), work);
    }

    private static <R> R run(Call call, Supplier<R> work) {
        return ScopedValue.where(CALL, call).call(work::get);
    }
}
