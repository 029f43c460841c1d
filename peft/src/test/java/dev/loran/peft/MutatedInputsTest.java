package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.Mutations.Format;
import dev.loran.peft.cli.Main;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.OnnxWeights;
import dev.loran.peft.data.TinyOnnx;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.train.TinyRun;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BitFitConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.Ia3Config;
import dev.loran.peft.tuner.LnTuningConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.zip.GZIPOutputStream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Opening a damaged file either succeeds or fails with our input error: never with another exception, never after a
/// long time, never with excessive memory, never with leaked buffers.
///
/// `-Dloran.mutations=1000000` runs more cases than the few of every build, `-Dloran.mutations.seed=N` other ones, and
/// `-Dloran.mutations.kinds=REGEX` only some kinds of files.
class MutatedInputsTest {
    private static final long CASES = Long.getLong("loran.mutations", 8_000);
    private static final long SEED = Long.getLong("loran.mutations.seed", 1);
    private static final int THREADS = Integer.getInteger("loran.mutations.threads", 1);
    private static final String KINDS = System.getProperty("loran.mutations.kinds", ".*");

    /// The time limit of one case, for a machine that is also busy otherwise.
    private static final long SECONDS = 20;

    /// The heap limit of one case: a fixed amount for the model around the file, plus an amount for each byte of the
    /// file.
    private static final long HEAP_BYTES = 24L << 20;
    private static final long HEAP_BYTES_A_BYTE = 512;
    private static final long TENSOR_BYTES = 16L << 20;

    @TempDir
    private Path folder;

    @Test
    void everyDamagedFileIsReadOrRefused() throws Exception {
        List<Worker> workers = new ArrayList<>();
        for (int w = 0; w < THREADS; w++) {
            workers.add(new Worker(Files.createDirectories(folder.resolve("worker" + w)), w));
        }
        Map<String, String> failures = new TreeMap<>();
        Map<String, Outcome> outcomes = new TreeMap<>();
        try (ExecutorService threads = Executors.newFixedThreadPool(THREADS)) {
            for (Future<Map<String, String>> failed : threads.invokeAll(workers)) {
                failures.putAll(failed.get());
            }
        }
        workers.forEach(w -> w.outcomes.forEach((kind, o) -> outcomes.merge(kind, o, Outcome::plus)));
        if (CASES > 10_000) {
            outcomes.forEach((kind, o) -> System.out.printf("%-35s %s%n", kind, o));
        }
        System.out.printf(
                "%,d damaged files of %d kinds%n",
                outcomes.values().stream().mapToLong(o -> o.read + o.refused).sum(), outcomes.size());
        assertThat(failures).isEmpty();
        // If every damaged file were read, or every one refused, the test would prove little.
        assertThat(outcomes.values()).anyMatch(o -> o.read > 0).anyMatch(o -> o.refused > 0);
    }

    /// The results for the files of one kind.
    private record Outcome(long read, long refused, long nanos, long longest) {
        Outcome plus(Outcome o) {
            return new Outcome(read + o.read, refused + o.refused, nanos + o.nanos, Math.max(longest, o.longest));
        }

        @Override
        public String toString() {
            return "%,9d read %,9d refused %,8.3f ms, at most %,6.1f"
                    .formatted(read, refused, 1e-6 * nanos / (read + refused), 1e-6 * longest);
        }
    }

    private interface Opening {
        void open() throws IOException;
    }

    /// A file that gets damaged, and the code that opens it.
    private record Kind(String name, Path file, byte[] valid, Format format, boolean isSlow, Opening opening) {}

    /// Damages the files in its own folder, one after the other.
    private static final class Worker implements Callable<Map<String, String>> {
        private final Path folder;
        private final int number;
        private final ThreadMXBean thread = (ThreadMXBean) ManagementFactory.getThreadMXBean();
        private final ReferenceBackend backend = new ReferenceBackend();
        private final List<Kind> kinds = new ArrayList<>();
        final Map<String, Outcome> outcomes = new TreeMap<>();

        Worker(Path folder, int number) {
            this.folder = folder;
            this.number = number;
        }

        private void kind(String name, Path file, Format format, Opening opening) throws IOException {
            // A kind whose valid file is refused would test nothing.
            opening.open();
            kinds.add(new Kind(name, file, Files.readAllBytes(file), format, false, opening));
        }

        private void slow(String name, Path file, Format format, Opening opening) throws IOException {
            opening.open();
            kinds.add(new Kind(name, file, Files.readAllBytes(file), format, true, opening));
        }

        /// The first failure of each kind.
        @Override
        public Map<String, String> call() throws IOException {
            models();
            adapters();
            tasks();
            checkpoints();
            texts();
            commands();
            kinds.removeIf(kind -> !kind.name().matches(KINDS));
            Map<String, String> failures = new TreeMap<>();
            for (long i = number; i < CASES && failures.size() < 40; i += THREADS) {
                long n = i / THREADS;
                if (n > 0 && n % 50_000 == 0) {
                    System.out.printf("%,d damaged files, %d failures%n", i, failures.size());
                }
                Kind kind = kinds.get((int) (n % kinds.size()));
                // These take ten times the work of others: a command, or a training step.
                if (kind.isSlow() && n / kinds.size() % 10 != 0) {
                    kind = kinds.get((int) (n / kinds.size() % kinds.size()));
                }
                String failure = tried(kind, SEED * 1_000_000_007L + i);
                if (failure != null) {
                    String sort = kind.name() + ": " + failure.replaceAll("[\\d,]+", "#");
                    failures.putIfAbsent(sort.lines().limit(3).toList().toString(), "case " + i + ": " + failure);
                }
            }
            backend.close();
            return failures;
        }

        /// The failure, or null.
        private @Nullable String tried(Kind kind, long seed) throws IOException {
            byte[] damaged = Mutations.damaged(kind.valid(), kind.format(), new SplittableRandom(seed));
            Files.write(kind.file(), damaged);
            long live = backend.liveBytes();
            long heap = thread.getCurrentThreadAllocatedBytes();
            long start = System.nanoTime();
            String failure = null;
            int read = 0;
            try {
                kind.opening().open();
                read = 1;
            } catch (InputException | SafeTensorsException e) {
                String message = String.valueOf(e.getMessage());
                if (message.isBlank() || message.contains("\n") || message.length() > 4_000) {
                    failure = "an error that is not one line: %,d characters: %.200s"
                            .formatted(message.length(), message);
                }
            } catch (RuntimeException | StackOverflowError | OutOfMemoryError e) {
                failure = trace(e);
            }
            heap = thread.getCurrentThreadAllocatedBytes() - heap;
            long nanos = System.nanoTime() - start;
            outcomes.merge(kind.name(), new Outcome(read, 1 - read, nanos, nanos), Outcome::plus);
            long seconds = nanos / 1_000_000_000;
            if (failure == null && heap > HEAP_BYTES + HEAP_BYTES_A_BYTE * damaged.length) {
                failure = "took %,d bytes of heap for a file of %,d".formatted(heap, damaged.length);
            } else if (failure == null && seconds > SECONDS) {
                failure = "took " + seconds + " seconds";
            } else if (failure == null && backend.liveBytes() != live) {
                failure = "left %,d bytes of tensors behind".formatted(backend.liveBytes() - live);
            } else if (failure == null && backend.peakBytes() > TENSOR_BYTES) {
                failure = "took %,d bytes of tensors".formatted(backend.peakBytes());
            }
            if (failure != null) {
                Path kept = Path.of("target", "mutated", kind.name().replaceAll("\\W+", "-") + "-" + seed);
                Files.createDirectories(kept.getParent());
                Files.write(kept, damaged);
            }
            Files.write(kind.file(), kind.valid());
            return failure;
        }

        private static String trace(Throwable e) {
            StringBuilder text = new StringBuilder(String.valueOf(e));
            StackTraceElement[] trace = e.getStackTrace();
            for (int i = 0; i < Math.min(12, trace.length); i++) {
                text.append("\n        at ").append(trace[i]);
            }
            return text.toString();
        }

        // ---- the files to open

        private Map<String, Model> families() {
            Map<String, Model> all = new LinkedHashMap<>();
            Rope rope = new Rope.Default(100);
            LlamaModel.Config llama =
                    new LlamaModel.Config(13, 12, 20, 1, 4, 2, 6, 16, "silu", 1e-5, rope, false, false, false, 0.02);
            all.put("llama", LlamaModel.random(llama, backend, DType.F32, 1));
            all.put("gpt2", Gpt2Model.random(Gpt2Model.Config.of(13, 16, 12, 1, 3), backend, DType.F32, 1));
            all.put("bert", BertModel.random(BertModel.Config.of(13, 12, 1, 3, 16, 0), backend, DType.F32, 1));
            all.put("bert-head", BertModel.random(BertModel.Config.of(13, 12, 1, 3, 16, 2), backend, DType.F32, 1));
            all.put("seo", Tiny.causal(backend, DType.F32));
            return all;
        }

        private void models() throws IOException {
            for (Map.Entry<String, Model> family : families().entrySet()) {
                Path saved = folder.resolve(family.getKey());
                try (Model model = family.getValue()) {
                    Tiny.save(model, saved);
                }
                Opening opening = () -> {
                    try (Model model = HfModels.load(saved, backend)) {
                        run(model);
                    }
                };
                kind(family.getKey() + " config.json", saved.resolve("config.json"), Format.JSON, opening);
                kind(family.getKey() + " weights", saved.resolve("model.safetensors"), Format.SAFE_TENSORS, opening);
            }
            Path sharded = Files.createDirectories(folder.resolve("sharded"));
            Path whole = folder.resolve("llama");
            Files.copy(whole.resolve("config.json"), sharded.resolve("config.json"));
            Path shard = sharded.resolve("model-00001-of-00001.safetensors");
            Files.copy(whole.resolve("model.safetensors"), shard);
            StringBuilder map = new StringBuilder();
            try (SafeTensors tensors = SafeTensors.open(shard)) {
                tensors.names()
                        .forEach(name -> map.append(map.isEmpty() ? "" : ", ")
                                .append("\"%s\": \"%s\"".formatted(name, shard.getFileName())));
            }
            Path index = Files.writeString(
                    sharded.resolve("model.safetensors.index.json"),
                    "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" + map + "}}");
            kind("index of shards", index, Format.JSON, () -> {
                try (Model model = HfModels.load(sharded, backend)) {
                    run(model);
                }
            });
            Path onnx = Files.write(folder.resolve("tiny.onnx"), new TinyOnnx(5).file());
            kind("ONNX weights", onnx, Format.BYTES, () -> {
                try (OnnxWeights weights = OnnxWeights.open(onnx)) {
                    weights.weights().values().forEach(OnnxWeights.Weight::toArray);
                }
            });
        }

        private void run(Model model) {
            try (Scope scope = Scope.open();
                    Autograd.Mode off = Autograd.noGrad()) {
                model.hidden(Tensor.ofInts(backend, new int[] {1, 2, 3}, 1, 3), null);
            }
        }

        private void adapters() throws IOException {
            LoraConfig lora = LoraConfig.defaults().withRank(2, 4);
            Map<String, PeftConfig> configs = new LinkedHashMap<>();
            configs.put("lora", lora);
            configs.put("dora", lora.withDora(true));
            configs.put("lora with tokens", lora.withTrainableTokens(List.of(3, 1)));
            configs.put("adalora", AdaLoraConfig.defaults().withRanks(3, 2));
            configs.put("ia3", Ia3Config.defaults());
            configs.put("ln-tuning", LnTuningConfig.defaults());
            configs.put("bitfit", BitFitConfig.defaults());
            configs.put("adapter", BottleneckConfig.houlsby().withSize(4));
            configs.put("prefix", PrefixTuningConfig.of(2));
            configs.put("prefix with projection", PrefixTuningConfig.of(1).withProjection(5));
            configs.put("prompt", PromptTuningConfig.of(2));
            configs.put("p-tuning", PromptEncoderConfig.of(2));
            for (Map.Entry<String, PeftConfig> config : configs.entrySet()) {
                // BitFit trains biases, which the Llama model does not have.
                Path base = folder.resolve(config.getKey().equals("bitfit") ? "gpt2" : "llama");
                Path saved = folder.resolve("adapter-" + config.getKey().replace(' ', '-'));
                try (Model model = HfModels.load(base, backend);
                        PeftModel peft = new PeftModel(model, 3)) {
                    peft.addAdapter("default", config.getValue());
                    peft.savePretrained(saved);
                }
                Opening opening = () -> {
                    try (Model model = HfModels.load(base, backend);
                            PeftModel peft = new PeftModel(model, 3)) {
                        peft.loadAdapter("default", saved);
                        run(model);
                    }
                };
                kind(config.getKey() + " config", saved.resolve("adapter_config.json"), Format.JSON, opening);
                Path tensors = saved.resolve("adapter_model.safetensors");
                kind(config.getKey() + " tensors", tensors, Format.SAFE_TENSORS, opening);
            }
        }

        private void tasks() throws IOException {
            Path base = folder.resolve("bert");
            Path saved = folder.resolve("classifier");
            try (Model model = HfModels.load(base, backend);
                    PeftModel peft = new PeftModel(model, 3)) {
                peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
                try (TaskModel task = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, 16), 5)) {
                    task.save(saved);
                }
            }
            Opening opening = () -> {
                try (Model model = HfModels.load(base, backend);
                        PeftModel peft = new PeftModel(model, 3);
                        TaskModel task = TaskModel.load(peft, saved)) {
                    run(task.model());
                }
            };
            kind("head", saved.resolve("head.safetensors"), Format.SAFE_TENSORS, opening);
            kind("loran.json", saved.resolve("loran.json"), Format.JSON, opening);
        }

        /// With valid checksums: damage that they reveal would be reported before anything is read.
        private void checkpoints() throws IOException {
            Path run = folder.resolve("trained");
            Path step = TinyRun.train(run, backend);
            Map<Path, byte[]> valid = new LinkedHashMap<>();
            for (String name : List.of("state.json", "state.safetensors")) {
                valid.put(step.resolve(name), Files.readAllBytes(step.resolve(name)));
            }
            for (Path file : valid.keySet()) {
                Format format = file.toString().endsWith(".json") ? Format.JSON : Format.SAFE_TENSORS;
                slow("checkpoint's " + file.getFileName(), file, format, () -> {
                    for (Map.Entry<Path, byte[]> other : valid.entrySet()) {
                        if (!other.getKey().equals(file)) {
                            // A checkpoint that was skipped has been replaced.
                            Files.write(other.getKey(), other.getValue());
                        }
                    }
                    TinyRun.resume(run, backend);
                });
            }
        }

        private void pooling() throws IOException {
            Path model = Files.createDirectories(folder.resolve("sentences"));
            Path modules = Files.writeString(model.resolve("modules.json"), """
                    [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                     {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                     {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]
                    """);
            Path config = Files.writeString(
                    Files.createDirectories(model.resolve("1_Pooling")).resolve("config.json"), """
                    {"word_embedding_dimension": 16, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}
                    """);
            for (Path file : List.of(modules, config)) {
                kind("pooling's " + file.getFileName(), file, Format.JSON, () -> SentencePooling.read(model));
            }
        }

        private void texts() throws IOException {
            Path tokenizers = Files.createDirectories(folder.resolve("tokenizers"));
            Path words = Files.createDirectories(tokenizers.resolve("words"));
            Files.write(words.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
            Path bytes = Files.createDirectories(tokenizers.resolve("bytes"));
            TinyTokenizers.bytes(bytes).close();
            for (Path tokenizer : List.of(words, bytes)) {
                Opening opening = () -> {
                    try (Tokenizer t = Tokenizer.load(tokenizer)) {
                        t.encode("Buy cheap shoes, running \u00e9\u4e2d\ud83d\ude00 online", 24);
                        t.encodePair("red", "query: shoes", 24, 8);
                        t.decode(t.encode("red shoes", 8).ids());
                    }
                };
                String name = tokenizer.getFileName().toString();
                kind("tokenizer.json of " + name, tokenizer.resolve("tokenizer.json"), Format.JSON, opening);
                if (tokenizer.equals(bytes)) {
                    kind("tokenizer_config.json", tokenizer.resolve("tokenizer_config.json"), Format.JSON, opening);
                    Path special = Files.writeString(
                            tokenizer.resolve("special_tokens_map.json"),
                            "{\"eos_token\": {\"content\": \"<|endoftext|>\"}, \"additional_special_tokens\": []}");
                    kind("special_tokens_map.json", special, Format.JSON, opening);
                    Path generation = Files.writeString(
                            tokenizer.resolve("generation_config.json"), "{\"eos_token_id\": [1, 2], \"top_k\": 5}");
                    kind("generation_config.json", generation, Format.JSON, opening);
                }
            }
            pooling();
            Map<Task, String> rows = Map.of(
                    new ClassifyTask(),
                    "{\"text\": \"red shoes\", \"label\": \"sport\"}\n{\"text\": \"buy\", \"label\": \"purchase\"}\n",
                    new GenerateTask(),
                    "{\"source\": \"red\", \"target\": \"shoes\"}\n{\"instruction\": \"buy\", \"input\": \"\", \"output\": \"red\"}\n",
                    new LmTask(),
                    "{\"text\": \"red shoes\"}\n\n{\"text\": \"\u00e9 online\"}\n");
            Tokenizer tokenizer = Tokenizer.load(bytes);
            for (Map.Entry<Task, String> row : rows.entrySet()) {
                Path file = Files.writeString(folder.resolve(row.getKey() + ".jsonl"), row.getValue());
                kind(
                        "rows to " + row.getKey(),
                        file,
                        Format.JSON_LINES,
                        () -> Examples.read(file, row.getKey(), tokenizer, Examples.Options.of(24), null));
            }
            String table = "text,label\n\"red, \"\"shoes\"\"\",sport\nbuy,purchase\n";
            String array =
                    "[{\"text\": \"red shoes\", \"label\": \"sport\"},\n {\"text\": \"buy\", \"label\": \"purchase\"}]";
            for (Map.Entry<String, String> rowsOf : Map.of(
                            "rows.csv", table, "rows.tsv", table.replace(',', '\t'), "rows.json", array)
                    .entrySet()) {
                Path file = Files.writeString(folder.resolve(rowsOf.getKey()), rowsOf.getValue());
                kind(
                        rowsOf.getKey(),
                        file,
                        rowsOf.getKey().endsWith("json") ? Format.JSON : Format.BYTES,
                        () -> Examples.read(file, new ClassifyTask(), tokenizer, Examples.Options.of(24), null));
            }
            Path packed = folder.resolve("rows.csv.gz");
            try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(packed))) {
                out.write(table.getBytes(StandardCharsets.UTF_8));
            }
            kind(
                    "rows.csv.gz",
                    packed,
                    Format.BYTES,
                    () -> Examples.read(packed, new ClassifyTask(), tokenizer, Examples.Options.of(24), null));
        }

        private void commands() throws IOException {
            Path config = Files.writeString(
                    folder.resolve("options.json"),
                    "{\"task\": \"classify\", \"rank\": 4, \"lr\": 0.001, \"json\": true}");
            command(
                    "--config",
                    config,
                    "train",
                    "--model",
                    folder.resolve("none"),
                    "--train",
                    "none",
                    "--config",
                    config);
            Path space = Files.writeString(
                    folder.resolve("space.json"), "{\"lr\": \"1e-5..1e-3\", \"rank\": [4, 8], \"method\": [\"lora\"]}");
            command(
                    "--space",
                    space,
                    "sweep",
                    "--model",
                    "none",
                    "--task",
                    "lm",
                    "--train",
                    "none",
                    "--eval",
                    "none",
                    "--random",
                    "3",
                    "--out",
                    folder.resolve("sweep"),
                    "--space",
                    space);
            Path run = Files.createDirectories(folder.resolve("run"));
            Path options = Files.writeString(
                    run.resolve("run.json"),
                    "{\"model\": \"none\", \"task\": \"classify\", \"train\": \"none\", \"rank\": 4, \"pooling\": null}");
            command("run.json", options, "train", "--resume", run);
            for (String shown : List.of("llama", "adapter-lora")) {
                for (String file : List.of("config.json", "model.safetensors", "adapter_config.json")) {
                    Path path = folder.resolve(shown).resolve(file);
                    if (Files.exists(path)) {
                        command("inspect " + file, path, "inspect", folder.resolve(shown));
                    }
                }
            }
        }

        /// A command that can only fail, or only prints what is there.
        private void command(String name, Path file, Object... arguments) throws IOException {
            String[] words = new String[arguments.length];
            for (int i = 0; i < words.length; i++) {
                words[i] = arguments[i].toString();
            }
            Format format = file.toString().endsWith(".json") ? Format.JSON : Format.SAFE_TENSORS;
            Opening opening = () -> {
                ByteArrayOutputStream err = new ByteArrayOutputStream();
                PrintStream problems = new PrintStream(err, true, StandardCharsets.UTF_8);
                int code = Main.run(
                        words, new PrintStream(new ByteArrayOutputStream(), false, StandardCharsets.UTF_8), problems);
                // A sweep reports the error of each of its runs.
                String said = err.toString(StandardCharsets.UTF_8).strip();
                said = said.startsWith("loran:") ? said : said.substring(said.lastIndexOf('\n') + 1);
                if (code == 2) {
                    throw new InputException(said);
                }
                if (code != 0) {
                    throw new IllegalStateException("exit code " + code + ": " + said);
                }
            };
            try {
                opening.open();
            } catch (InputException e) {
                assertThat(e.getMessage()).as(name).contains("none");
            }
            kinds.add(new Kind(name, file, Files.readAllBytes(file), format, true, opening));
        }
    }
}
