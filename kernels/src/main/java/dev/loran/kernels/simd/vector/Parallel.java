package dev.loran.kernels.simd.vector;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// A fixed pool of threads that share the tasks of one loop at a time, and the scratch memory of each thread.
///
/// Which thread runs a task is not determined. A caller that needs the same bits for every number of threads must split
/// its work by shape alone and let every task write to its own place. The calling thread runs tasks too. Any number of
/// threads may call: a call from inside a task, or while another thread's loop is running, runs all its tasks on the
/// calling thread, which is slower but equally correct.
///
/// Waiting threads spin for some tens of microseconds, about the gap between two kernels of a training step, and then
/// park. A call allocates nothing besides the caller's lambda.
public final class Parallel implements AutoCloseable {
    private static final int SPINS = 1500;

    /// Number of low bits of [#claim], which count the unclaimed tasks; the number of the loop is above them.
    private static final int COUNT_BITS = 31;

    private static final long COUNT_MASK = (1L << COUNT_BITS) - 1;

    private final List<Worker> workers = new ArrayList<>();
    private final Workspace workspace;
    /// Whether loops are skipped altogether, because the memory they would read and write does not exist.
    private final boolean idle;
    private final AtomicInteger busy = new AtomicInteger();

    /// Number of the current loop (high bits) and of its unclaimed tasks (low bits) in a single word: a thread that
    /// arrives after a loop has ended claims nothing, and while a claimed task is running, `body` and `tasks` cannot
    /// change.
    private final AtomicLong claim = new AtomicLong();

    /// Number of tasks of the current loop that are not finished.
    private final AtomicInteger pending = new AtomicInteger();

    private @Nullable IntConsumer body;
    private int tasks;
    private volatile @Nullable Thread waiting;
    private volatile boolean closed;
    private final Object failureLock = new Object();
    private @Nullable Throwable failure;
    private int failureTask;

    /// A pool of `threads` threads, including the calling one; `threads` >= 1.
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

    /// A pool that runs nothing and whose scratch memory does not exist.
    public Parallel(HollowMemory memory) {
        idle = true;
        workspace = new Workspace(memory);
    }

    /// The number of threads that share the work, including the calling one.
    public int threads() {
        return workers.size() + 1;
    }

    /// The scratch memory of the calling thread; it lives as long as this pool.
    public Workspace workspace() {
        return workspace;
    }

    /// Runs `body` once for every index in `0 … tasks - 1`, in no particular order, and returns when all are done. If
    /// tasks throw, the exception of the lowest index is thrown after all tasks have ended; in a loop that runs on the
    /// calling thread alone, the tasks after it are not started.
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

    /// Claims and runs tasks of the current loop until none are left.
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

    /// Ends the threads and frees the scratch memory. It is an error if another thread's loop is still running.
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

        /// Called after the new loop has become visible in [#claim]; a worker sets `parked` before checking it one last
        /// time.
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

        /// Returns the number of the newest loop, which equals `seen` only on a spurious wake-up or at the end.
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
