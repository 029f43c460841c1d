package dev.loran.benchmarks;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.SplittableRandom;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/// `./loran bench gemm`: one product x (m, k) · wᵀ with w (n, k), optionally next to OpenBLAS.
@Command(
        name = "gemm",
        mixinStandardHelpOptions = true,
        description = "Times one product of an (m, k) and a transposed (n, k) matrix.")
final class GemmCommand implements Callable<Integer> {
    @Option(names = "--m", defaultValue = "1024", description = "rows of the result (${DEFAULT-VALUE})")
    private int m;

    @Option(names = "--n", defaultValue = "1024", description = "columns of the result (${DEFAULT-VALUE})")
    private int n;

    @Option(names = "--k", defaultValue = "1024", description = "length of the sums (${DEFAULT-VALUE})")
    private int k;

    @Option(names = "--threads", defaultValue = "0", description = "threads; 0 for all processors (${DEFAULT-VALUE})")
    private int threads;

    @Option(
            names = "--dtype",
            defaultValue = "f32",
            description = "operands: f32, or bf16, which are rounded in the timed call and summed in F32"
                    + " (${DEFAULT-VALUE})")
    private String dtype;

    @Option(names = "--prepared", description = "w is prepared once, outside the timed call")
    private boolean prepared;

    @Option(names = "--openblas", description = "time OpenBLAS in turn, and say the ratio")
    private boolean openBlas;

    @Option(names = "--repeats", defaultValue = "30", description = "timed calls (${DEFAULT-VALUE})")
    private int repeats;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Spec
    private CommandSpec spec;

    @Override
    public Integer call() {
        if (m < 1 || n < 1 || k < 1 || repeats < 1 || threads < 0) {
            throw new ParameterException(spec.commandLine(), "bench gemm: sizes and repeats must be at least 1");
        }
        DType operands = switch (dtype) {
            case "f32" -> DType.F32;
            case "bf16" -> DType.BF16;
            default ->
                throw new ParameterException(
                        spec.commandLine(), "bench gemm: --dtype " + dtype + " is not supported; choose f32 or bf16");
        };
        int used = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        SplittableRandom random = new SplittableRandom(1);
        try (Backend backend = Backends.best(used, operands);
                Tensor x = Tensor.uniform(backend, DType.F32, random, 1, m, k);
                Tensor w = Tensor.uniform(backend, DType.F32, random, 1, n, k);
                Tensor y = Tensor.empty(backend, DType.F32, m, n);
                OpenBlas peer = new OpenBlas(x.toFloats(), w.toFloats(), m, n, k, used)) {
            if (prepared) {
                w.prepare();
            }
            List<Runnable> tasks = new ArrayList<>();
            // y = x · wᵀ
            tasks.add(() -> backend.linear().linear(y.matrix(), x.matrix(), w.matrix(), null));
            if (openBlas) {
                tasks.add(() -> peer.gemm(true));
            }
            report(Timing.of(repeats, tasks), used);
        }
        return 0;
    }

    private void report(List<Timing> timings, int used) {
        double flops = 2.0 * m * n * k;
        Timing ours = timings.getFirst();
        double gflops = flops / ours.medianMs() / 1e6;
        System.out.printf(
                Locale.ROOT,
                "%d x %d x %d in %s on %d threads: %.3f ms (best %.3f), %.1f GFLOP/s%n",
                m,
                n,
                k,
                dtype,
                used,
                ours.medianMs(),
                ours.bestMs(),
                gflops);
        String peer = "";
        if (timings.size() > 1) {
            double ratio = timings.getLast().medianMs() / ours.medianMs();
            System.out.printf(
                    Locale.ROOT,
                    "OpenBLAS in the same run: %.3f ms; ours is %.2f times as fast%n",
                    timings.getLast().medianMs(),
                    ratio);
            peer = String.format(Locale.ROOT, ",\"ratio_to_openblas\":%.4f", ratio);
        }
        if (json) {
            System.out.printf(
                    Locale.ROOT,
                    "{\"median_ms\":%.4f,\"best_ms\":%.4f,\"gflops\":%.2f,\"peak_memory_mib\":%.1f%s}%n",
                    ours.medianMs(),
                    ours.bestMs(),
                    gflops,
                    Timing.peakMemoryMib(),
                    peer);
        }
    }
}
