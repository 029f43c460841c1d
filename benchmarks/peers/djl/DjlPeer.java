import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.Shape;
import ai.djl.training.GradientCollector;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.kernels.Backends;
import java.util.Arrays;
import java.util.Locale;
import java.util.SplittableRandom;

/// F32 products and a LoRA linear layer, Loran beside DJL's PyTorch engine, in one process and in turn.
///
/// `run` gives the threads; each side's time is the median of [#REPEATS] calls after
/// [#WARM_UP_NANOS] of both.
public final class DjlPeer {
    private static final long WARM_UP_NANOS = 4_000_000_000L;
    private static final int REPEATS = 40;

    public static void main(String[] args) {
        int threads = Integer.parseInt(args[0]);
        StringBuilder json = new StringBuilder();
        try (Backend backend = Backends.simd(threads);
                NDManager manager = NDManager.newBaseManager()) {
            for (int[] mnk : new int[][] {
                {512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048}, {2048, 16, 2048}, {2048, 2048, 16}
            }) {
                json.append(product(backend, manager, mnk[0], mnk[1], mnk[2])).append(',');
            }
            json.append(loraLinear(backend, manager, 512, 768, 8)).append(',');
            json.append(loraLinear(backend, manager, 1024, 512, 16));
        }
        System.out.printf("{\"threads\":%d,\"rows\":[%s]}%n", threads, json);
    }

    private static String product(Backend backend, NDManager manager, int m, int n, int k) {
        SplittableRandom random = new SplittableRandom(1);
        try (Tensor a = Tensor.uniform(backend, DType.F32, random, 1, m, k);
                Tensor b = Tensor.uniform(backend, DType.F32, random, 1, k, n);
                NDArray x = manager.create(a.toFloats(), new Shape(m, k));
                NDArray y = manager.create(b.toFloats(), new Shape(k, n))) {
            try (Tensor c = a.matmul(b);
                    NDArray d = x.matMul(y)) {
                check(c.toFloats(), d.toFloatArray());
            }
            Runnable ours = () -> a.matmul(b).close();
            Runnable theirs = () -> x.matMul(y).close();
            return row("product " + m + "x" + n + "x" + k, ours, theirs, 2.0 * m * n * k);
        }
    }

    /// y = x·Wᵀ + 2·(x·Aᵀ)·Bᵀ forward, and backward to x, A and B from the loss Σ y · c; W (d, d) is frozen.
    private static String loraLinear(Backend backend, NDManager manager, int tokens, int d, int r) {
        SplittableRandom random = new SplittableRandom(2);
        try (Tensor x = Tensor.uniform(backend, DType.F32, random, 1, tokens, d).requiresGrad(true);
                Tensor w = Tensor.uniform(backend, DType.F32, random, 0.05, d, d);
                Tensor a = Tensor.uniform(backend, DType.F32, random, 0.05, r, d).requiresGrad(true);
                Tensor b = Tensor.uniform(backend, DType.F32, random, 0.05, d, r).requiresGrad(true);
                Tensor c = Tensor.uniform(backend, DType.F32, random, 1, tokens, d);
                NDManager own = manager.newSubManager()) {
            NDArray nx = own.create(x.toFloats(), new Shape(tokens, d));
            NDArray nw = own.create(w.toFloats(), new Shape(d, d));
            NDArray na = own.create(a.toFloats(), new Shape(r, d));
            NDArray nb = own.create(b.toFloats(), new Shape(d, r));
            NDArray nc = own.create(c.toFloats(), new Shape(tokens, d));
            for (NDArray trained : new NDArray[] {nx, na, nb}) {
                trained.setRequiresGradient(true);
            }
            w.prepare();
            Runnable ours = () -> {
                for (Tensor trained : new Tensor[] {x, a, b}) {
                    trained.zeroGrad();
                }
                try (Scope scope = Scope.open()) {
                    Functional.loraLinear(x, w, null, a, b, 2, null).mul(c).sum().backward();
                }
            };
            Runnable theirs = () -> {
                try (NDScope scope = new NDScope()) {
                    for (NDArray trained : new NDArray[] {nx, na, nb}) {
                        trained.getGradient().muli(0);
                    }
                    try (GradientCollector collector = Engine.getInstance().newGradientCollector()) {
                        NDArray t = nx.matMul(na.transpose());
                        NDArray y = nx.matMul(nw.transpose()).add(t.matMul(nb.transpose()).mul(2));
                        collector.backward(y.mul(nc).sum());
                    }
                    scope.suppressNotUsedWarning();
                }
            };
            ours.run();
            theirs.run();
            check(x.grad().toFloats(), nx.getGradient().toFloatArray());
            check(a.grad().toFloats(), na.getGradient().toFloatArray());
            check(b.grad().toFloats(), nb.getGradient().toFloatArray());
            return row("LoRA linear " + tokens + " tokens, " + d + " wide, r " + r, ours, theirs, 4.0 * tokens * d * (d + 3.0 * r));
        }
    }

    /// Both sides computed the same.
    private static void check(float[] ours, float[] theirs) {
        double largest = 0;
        double difference = 0;
        for (int i = 0; i < ours.length; i++) {
            largest = Math.max(largest, Math.abs(theirs[i]));
            difference = Math.max(difference, Math.abs(ours[i] - theirs[i]));
        }
        if (!(difference <= 1e-4 * largest)) {
            throw new IllegalStateException("the two sides differ by " + difference + " of " + largest);
        }
    }

    private static String row(String name, Runnable ours, Runnable theirs, double flops) {
        for (long start = System.nanoTime(); System.nanoTime() - start < WARM_UP_NANOS; ) {
            ours.run();
            theirs.run();
        }
        double[] a = new double[REPEATS];
        double[] b = new double[REPEATS];
        for (int i = 0; i < REPEATS; i++) {
            a[i] = milliseconds(ours);
            b[i] = milliseconds(theirs);
        }
        Arrays.sort(a);
        Arrays.sort(b);
        double loran = a[REPEATS / 2];
        double djl = b[REPEATS / 2];
        System.out.printf(
                Locale.ROOT,
                "%-40s Loran %8.3f ms (%4.0f GFLOP/s)  DJL %8.3f ms  speed %.2f of DJL's%n",
                name,
                loran,
                flops / loran / 1e6,
                djl,
                djl / loran);
        return String.format(
                Locale.ROOT, "{\"name\":\"%s\",\"loran_ms\":%.4f,\"djl_ms\":%.4f}", name, loran, djl);
    }

    private static double milliseconds(Runnable task) {
        long start = System.nanoTime();
        task.run();
        return (System.nanoTime() - start) / 1e6;
    }
}
