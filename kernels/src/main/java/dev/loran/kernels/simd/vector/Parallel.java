package dev.loran.kernels.simd.vector;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// A fixed pool of threads that share out the tasks of one loop at a time, and the scratch memory of each of them.
///
/// Which thread runs a task is left to chance, so a caller that wants the same bits for every number of threads splits
/// its work by shape alone and lets every task write to a place of its own. The calling thread takes part. Any number
/// of threads may call: a call from inside a task, or while another thread's loop is running, does all its tasks
/// itself: slower, never wrong.
///
/// Waiting threads spin for some tens of microseconds, about the gap between two kernels of a training step, and then
/// park. A call allocates nothing beyond the caller's lambda.
public final class Parallel implements AutoCloseable {
    private static final int SPINS = 1500;

    /// Bits of [#claim] below the number of the loop: how many of its tasks nobody has claimed yet.
    private static final int COUNT_BITS = 31;

    private static final long COUNT_MASK = (1L << COUNT_BITS) - 1;

    private final List<Worker> workers = new ArrayList<>();
    private final Workspace workspace;
    /// Whether loops are not run at all: what they would read and write is not there.
    private final boolean idle;
    private final AtomicInteger busy = new AtomicInteger();

    /// Number of the current loop (high bits) and its unclaimed tasks (low bits), in one word: a thread that comes late
    /// to a loop that is over claims nothing, and one that has claimed a task keeps `body` and `tasks` from changing.
    private final AtomicLong claim = new AtomicLong();

    /// Tasks of the current loop that are not yet done.
    private final AtomicInteger pending = new AtomicInteger();

    private @Nullable IntConsumer body;
    private int tasks;
    private volatile @Nullable Thread waiting;
    private volatile boolean closed;
    private final Object failureLock = new Object();
    private @Nullable Throwable failure;
    private int failureTask;

    /// A pool of `threads` threads, the calling one included; `threads` >= 1.
    public Parallel(int threads) {
        if (threads < 1) {
            throw new IllegalArgumentException("Parallel: threads must be at least 1 but is " + threads);
        }
        idle = false;
        workspace = new Workspace(null);
        for (int i = 1; i < threads; i++) {
            Worker worker = new Worker("loran-" + i);
            workers.add(worker);
            worker.start();
        }
    }

    /// A pool that runs nothing, with scratch memory that is not there.
    public Parallel(HollowMemory memory) {
        idle = true;
        workspace = new Workspace(memory);
    }

    /// How many threads share the work, the calling one included.
    public int threads() {
        return workers.size() + 1;
    }

    /// Scratch memory of whichever thread asks; it lives as long as this pool.
    public Workspace workspace() {
        return workspace;
    }

    /// Runs `body` for every index in `0 … tasks - 1`, each once, in no particular order, and returns when all are
    /// done. Where tasks throw, the exception of the lowest index comes out once all have ended; in a loop that runs on
    /// the calling thread alone, the tasks after it are not started.
    public void parallelFor(int tasks, IntConsumer body) {
        if (tasks <= 0 || idle) {
            return;
        }
        if (closed) {
            throw new IllegalStateException("parallelFor: the pool is closed");
        }
        if (tasks == 1 || workers.isEmpty() || !busy.compareAndSet(0, 1)) {
            for (int i = 0; i < tasks; i++) {
                body.accept(i);
            }
            return;
        }
        Throwable thrown;
        try {
            this.body = body;
            this.tasks = tasks;
            pending.set(tasks);
            claim.set(((claim.get() >>> COUNT_BITS) + 1) << COUNT_BITS | tasks);
            int helpers = Math.min(workers.size(), tasks - 1);
            for (int i = 0; i < helpers; i++) {
                workers.get(i).wake();
            }
            runTasks();
            awaitOthers();
            thrown = takeFailure();
        } finally {
            this.body = null;
            busy.set(0);
        }
        if (thrown instanceof RuntimeException exception) {
            throw exception;
        }
        if (thrown instanceof Error error) {
            throw error;
        }
    }

    /// Claims and runs tasks of the current loop until none is left.
    private void runTasks() {
        while (true) {
            long seen = claim.get();
            int unclaimed = (int) (seen & COUNT_MASK);
            if (unclaimed == 0) {
                return;
            }
            if (claim.compareAndSet(seen, seen - 1)) {
                runOne(Objects.requireNonNull(body), tasks - unclaimed);
            }
        }
    }

    private void runOne(IntConsumer current, int index) {
        try {
            current.accept(index);
        } catch (RuntimeException | Error e) {
            synchronized (failureLock) {
                if (failure == null || index < failureTask) {
                    failure = e;
                    failureTask = index;
                }
            }
        }
        if (pending.decrementAndGet() == 0) {
            Thread caller = waiting;
            if (caller != null) {
                LockSupport.unpark(caller);
            }
        }
    }

    private void awaitOthers() {
        for (int spin = 0; pending.get() > 0; spin++) {
            if (spin < SPINS) {
                Thread.onSpinWait();
            } else {
                waiting = Thread.currentThread();
                if (pending.get() > 0) {
                    LockSupport.park(this);
                }
            }
        }
        waiting = null;
    }

    private @Nullable Throwable takeFailure() {
        synchronized (failureLock) {
            Throwable thrown = failure;
            failure = null;
            return thrown;
        }
    }

    /// Ends the threads and frees the scratch memory. A loop that is still running on another thread is an error.
    @Override
    public void close() {
        if (closed) {
            return;
        }
        if (!busy.compareAndSet(0, 1)) {
            throw new IllegalStateException("close: a loop of this pool is still running");
        }
        closed = true;
        for (Worker worker : workers) {
            LockSupport.unpark(worker);
        }
        for (Worker worker : workers) {
            boolean interrupted = false;
            while (worker.isAlive()) {
                try {
                    worker.join();
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        workspace.close();
    }

    private final class Worker extends Thread {
        private volatile boolean parked;

        Worker(String name) {
            super(name);
            setDaemon(true);
        }

        /// Called after the new loop is visible in [#claim]; a worker sets `parked` before its last look at it.
        void wake() {
            if (parked) {
                LockSupport.unpark(this);
            }
        }

        @Override
        public void run() {
            long seen = 0;
            while (!closed) {
                long now = awaitLoop(seen);
                if (now != seen) {
                    seen = now;
                    runTasks();
                }
            }
        }

        /// Returns the number of the newest loop; the same as `seen` only on a spurious wake-up or at the end.
        private long awaitLoop(long seen) {
            for (int spin = 0; spin < SPINS; spin++) {
                long now = claim.get() >>> COUNT_BITS;
                if (now != seen || closed) {
                    return now;
                }
                Thread.onSpinWait();
            }
            parked = true;
            if (claim.get() >>> COUNT_BITS == seen && !closed) {
                LockSupport.park(Parallel.this);
            }
            parked = false;
            return claim.get() >>> COUNT_BITS;
        }
    }
}
