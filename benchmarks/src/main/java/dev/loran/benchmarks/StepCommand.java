package dev.loran.benchmarks;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.Peft;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/// `./loran bench step`: forward, backward, clipping and AdamW on a Llama-shaped model with random weights, a tied
/// head and random ids.
@Command(
        name = "step",
        mixinStandardHelpOptions = true,
        description = "Times a whole training step of a Llama-shaped model with random weights.")
final class StepCommand implements Callable<Integer> {
    private static final double MIB = 1 << 20;
    private static final Map<String, Object> PROJECTIONS =
            Map.of("lora_dropout", 0.1, "target_modules", List.of("q_proj", "k_proj", "v_proj", "o_proj"));

    private static final int VIRTUAL_TOKENS = 20;

    /// Length of the run for which AdaLoRA's schedule is made: longer than what is timed, so that no ranks are cut
    /// meanwhile.
    private static final int TOTAL_STEPS = 1000;

    @Option(
            names = "--method",
            defaultValue = "lora",
            description =
                    "full, lora, adalora (rank 12, to be cut to 8), p-tuning, prefix, prompt (of 20 virtual tokens) "
                            + "or ia3 (${DEFAULT-VALUE})")
    private String method;

    @Option(
            names = "--dtype",
            defaultValue = "f32",
            description = "operands of the products of linear layers and attention: f32 or bf16 (${DEFAULT-VALUE})")
    private String dtype;

    @Option(names = "--batch", defaultValue = "8", description = "rows (${DEFAULT-VALUE})")
    private int batch;

    @Option(names = "--seq", defaultValue = "128", description = "tokens of a row (${DEFAULT-VALUE})")
    private int seq;

    @Option(names = "--hidden", defaultValue = "512", description = "hidden size (${DEFAULT-VALUE})")
    private int hidden;

    @Option(names = "--layers", defaultValue = "6", description = "layers (${DEFAULT-VALUE})")
    private int layers;

    @Option(names = "--heads", defaultValue = "8", description = "heads (${DEFAULT-VALUE})")
    private int heads;

    @Option(
            names = "--kv-heads",
            defaultValue = "0",
            description = "heads of keys and values; 0 for as many as of queries (${DEFAULT-VALUE})")
    private int kvHeads;

    @Option(
            names = "--mlp",
            defaultValue = "2048",
            description = "inner size of the feed-forward network (${DEFAULT-VALUE})")
    private int mlp;

    @Option(names = "--vocab", defaultValue = "10000", description = "vocabulary (${DEFAULT-VALUE})")
    private int vocab;

    @Option(names = "--rank", defaultValue = "16", description = "rank; alpha is twice as much (${DEFAULT-VALUE})")
    private int rank;

    @Option(names = "--threads", defaultValue = "0", description = "threads; 0 for all processors (${DEFAULT-VALUE})")
    private int threads;

    @Option(
            names = "--steps",
            defaultValue = "12",
            description = "timed steps, after as many for warm-up (${DEFAULT-VALUE})")
    private int steps;

    @Option(names = "--device", defaultValue = "cpu", description = "cpu or cuda (${DEFAULT-VALUE})")
    private String device;

    @Option(
            names = "--profile",
            description =
                    "where the time of a step goes: by operation of the engine, and by kernel; best with many --steps")
    private boolean profile;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Spec
    private CommandSpec spec;

    @Override
    public Integer call() throws IOException {
        if (!dtype.equals("f32") && !dtype.equals("bf16")) {
            throw new ParameterException(
                    spec.commandLine(), "bench step: --dtype " + dtype + " is not known; choose f32 or bf16");
        }
        if (!device.equals("cpu") && !device.equals("cuda")) {
            throw new ParameterException(
                    spec.commandLine(), "bench step: --device " + device + " is not known; choose cpu or cuda");
        }
        if (batch < 1 || seq < 2 || steps < 1 || threads < 0) {
            throw new ParameterException(
                    spec.commandLine(), "bench step: batch and steps must be at least 1, seq at least 2");
        }
        if (profile && !StepProfile.available()) {
            throw new ParameterException(
                    spec.commandLine(),
                    "bench step: --profile needs the module jdk.jfr, which this Java runtime was made without; "
                            + "run it on a JDK, by ./loran");
        }
        int used = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        LlamaModel.Config config =
                LlamaModel.Config.of(vocab, hidden, mlp, layers, heads, kvHeads == 0 ? heads : kvHeads, seq + 64);
        DType frozen = DType.valueOf(dtype.toUpperCase(Locale.ROOT));
        try (Backend backend = device.equals("cuda") ? GpuCommand.open(frozen) : Backends.best(used, frozen)) {
            Double planned = null;
            try (Backend hollow = backend.hollow()) {
                if (hollow != null) {
                    times(hollow, config, 1, null);
                    planned = hollow.peakBytes() / MIB;
                    System.out.printf(Locale.ROOT, "planned: %.1f MiB of tensors%n", planned);
                }
            }
            try (StepProfile watch = profile ? new StepProfile() : null) {
                List<Double> times = times(backend, config, steps, watch);
                if (watch != null) {
                    watch.stop();
                }
                report(times, used, planned, backend, watch);
            }
        }
        return 0;
    }

    /// Returns the milliseconds of each of `timed` steps, after as many that are neither timed nor profiled.
    private List<Double> times(Backend backend, LlamaModel.Config config, int timed, @Nullable StepProfile watch) {
        try (LlamaModel model = LlamaModel.random(config, backend, backend.storage(), 1);
                PeftModel peft = new PeftModel(model, 1)) {
            Map<String, Object> options = options();
            Tuner tuner = null;
            if (options == null) {
                model.makeWritable();
                model.requiresGrad(true);
            } else {
                tuner = peft.addAdapter("default", Peft.createPeftConfig(peftType(), options));
                tuner.beginTraining(TOTAL_STEPS);
            }
            model.train(true);
            model.prepare();
            try (TrainingStep step = new TrainingStep(peft, tuner, batch, seq, vocab)) {
                List<Double> times = new ArrayList<>();
                for (int i = 0; i < 2 * timed; i++) {
                    if (i == timed && watch != null) {
                        watch.start();
                    }
                    long start = System.nanoTime();
                    step.run();
                    if (i >= timed) {
                        times.add((System.nanoTime() - start) / 1e6);
                    }
                }
                return times;
            }
        }
    }

    /// The options of the method; null for full fine-tuning.
    private @Nullable Map<String, Object> options() {
        return switch (method) {
            case "full" -> null;
            case "lora" -> {
                Map<String, Object> lora = new HashMap<>(PROJECTIONS);
                lora.put("r", rank);
                lora.put("lora_alpha", 2 * rank);
                yield lora;
            }
            case "adalora" -> {
                Map<String, Object> adalora = new HashMap<>(PROJECTIONS);
                adalora.putAll(Map.of("init_r", 12, "target_r", 8, "tinit", 200, "tfinal", 200, "deltaT", 10));
                yield adalora;
            }
            case "p-tuning" ->
                Map.of(
                        "num_virtual_tokens",
                        VIRTUAL_TOKENS,
                        "encoder_reparameterization_type",
                        "MLP",
                        "encoder_hidden_size",
                        hidden);
            case "prefix", "prompt" -> Map.of("num_virtual_tokens", VIRTUAL_TOKENS);
            case "ia3" -> Map.of();
            default ->
                throw new ParameterException(spec.commandLine(), "bench step: --method " + method + " is not known");
        };
    }

    private String peftType() {
        return method.equals("prefix") || method.equals("prompt") ? method + "_TUNING" : method;
    }

    private void report(
            List<Double> times, int used, @Nullable Double planned, Backend backend, @Nullable StepProfile watch) {
        Collections.sort(times);
        double median = times.get(times.size() / 2);
        double tokens = batch * seq / median * 1e3;
        // On a GPU, the memory that the device holds, instead of that of the process.
        double peak = backend instanceof CudaBackend gpu ? gpu.heldBytes() / MIB : Timing.peakMemoryMib();
        System.out.printf(
                Locale.ROOT,
                "%s step of %d x %d tokens on %s: %.1f ms (best %.1f), %.0f tokens/s,"
                        + " peak %.0f MiB, of tensors %.1f MiB%n",
                method,
                batch,
                seq,
                device.equals("cuda") ? "a GPU" : used + " threads",
                median,
                times.getFirst(),
                tokens,
                peak,
                backend.peakBytes() / MIB);
        if (watch != null) {
            watch.print(median);
        }
        if (json) {
            System.out.printf(
                    Locale.ROOT,
                    "{\"median_ms\":%.3f,\"best_ms\":%.3f,\"tokens_per_second\":%.1f,\"peak_memory_mib\":%.1f,"
                            + "\"peak_tensor_mib\":%.3f,\"planned_tensor_mib\":%s%s}%n",
                    median,
                    times.getFirst(),
                    tokens,
                    peak,
                    backend.peakBytes() / MIB,
                    planned == null ? "null" : String.format(Locale.ROOT, "%.3f", planned),
                    watch == null ? "" : ",\"profile\":" + watch.json(median));
        }
    }
}
