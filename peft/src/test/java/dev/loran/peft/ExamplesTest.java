package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Every program in `examples/` compiles without a warning and does what it says, on tiny models.
class ExamplesTest {
    @TempDir
    static Path folder;

    private static Compiled examples;
    private static Path model;
    private static Path rows;

    @BeforeAll
    static void compile() throws IOException {
        try (Stream<Path> files = Files.list(Compiled.root().resolve("examples"))) {
            List<Path> sources =
                    files.filter(f -> f.toString().endsWith(".java")).toList();
            assertThat(sources).hasSizeGreaterThanOrEqualTo(6);
            examples = Compiled.of(folder.resolve("classes"), sources);
        }
        model = folder.resolve("model");
        try (ReferenceBackend backend = new ReferenceBackend();
                Model tiny = Tiny.encoder(backend, DType.F32)) {
            Tiny.save(tiny, model);
        }
        rows = Tiny.write(folder.resolve("rows.jsonl"), Tiny.rows(320, 1));
    }

    @Test
    void fineTune() throws Exception {
        Path out = folder.resolve("fine-tuned");
        assertThat(examples.run("FineTune", model, rows, out, "cheap running").lines())
                .satisfiesExactly(
                        line -> assertThat(line).matches("\\d+ of \\d+ parameters train"),
                        line -> assertThat(line).startsWith("step 50 of 54: loss "),
                        line -> assertThat(line).startsWith("Evaluation[rows=32, loss="),
                        line -> assertThat(line).matches("cheap running: (sport|purchase) \\(\\d\\.\\d+\\)"));
        assertThat(out).isDirectoryContaining("glob:**adapter_model.safetensors");
    }

    @Test
    void titles() throws Exception {
        Path pages = Files.writeString(
                folder.resolve("pages.jsonl"),
                "{\"source\": \"How to tie running shoes\", \"target\": \"Tie shoes\"}\n".repeat(24));
        Path out = folder.resolve("titles");
        assertThat(examples.run("Titles", folder.resolve("small-llama"), pages, out, "How to buy shoes"))
                .startsWith("loss ")
                .contains("\ntitle: ");
        assertThat(folder.resolve("small-llama")).isDirectoryContaining("glob:**model.safetensors");
        assertThat(out).isDirectoryContaining("glob:**adapter_model.safetensors");
    }

    @Test
    void manyAdapters() throws Exception {
        Path a = adapter("many-a");
        Path b = adapter("many-b");
        assertThat(examples.run("ManyAdapters", model, "cheap running", a, b).lines())
                .satisfiesExactly(
                        line -> assertThat(line).startsWith(a + ": "),
                        line -> assertThat(line).startsWith(b + ": "),
                        line -> assertThat(line).isEqualTo("32 answers"));
    }

    @Test
    void ownLoop() throws Exception {
        Path few = Tiny.write(folder.resolve("few.jsonl"), Tiny.rows(48, 1));
        assertThat(examples.run("OwnLoop", model, few, 30).lines())
                .satisfiesExactly(
                        line -> assertThat(line).startsWith("step 10: loss "),
                        line -> assertThat(line).startsWith("step 20: loss "),
                        line -> assertThat(line).startsWith("step 30: loss "),
                        line -> assertThat(line).startsWith("Evaluation[rows=48, loss="),
                        line -> assertThat(line).startsWith("ranks {"));
    }

    @Test
    void exchange() throws Exception {
        Path copy = folder.resolve("copy");
        Path merged = folder.resolve("merged");
        assertThat(examples.run("Exchange", model, adapter("to-exchange"), copy, merged))
                .isEqualTo("method LORA%n4 weights changed%n".formatted());
        assertThat(copy).isDirectoryContaining("glob:**adapter_config.json");
        assertThat(merged).isDirectoryContaining("glob:**model.safetensors");
    }

    /// The task of the example learns which word is worth five stars; the best constant is off by 1.75.
    @Test
    void ownTask() throws Exception {
        Path reviews = folder.resolve("reviews.jsonl");
        Files.write(
                reviews,
                IntStream.range(0, 64)
                        .mapToObj(i -> "{\"text\": \"red %s\", \"stars\": %s}"
                                .formatted(i % 2 == 0 ? "shoes" : "running", i % 2 == 0 ? 5 : 1.5))
                        .toList());
        try (URLClassLoader loader =
                new URLClassLoader(new URL[] {examples.folder().toUri().toURL()})) {
            Task rating =
                    (Task) loader.loadClass("com.acme.Rating").getConstructor().newInstance();
            assertThat(train(rating, reviews, folder.resolve("rating"), 20).metric("rmse"))
                    .isLessThan(1.2);
        }
    }

    private static Path adapter(String name) {
        Path out = folder.resolve(name);
        train(new ClassifyTask(), rows, out, 1);
        return out;
    }

    private static Evaluation train(Task task, Path file, Path out, int epochs) {
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = TinyTokenizers.wordPiece();
                Model base = HfModels.load(model, backend);
                PeftModel peft = new PeftModel(base, 7)) {
            Examples train =
                    Examples.read(RowSource.file(file), task, tokenizer, Examples.Options.of(Tiny.POSITIONS), null);
            peft.addAdapter("default", LoraConfig.defaults().withRank(4, 8));
            TaskCard card = TaskCard.of(task, train.labelsOrNull(), Tiny.POSITIONS);
            TrainerConfig config = TrainerConfig.defaults().withEpochs(epochs).withRate(TrainerConfig.Rate.of(1e-2));
            try (TaskModel learner = TaskModel.of(peft, card, 7);
                    Trainer trainer = new Trainer(learner, config)) {
                trainer.train(train, null, null, new TrainingListener() {});
                learner.save(out);
                return Evaluation.of(learner, train, 16);
            }
        }
    }
}
