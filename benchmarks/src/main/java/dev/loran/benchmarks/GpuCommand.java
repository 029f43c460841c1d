package dev.loran.benchmarks;

import dev.loran.engine.backend.ActivationKernels;
import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.Backend.Replay;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.NormKernels.Statistics;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/// `./loran bench gpu`: the time of each GPU kernel, next to the least it could take: the bytes it must move at the
/// speed of a copy, or its arithmetic at the speed of a large matrix product, both measured in the same run.
///
/// Each kernel is recorded several times over and replayed, and timed by the device's own events, so the figures
/// include neither the host nor its calls.
@Command(
        name = "gpu",
        mixinStandardHelpOptions = true,
        description = "Measures every kernel of the GPU and its share of the measured copy and product speed.")
final class GpuCommand implements Callable<Integer> {
    private static final int REPEATS = 10;
    private static final int ROUNDS = 5;
    private static final int HEAD = 128;

    @Option(names = "--tokens", defaultValue = "8192", description = "tokens (${DEFAULT-VALUE})")
    private int tokens;

    @Option(names = "--seq", defaultValue = "2048", description = "tokens of a row (${DEFAULT-VALUE})")
    private int seq;

    @Option(names = "--hidden", defaultValue = "4096", description = "hidden size (${DEFAULT-VALUE})")
    private int hidden;

    @Option(names = "--vocab", defaultValue = "32000", description = "vocabulary (${DEFAULT-VALUE})")
    private int vocab;

    @Option(names = "--rank", defaultValue = "16", description = "rank of LoRA (${DEFAULT-VALUE})")
    private int rank;

    @Option(names = "--parameters", defaultValue = "41900000", description = "of AdamW (${DEFAULT-VALUE})")
    private int parameters;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    private double gigabytes;
    private double gflops;
    private final StringBuilder rows = new StringBuilder();

    /// Opens the GPU or, for trying out the benchmarks themselves, the CPU stand-in for tests in the folder given by
    /// the system property `loran.standin`; the figures are then meaningless.
    static CudaBackend open(DType operands) {
        String standIn = System.getProperty("loran.standin");
        return standIn == null
                ? (CudaBackend) Backends.cuda(operands)
                : CudaBackend.standIn(Path.of(standIn), operands);
    }

    @Override
    public Integer call() {
        String device;
        try (CudaBackend gpu = open(DType.F32)) {
            device = gpu.describe();
            System.out.println(device);
            roofs(gpu);
            System.out.printf(
                    Locale.ROOT,
                    "copying %.1f GB/s (read and written), F32 products %.1f GFLOP/s%n%n%-34s %10s %9s %10s %6s%n",
                    gigabytes,
                    gflops,
                    "F32",
                    "ms",
                    "GB/s",
                    "GFLOP/s",
                    "share");
            elementwise(gpu);
            rowwise(gpu);
            adapters(gpu);
            attention(gpu);
            lora(gpu);
            optimizer(gpu);
        }
        if (json) {
            System.out.printf(
                    Locale.ROOT,
                    "{\"device\":\"%s\",\"copy_gigabytes_per_second\":%.2f,\"product_gflops\":%.2f,\"kernels\":[%s]}%n",
                    device,
                    gigabytes,
                    gflops,
                    rows);
        }
        return 0;
    }

    private void roofs(CudaBackend gpu) {
        int n = tokens * hidden;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer x = random(gpu, scratch, n);
            Buffer y = scratch.like(x);
            Buffer w = random(gpu, scratch, hidden * hidden);
            gigabytes = 8.0 * n / best(gpu, () -> gpu.copy(y, n, x, n, 1, n, false)) / 1e6;
            Matrix rows = new Matrix(x, tokens, hidden);
            Runnable product = () -> gpu.linear().linear(rows.in(y), rows, new Matrix(w, hidden, hidden), null);
            gflops = 2.0 * n * hidden / best(gpu, product) / 1e6;
        }
    }

    private static Buffer random(CudaBackend gpu, Scratch scratch, int n) {
        Buffer x = scratch.allocate(DType.F32, n);
        gpu.fill(x, 0.5);
        // Just a cheap way to obtain numbers that differ.
        gpu.dropout(x, x, 1, n, new DropoutMask(0.5, 1, 1, scratch.hold(gpu.ofInts(n))), false);
        return x;
    }

    /// Milliseconds per call, the best of a few rounds.
    private static double best(CudaBackend gpu, Runnable work) {
        work.run();
        double best = Double.POSITIVE_INFINITY;
        try (Replay replay = gpu.capture(() -> {
            for (int i = 0; i < REPEATS; i++) {
                work.run();
            }
        })) {
            for (int i = 0; i < ROUNDS; i++) {
                best = Math.min(best, gpu.milliseconds(replay::run));
            }
        }
        return best / REPEATS;
    }

    /// Prints one line of the table: at least `floats` are read and written, and `flops` done.
    private void measure(CudaBackend gpu, String name, double floats, double flops, Runnable work) {
        double ms = best(gpu, work);
        double moved = 4 * floats / ms / 1e6;
        double done = flops / ms / 1e6;
        double share = Math.max(moved / gigabytes, done / gflops);
        System.out.printf(Locale.ROOT, "%-34s %10.4f %9.1f %10.1f %6.2f%n", name, ms, moved, done, share);
        rows.append(rows.isEmpty() ? "" : ",")
                .append(String.format(
                        Locale.ROOT,
                        "{\"kernel\":\"%s\",\"ms\":%.5f,\"gigabytes_per_second\":%.2f,\"gflops\":%.2f,\"share\":%.4f}",
                        name,
                        ms,
                        moved,
                        done,
                        share));
    }

    private void elementwise(CudaBackend gpu) {
        int n = tokens * hidden;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer a = random(gpu, scratch, n);
            Buffer b = random(gpu, scratch, n);
            Buffer y = scratch.like(a);
            Buffer half = scratch.allocate(DType.BF16, n);
            int[] dense = {1};
            measure(gpu, "add", 3.0 * n, n, () -> gpu.binary(BinaryFn.ADD, y, a, b, new int[] {n}, dense, dense));
            measure(gpu, "axpby", 3.0 * n, 3.0 * n, () -> gpu.axpby(y, a, 2, 0.5));
            measure(gpu, "silu", 2.0 * n, n, () -> gpu.unary(UnaryFn.SILU, y, a));
            measure(gpu, "silu backward", 3.0 * n, n, () -> gpu.unaryBackward(UnaryFn.SILU, y, b, a, false));
            measure(gpu, "cast to bf16", 1.5 * n, n, () -> gpu.cast(half, a));
            measure(gpu, "permute", 2.0 * n, 0, () -> gpu.permute(y, a, new int[] {tokens, hidden}, new int[] {1, 0}));
            DropoutMask mask = new DropoutMask(0.1, 1, 2, scratch.hold(gpu.ofInts(3)));
            measure(gpu, "dropout", 2.0 * n, n, () -> gpu.dropout(y, a, tokens, hidden, mask, false));
        }
    }

    private void rowwise(CudaBackend gpu) {
        int n = tokens * hidden;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer x = random(gpu, scratch, n);
            Buffer dy = random(gpu, scratch, n);
            Buffer y = scratch.like(x);
            Buffer w = random(gpu, scratch, hidden);
            Buffer dw = scratch.like(w);
            Buffer rstd = scratch.allocate(DType.F32, tokens);
            Matrix xs = new Matrix(x, tokens, hidden);
            Gradient toY = new Gradient(y, false);
            Gradient toWeight = new Gradient(dw, false);
            NormKernels norm = gpu.norm();
            measure(gpu, "rmsNorm", 2.0 * n, 4.0 * n, () -> norm.rmsNorm(y, rstd, xs, w, 1e-5));
            Runnable dx = () -> norm.rmsNormBackward(toY, null, dy, xs, rstd, w);
            measure(gpu, "rmsNorm backward, dx", 3.0 * n, 6.0 * n, dx);
            Runnable weight = () -> norm.rmsNormBackward(null, toWeight, dy, xs, rstd, w);
            measure(gpu, "rmsNorm backward, dw", 2.0 * n, 3.0 * n, weight);
            Buffer sum = scratch.like(x);
            Runnable addRms = () -> norm.addRmsNorm(y, sum, rstd, xs, dy, w, 1e-5);
            measure(gpu, "addRmsNorm", 4.0 * n, 5.0 * n, addRms);
            Statistics kept = new Statistics(scratch.like(rstd), rstd);
            Runnable layer = () -> norm.layerNorm(y, kept, xs, w, w, 1e-5);
            measure(gpu, "layerNorm", 2.0 * n, 6.0 * n, layer);
            Runnable addLayer = () -> norm.addLayerNorm(y, sum, kept, xs, dy, w, w, 1e-5);
            measure(gpu, "addLayerNorm", 4.0 * n, 7.0 * n, addLayer);
            Runnable layerDx = () -> norm.layerNormBackward(toY, null, null, dy, xs, kept, w);
            measure(gpu, "layerNorm backward, dx", 3.0 * n, 8.0 * n, layerDx);
            measure(gpu, "softmax", 2.0 * n, 4.0 * n, () -> gpu.attention().softmax(y, xs));
            measure(gpu, "sum of rows", n, n, () -> gpu.sum(rstd, x, tokens, hidden, 1, false));
            measure(gpu, "sum of columns", n, n, () -> gpu.sum(dw, x, 1, tokens, hidden, false));
            Runnable products = () -> gpu.activation().sumOfProducts(toWeight, x, dy, 1, tokens, hidden);
            measure(gpu, "sum of products (IA3)", 2.0 * n, 2.0 * n, products);
            measure(gpu, "max of rows", n, n, () -> gpu.rowMax(rstd, x, tokens, hidden));
            measure(
                    gpu,
                    "softmax backward",
                    3.0 * n,
                    4.0 * n,
                    () -> gpu.attention().softmaxBackward(toY, dy, xs));
            embeddings(gpu, scratch, y, x, dy);
        }
        losses(gpu);
    }

    private void embeddings(CudaBackend gpu, Scratch scratch, Buffer y, Buffer x, Buffer dy) {
        int n = tokens * hidden;
        Buffer ids = scratch.hold(gpu.ofInts(new int[tokens]));
        int[] each = new int[tokens];
        Arrays.setAll(each, i -> i);
        Buffer spread = scratch.hold(gpu.ofInts(each));
        measure(gpu, "embedding", 2.0 * n, 0, () -> gpu.gatherRows(y, x, ids, tokens, hidden));
        gpu.fill(y, 0);
        Runnable scatter = () -> gpu.scatterAddRows(y, dy, spread, tokens, tokens, hidden);
        measure(gpu, "embedding backward", 3.0 * n, n, scatter);
    }

    private void losses(CudaBackend gpu) {
        int few = Math.min(tokens, 1024);
        int n2 = few * vocab;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer logits = random(gpu, scratch, n2);
            Buffer losses = scratch.allocate(DType.F32, few);
            Buffer lse = scratch.allocate(DType.F32, few);
            Buffer g = scratch.hold(gpu.of(DType.F32, 1));
            Labels labels = new Labels(scratch.hold(gpu.ofInts(new int[few])), -1);
            Matrix rows = new Matrix(logits, few, vocab);
            measure(gpu, "crossEntropy", n2, 3.0 * n2, () -> gpu.loss().crossEntropy(losses, lse, rows, labels));
            Gradient d = new Gradient(scratch.like(logits), false);
            Runnable backward = () -> gpu.loss().crossEntropyBackward(d, g, rows, lse, labels);
            measure(gpu, "crossEntropy backward", 2.0 * n2, 3.0 * n2, backward);
        }
    }

    /// The element-wise work between and after the two products of an adapter whose bottleneck is an eighth of the
    /// hidden size, so that it is bound by copying; and gates, at the hidden size.
    private void adapters(CudaBackend gpu) {
        int n = tokens * hidden;
        int m = Math.max(1, hidden / 8);
        double inner = (double) tokens * m;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer y = random(gpu, scratch, n);
            Buffer x = random(gpu, scratch, n);
            Buffer gate = random(gpu, scratch, n);
            Buffer z = random(gpu, scratch, tokens * m);
            Buffer h = scratch.like(z);
            Buffer bias = random(gpu, scratch, hidden);
            Gradient dBias = new Gradient(scratch.allocate(DType.F32, m), false);
            Buffer first = bias.slice(0, m);
            Matrix zs = new Matrix(z, tokens, m);
            ActivationKernels kernels = gpu.activation();
            Runnable activation = () -> kernels.biasActivation(UnaryFn.SILU, h, zs, first, null, 1);
            measure(gpu, "bottleneck, bias and activation", 3 * inner, 2 * inner, activation);
            Runnable backward = () -> kernels.biasActivationBackward(UnaryFn.SILU, zs.in(h), dBias, z, null, 1);
            measure(gpu, "bottleneck, activation backward", 3 * inner, 3 * inner, backward);
            Runnable residual = () -> kernels.biasResidual(new Matrix(y, tokens, hidden), bias, x, 1);
            measure(gpu, "bottleneck, bias and residual", 3.0 * n, 2.0 * n, residual);
            measure(gpu, "gated (SwiGLU)", 3.0 * n, 2.0 * n, () -> kernels.gated(UnaryFn.SILU, y, gate, x));
            Gradient dUp = new Gradient(scratch.like(x), false);
            Gradient dGate = new Gradient(scratch.like(x), false);
            Runnable gatedBackward = () -> kernels.gatedBackward(UnaryFn.SILU, dGate, dUp, y, gate, x);
            measure(gpu, "gated (SwiGLU), backward", 5.0 * n, 6.0 * n, gatedBackward);
            int[] dense = {hidden, 1};
            int[] perColumn = {0, 1};
            Runnable scale = () -> gpu.binary(BinaryFn.MUL, y, x, bias, new int[] {tokens, hidden}, dense, perColumn);
            measure(gpu, "scale of columns (IA3)", 2.0 * n, n, scale);
        }
    }

    private void attention(CudaBackend gpu) {
        int d = Math.min(HEAD, hidden);
        int heads = hidden / d;
        int batch = Math.max(1, tokens / seq);
        int n = batch * seq * hidden;
        double flops = 4.0 * batch * heads * seq * seq / 2 * d;
        double scale = 1 / Math.sqrt(d);
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer q = random(gpu, scratch, n);
            Buffer k = random(gpu, scratch, n);
            Buffer v = random(gpu, scratch, n);
            Buffer out = scratch.like(q);
            Buffer lse = scratch.allocate(DType.F32, Math.multiplyExact(batch * heads, seq));
            Sizes sizes = new Sizes(batch, seq, seq, 0, heads, heads, d);
            Problem problem = new Problem(q, k, v, null, null, null, sizes, true, scale);
            AttentionKernels kernels = gpu.attention();
            Runnable forward = () -> kernels.attention(out, lse, problem);
            measure(gpu, "attention, causal", 4.0 * n, flops, forward);
            Buffer dOut = random(gpu, scratch, n);
            Slopes slopes = new Slopes(scratch.like(q), scratch.like(k), scratch.like(v), null, null);
            Runnable backward = () -> kernels.attentionBackward(slopes, dOut, out, lse, problem);
            measure(gpu, "attention, causal, backward", 8.0 * n, 2.5 * flops, backward);
            Buffer cos = random(gpu, scratch, seq * d / 2);
            RopeTables tables = new RopeTables(cos, cos, seq, d);
            measure(gpu, "rope", 2.0 * n, 6.0 * n, () -> kernels.rope(out, q, tables, batch, heads, 1));
        }
    }

    private void lora(CudaBackend gpu) {
        int n = tokens * hidden;
        double product = 2.0 * n * hidden;
        double small = 4.0 * n * rank;
        try (Scratch scratch = new Scratch(gpu)) {
            Buffer x = random(gpu, scratch, n);
            Buffer y = scratch.like(x);
            Buffer dx = scratch.like(x);
            Buffer w = random(gpu, scratch, hidden * hidden);
            Buffer a = random(gpu, scratch, rank * hidden);
            Buffer b = random(gpu, scratch, rank * hidden);
            Gradient da = new Gradient(scratch.like(a), false);
            Gradient db = new Gradient(scratch.like(b), false);
            Buffer t = scratch.allocate(DType.F32, Math.multiplyExact(tokens, rank));
            double floats = 2.0 * n + (double) hidden * hidden;
            DropoutMask mask = new DropoutMask(0.1, 1, 2, scratch.hold(gpu.ofInts(3)));
            LowRankUpdate update = new LowRankUpdate(
                    new Matrix(t, tokens, rank), new Matrix(a, rank, hidden), new Matrix(b, hidden, rank), 2, mask);
            Matrix xs = new Matrix(x, tokens, hidden);
            Matrix ws = new Matrix(w, hidden, hidden);
            Runnable forward = () -> gpu.linear().loraLinear(xs.in(y), xs, ws, null, update);
            measure(gpu, "loraLinear, dropout", floats, product + small, forward);
            Gradient toX = new Gradient(dx, false);
            Runnable backward = () -> gpu.linear().loraLinearBackward(toX, da, db, xs.in(y), xs, ws, update);
            measure(gpu, "loraLinear, dropout, backward", floats + n, product + 2 * small, backward);
        }
    }

    private void optimizer(CudaBackend gpu) {
        int tensors = 64;
        int each = parameters / tensors;
        double n = (double) tensors * each;
        try (Scratch scratch = new Scratch(gpu)) {
            List<List<Buffer>> pmvg = new ArrayList<>();
            for (int i = 0; i < 4; i++) {
                Buffer[] buffers = new Buffer[tensors];
                Arrays.setAll(buffers, j -> random(gpu, scratch, each));
                pmvg.add(List.of(buffers));
            }
            Buffer lr = scratch.hold(gpu.of(DType.F32, 1e-4));
            Buffer t = scratch.hold(gpu.ofInts(3));
            Buffer sum = scratch.allocate(DType.F32, 1);
            AdamWStep step = new AdamWStep(lr, t, null, 0.9, 0.999, 1e-8, 0.01);
            OptimizerKernels optimizer = gpu.optimizer();
            Runnable adamW = () -> optimizer.adamW(pmvg.get(0), pmvg.get(1), pmvg.get(2), pmvg.get(3), step);
            measure(gpu, "adamW, " + tensors + " tensors", 7 * n, 12 * n, adamW);
            measure(gpu, "sum of squares of gradients", n, 2 * n, () -> optimizer.sumOfSquares(sum, pmvg.get(3)));
            Buffer smooth = random(gpu, scratch, parameters);
            Buffer spread = random(gpu, scratch, parameters);
            Buffer p = random(gpu, scratch, parameters);
            Buffer g = random(gpu, scratch, parameters);
            Runnable importance = () -> optimizer.importance(smooth, spread, p, g, null, 0.85, 0.85);
            measure(gpu, "importance (AdaLoRA)", 6.0 * parameters, 8.0 * parameters, importance);
        }
    }
}
