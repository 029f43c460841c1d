package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/// One backend, called by several threads at the same time.
public class ManyThreadsTest {
    private static final int THREADS = 4;
    private static final int ROUNDS = Integer.getInteger("loran.rounds", 1);

    /// Frozen weights (64, 64), one of them prepared, used by all threads.
    private final List<Tensor> weights = new ArrayList<>();

    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"F32", "BF16"})
    void everyThreadGetsTheBitsThatOneAloneGets(DType operands) throws Exception {
        try (Backend backend = new SimdBackend(2, operands)) {
            agree(backend, 2 * ROUNDS);
            assertThat(backend.liveBytes()).isZero();
        }
    }

    /// Forward and backward of a block, at sizes that are split among threads and at some that are not.
    public void agree(Backend backend, int rounds) throws Exception {
        for (int i = 0; i < 4; i++) {
            SplittableRandom random = new SplittableRandom(i);
            weights.add(Tensor.randn(backend, backend.storage(), random, 0.1, 64, 64));
        }
        weights.getFirst().prepare();
        List<List<double[]>> alone = new ArrayList<>();
        for (int thread = 0; thread < THREADS; thread++) {
            alone.add(block(backend, thread));
        }
        together(thread -> {
            for (int round = 0; round < rounds; round++) {
                int which = (thread + round) % THREADS;
                List<double[]> mine = block(backend, which);
                for (int i = 0; i < mine.size(); i++) {
                    assertThat(mine.get(i)).isEqualTo(alone.get(which).get(i));
                }
            }
        });
        weights.forEach(Tensor::close);
    }

    private List<double[]> block(Backend be, int seed) {
        SplittableRandom random = new SplittableRandom(100 + seed);
        int rows = 3 + seed;
        DType type = be.storage();
        try (Scope scope = Scope.open()) {
            Tensor x = Tensor.randn(be, type, random, 1, rows, 17, 64).requiresGrad(true);
            Tensor gain = Tensor.randn(be, type, random, 1, 64);
            Tensor a = Tensor.randn(be, type, random, 0.1, 8, 64).requiresGrad(true);
            Tensor b = Tensor.randn(be, type, random, 0.1, 64, 8).requiresGrad(true);
            Tensor h = Functional.layerNorm(x, gain, gain, 1e-5);
            Tensor q = Functional.loraLinear(h, weights.getFirst(), null, a, b, 2, null);
            Tensor k = Functional.linear(h, weights.get(1), null);
            Tensor v = Functional.linear(h, weights.get(2), null);
            Tensor att = Functional.attention(split(q), split(k), split(v), null, null, null, true, 0.25);
            Tensor y =
                    Functional.unary(UnaryFn.GELU, Functional.linear(att.reshape(rows, 17, 64), weights.get(3), null));
            Tensor p = Functional.softmax(y.add(x));
            Tensor loss = p.mul(p).sum();
            loss.backward();
            List<double[]> all = new ArrayList<>(List.of(y.toDoubles(), loss.toDoubles()));
            for (Tensor leaf : List.of(x, a, b)) {
                all.add(Objects.requireNonNull(leaf.grad()).toDoubles());
                leaf.zeroGrad();
            }
            return all;
        }
    }

    private static Tensor split(Tensor x) {
        Shape s = x.shape();
        return x.reshape(s.dim(0), s.dim(1), 4, 16);
    }

    private interface Work {
        void run(int thread) throws Exception;
    }

    private static void together(Work work) throws Exception {
        try (ExecutorService threads = Executors.newFixedThreadPool(THREADS)) {
            List<Callable<Boolean>> all = new ArrayList<>();
            for (int i = 0; i < THREADS; i++) {
                int thread = i;
                all.add(() -> {
                    work.run(thread);
                    return true;
                });
            }
            for (Future<Boolean> one : threads.invokeAll(all)) {
                one.get();
            }
        } catch (ExecutionException e) {
            if (e.getCause() instanceof Error cause) {
                throw cause;
            }
            throw e;
        }
    }

    /// A server may use a new thread for every request: scratch memory of one worker must be reused by the next.
    @Test
    void threadsThatHaveEndedLeaveTheirScratchMemoryToOthers() throws InterruptedException {
        try (Parallel parallel = new Parallel(2)) {
            for (int i = 0; i < 20; i++) {
                Thread request = new Thread(() -> parallel.workspace().segment(Workspace.Slot.PANELS, 100_000));
                request.start();
                request.join();
                assertThat(parallel.workspace().allocatedBytes()).isEqualTo(131_072);
            }
            parallel.workspace().segment(Workspace.Slot.PANELS, 100_000);
            assertThat(parallel.workspace().allocatedBytes()).isEqualTo(131_072);
            Thread beside = new Thread(() -> parallel.workspace().segment(Workspace.Slot.PANELS, 100_000));
            beside.start();
            beside.join();
            assertThat(parallel.workspace().allocatedBytes()).isEqualTo(2 * 131_072);
        }
    }
}
