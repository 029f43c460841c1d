package dev.loran.peft;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.IntConsumer;

/// Several threads that start together.
public final class Threads {
    private Threads() {}

    /// Runs `work` on `n` threads, each with its number, and returns when all have ended; throws the first failure.
    public static void run(int n, IntConsumer work) {
        CyclicBarrier start = new CyclicBarrier(n);
        try (ExecutorService threads = Executors.newFixedThreadPool(n)) {
            List<Future<?>> running = new ArrayList<>();
            for (int i = 0; i < n; i++) {
                int number = i;
                running.add(threads.submit(() -> {
                    try {
                        start.await();
                    } catch (InterruptedException | BrokenBarrierException e) {
                        throw new IllegalStateException(e);
                    }
                    work.accept(number);
                }));
            }
            for (Future<?> one : running) {
                one.get();
            }
        } catch (ExecutionException e) {
            if (e.getCause() instanceof RuntimeException cause) {
                throw cause;
            }
            if (e.getCause() instanceof Error cause) {
                throw cause;
            }
            throw new IllegalStateException(e);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }
}
