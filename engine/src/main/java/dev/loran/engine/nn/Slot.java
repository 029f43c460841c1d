package dev.loran.engine.nn;

import java.util.HashMap;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A place in a model where one thing may stand: the same for every thread, or, while a thread runs a [#call],
/// something else for that call alone. So several threads can ask one model with different adapters, and none of them
/// changes what the others see.
///
/// [#set] outside of a call changes the model for everybody and must meet no reader; within a call it concerns nobody
/// else.
public final class Slot<T> {
    private static final ScopedValue<Call> CALL = ScopedValue.newInstance();

    /// What stands in the slots of one call.
    ///
    /// @param hides whether slots that it has not set are empty, rather than as they are for everybody
    private record Call(Map<Slot<?>, @Nullable Object> own, boolean hides) {}

    private @Nullable T standing;

    /// What stands here for this thread; null for nothing.
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

    /// Puts `next` here, or empties the slot (null): for the running [#call] of this thread, or without one for
    /// everybody.
    public void set(@Nullable T next) {
        if (CALL.isBound()) {
            CALL.get().own.put(this, next);
        } else {
            standing = next;
        }
    }

    /// Runs `work` on this thread with slots of its own, which begin as they are now and are forgotten at the end.
    public static <R> R call(Supplier<R> work) {
        return CALL.isBound()
                ? run(new Call(new HashMap<>(CALL.get().own), CALL.get().hides), work)
                : run(new Call(new HashMap<>(), false), work);
    }

    /// As [#call], with slots that begin empty.
    public static <R> R callEmpty(Supplier<R> work) {
        return run(new Call(new HashMap<>(), true), work);
    }

    private static <R> R run(Call call, Supplier<R> work) {
        return ScopedValue.where(CALL, call).call(work::get);
    }
}
