package dev.loran.kernels.simd.vector;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import org.junit.jupiter.api.Test;

final class ParallelTest {
    @Test
    void everyTaskRunsOnceInEveryLoop() {
        try (Parallel parallel = new Parallel(4)) {
            for (int loop = 0; loop < 20_000; loop++) {
                int tasks = loop % 9;
                AtomicIntegerArray runs = new AtomicIntegerArray(9);
                parallel.parallelFor(tasks, runs::incrementAndGet);
                for (int i = 0; i < 9; i++) {
                    assertThat(runs.get(i)).isEqualTo(i < tasks ? 1 : 0);
                }
            }
        }
    }

    @Test
    void severalThreadsShareALoop() {
        try (Parallel parallel = new Parallel(3)) {
            CountDownLatch all = new CountDownLatch(3);
            // Each task waits for the other two, so the loop ends only if three threads run at the same time.
            parallel.parallelFor(3, i -> {
                all.countDown();
                awaitUninterrupted(all);
            });
            assertThat(all.getCount()).isZero();
        }
    }

    @Test
    void writesOfTasksAreSeenAfterTheLoop() {
        try (Parallel parallel = new Parallel(2)) {
            long[] values = new long[1000];
            for (int loop = 1; loop <= 200; loop++) {
                int factor = loop;
                parallel.parallelFor(values.length, i -> values[i] = (long) i * factor);
                for (int i = 0; i < values.length; i++) {
                    assertThat(values[i]).isEqualTo((long) i * loop);
                }
            }
        }
    }

    @Test
    void aLoopInsideATaskRunsInPlace() {
        try (Parallel parallel = new Parallel(2)) {
            AtomicInteger runs = new AtomicInteger();
            parallel.parallelFor(4, i -> {
                Thread outer = Thread.currentThread();
                parallel.parallelFor(5, j -> {
                    assertThat(Thread.currentThread()).isSameAs(outer);
                    runs.incrementAndGet();
                });
            });
            assertThat(runs).hasValue(20);
        }
    }

    @Test
    void loopsOfSeveralCallersAllEnd() throws InterruptedException {
        try (Parallel parallel = new Parallel(2)) {
            AtomicInteger runs = new AtomicInteger();
            Thread[] callers = new Thread[3];
            for (int c = 0; c < callers.length; c++) {
                callers[c] = Thread.ofPlatform().start(() -> {
                    for (int loop = 0; loop < 500; loop++) {
                        parallel.parallelFor(7, i -> runs.incrementAndGet());
                    }
                });
            }
            for (Thread caller : callers) {
                caller.join();
            }
            assertThat(runs).hasValue(3 * 500 * 7);
        }
    }

    @Test
    void theExceptionOfTheLowestTaskComesOutAndTheRestStillRuns() {
        try (Parallel parallel = new Parallel(3)) {
            for (int loop = 0; loop < 100; loop++) {
                AtomicInteger runs = new AtomicInteger();
                assertThatThrownBy(() -> parallel.parallelFor(20, i -> {
                            runs.incrementAndGet();
                            if (i % 7 == 3) {
                                throw new IllegalStateException("task " + i);
                            }
                        }))
                        .isInstanceOf(IllegalStateException.class)
                        .hasMessage("task 3");
                assertThat(runs).hasValue(20);
            }
            AtomicInteger runs = new AtomicInteger();
            parallel.parallelFor(20, i -> runs.incrementAndGet());
            assertThat(runs).hasValue(20);
        }
    }

    @Test
    void oneThreadRunsTasksInOrder() {
        try (Parallel parallel = new Parallel(1)) {
            StringBuilder order = new StringBuilder();
            parallel.parallelFor(5, order::append);
            assertThat(order).hasToString("01234");
        }
    }

    @Test
    void badUseIsNamed() {
        assertThatThrownBy(() -> new Parallel(0)).hasMessage("Parallel: threads must be at least 1 but is 0");
        Parallel closed = new Parallel(2);
        closed.close();
        closed.close();
        assertThatThrownBy(() -> closed.parallelFor(1, i -> {})).hasMessage("parallelFor: the pool is closed");
    }

    private static void awaitUninterrupted(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }
}
