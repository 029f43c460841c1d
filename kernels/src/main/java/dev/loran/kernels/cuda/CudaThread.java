package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.util.Objects;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The platform thread that owns a GPU's context.
///
/// Work is handed to it and done in the order it was handed over; [#execute] does not wait for it. An error of such
/// work is thrown by a later call. A hollow one has no thread: it drops work.
class CudaThread {
    private static final int QUEUE = 1024;
    private static final String CLOSED = "cuda: the backend is closed";

    /// A launch or a copy.
    interface Work {
        void run();
    }

    private final BlockingQueue<Work> queue = new ArrayBlockingQueue<>(QUEUE);
    /// Null where this is hollow.
    private final @Nullable Thread owner;

    private volatile @Nullable RuntimeException failure;
    private volatile boolean closed;

    /// The thread that records a step; null for none. It changes under [#handover].
    private volatile @Nullable Thread capturer;

    /// Held while work is put into the queue: none of another thread's comes between those of a step being recorded.
    private final Object handover = new Object();

    /// @param name of the thread; null for a hollow one
    CudaThread(@Nullable String name) {
        owner = name == null ? null : Thread.ofPlatform().name(name).daemon().start(this::work);
    }

    final boolean isHollow() {
        return owner == null;
    }

    final boolean isClosed() {
        return closed;
    }

    private void work() {
        while (!closed) {
            try {
                queue.take().run();
            } catch (RuntimeException e) {
                if (failure == null) {
                    failure = e;
                }
            } catch (InterruptedException e) {
                // Nobody interrupts this thread but to end it.
                return;
            }
        }
    }

    // ---- handing over; on any thread

    /// Hands `work` over and goes on.
    ///
    /// @throws BackendException if earlier work failed
    final void execute(Work work) {
        throwFailure();
        if (closed) {
            throw new BackendException(CLOSED);
        }
        if (!isHollow()) {
            put(work);
        }
    }

    /// Whoever interrupts the caller does not mean the device: half of a step would be handed over.
    private void put(Work work) {
        synchronized (handover) {
            refuseBesideCapture();
            boolean interrupted = false;
            while (true) {
                try {
                    queue.put(work);
                    break;
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// Hands `work` over and waits for its result.
    ///
    /// @throws BackendException if earlier work failed
    final <T> T call(Supplier<T> work) {
        throwFailure();
        return ask(work);
    }

    /// As [#call], whatever failed before.
    final <T> T ask(Supplier<T> work) {
        if (isHollow()) {
            return work.get();
        }
        if (closed) {
            throw new BackendException(CLOSED);
        }
        CompletableFuture<T> result = new CompletableFuture<>();
        put(() -> {
            try {
                result.complete(work.get());
            } catch (RuntimeException e) {
                result.completeExceptionally(e);
            }
        });
        try {
            return result.join();
        } catch (CompletionException e) {
            if (e.getCause() instanceof RuntimeException cause) {
                throw new BackendException(String.valueOf(cause.getMessage()), cause);
            }
            throw e;
        }
    }

    final void throwFailure() {
        RuntimeException f = failure;
        if (f != null) {
            failure = null;
            throw new BackendException(String.valueOf(f.getMessage()), f);
        }
    }

    /// What failed so far is of no interest any more.
    final void forgetFailure() {
        failure = null;
    }

    // ---- while a step is recorded

    /// Lets only the calling thread hand over work, until [#endReservation].
    final void reserve() {
        synchronized (handover) {
            refuseBesideCapture();
            capturer = Thread.currentThread();
        }
    }

    final void endReservation() {
        capturer = null;
    }

    final boolean isCapturing() {
        return capturer != null;
    }

    final void refuseWhileCapturing() {
        if (isCapturing()) {
            throw new BackendException("cuda: a step that is being recorded reads nothing; read before or after it");
        }
    }

    /// Only the thread that records a step may hand over work, or ask for memory, until it is recorded.
    private void refuseBesideCapture() {
        Thread by = capturer;
        if (by != null && by != Thread.currentThread()) {
            throw new BackendException("cuda: thread " + by.getName()
                    + " is recording a training step; no other thread may" + " use this backend meanwhile");
        }
    }

    // ---- the end

    /// Takes no more work, does what was handed over before, and ends the thread.
    final void stop() {
        closed = true;
        if (isHollow()) {
            return;
        }
        // The thread may wait for work.
        put(() -> {});
        boolean interrupted = false;
        while (Objects.requireNonNull(owner).isAlive()) {
            try {
                owner.join();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
