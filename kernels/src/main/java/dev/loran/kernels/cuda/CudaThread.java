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
/// Work is submitted to it and runs in the order of submission; [#execute] does not wait for it. An error of such work
/// is thrown by a later call. A hollow instance has no thread and discards work.
class CudaThread {
    private static final int QUEUE = 1024;
    private static final String CLOSED = "cuda: the backend is closed";

    /// A launch or a copy.
    interface Work {
        void run();
    }

    private final BlockingQueue<Work> queue = new ArrayBlockingQueue<>(QUEUE);
    /// Null for a hollow instance.
    private final @Nullable Thread owner;

    private volatile @Nullable RuntimeException failure;
    private volatile boolean closed;

    /// The thread that records a step; null for none. Written under [#handover].
    private volatile @Nullable Thread capturer;

    /// Held while work is put into the queue, so that no other thread's work gets between that of a step being
    /// recorded.
    private final Object handover = new Object();

    /// @param name of the thread; null for a hollow instance
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
                // This thread is interrupted only to end it.
                return;
            }
        }
    }

    // ---- submitting; on any thread

    /// Submits `work` without waiting for it.
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

    /// An interrupt of the caller must not affect the device: it would leave half of a step submitted.
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

    /// Submits `work` and waits for its result.
    ///
    /// @throws BackendException if earlier work failed
    final <T> T call(Supplier<T> work) {
        throwFailure();
        return ask(work);
    }

    /// As [#call], but ignores earlier failures.
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

    /// Discards the failure recorded so far.
    final void forgetFailure() {
        failure = null;
    }

    // ---- while a step is recorded

    /// Allows only the calling thread to submit work, until [#endReservation].
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

    /// While a step is being recorded, only the recording thread may submit work or request memory.
    private void refuseBesideCapture() {
        Thread by = capturer;
        if (by != null && by != Thread.currentThread()) {
            throw new BackendException("cuda: thread " + by.getName()
                    + " is recording a training step; no other thread may" + " use this backend meanwhile");
        }
    }

    // ---- the end

    /// Accepts no more work, completes what was submitted before, and ends the thread.
    final void stop() {
        closed = true;
        if (isHollow()) {
            return;
        }
        // Wakes the thread if it is waiting for work.
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
