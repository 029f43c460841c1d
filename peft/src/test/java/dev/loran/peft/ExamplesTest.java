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
import dev.loran.peft.hf.HfModels;
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
import java.io.UncheckedIOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Every program in `examples/` compiles without a warning and does what it says, on tiny models.
class ExamplesTest {
    private static final Path FINE_TUNE = Compiled.root().resolve("examples/FineTune.java");

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

    /// As `java FineTune.java` runs it, with the options that its header gives JBang.
    @Test
    void fineTune() throws Exception {
        Path out = folder.resolve("fine-tuned");
        Path printed = folder.resolve("fine-tuned.txt");
        List<String> command = new ArrayList<>(List.of(System.getProperty("java.home") + "/bin/java"));
        command.addAll(header("RUNTIME_OPTIONS"));
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), FINE_TUNE.toString()));
        command.addAll(List.of(model.toString(), rows.toString(), out.toString(), "cheap running"));
        Process process = new ProcessBuilder(command)
                .redirectOutput(printed.toFile())
                .redirectError(folder.resolve("errors.txt").toFile())
                .start();
        assertThat(process.waitFor())
                .as(() -> read(folder.resolve("errors.txt")))
                .isZero();
        assertThat(read(printed).lines())
                .satisfiesExactly(
                        line -> assertThat(line).matches("\\d+ of \\d+ parameters train"),
                        line -> assertThat(line).startsWith("step 50 of 54: loss "),
                        line -> assertThat(line).startsWith("Evaluation[rows=32, loss="),
                        line -> assertThat(line).matches("cheap running: (sport|purchase) \\(\\d\\.\\d+\\)"));
        assertThat(out).isDirectoryContaining("glob:**adapter_model.safetensors");
    }

    /// JBang is told the same as Maven.
    @Test
    void theHeaderForJBangIsThatOfThePom() {
        String pom = read(Compiled.root().resolve("pom.xml"));
        assertThat(read(FINE_TUNE)).startsWith("///usr/bin/env jbang ");
        assertThat(pom).contains("<maven.compiler.release>" + header("JAVA").getFirst() + "<");
        assertThat(pom)
                .contains("<slf4j.version>"
                        + header("DEPS org.slf4j:slf4j-simple:").getFirst() + "<");
        // Its version: PublishingTest.
        assertThat(header("DEPS dev.loran:loran-peft:")).hasSize(1);
        String flags = pom.substring(pom.indexOf("<loran.jvmFlags>"), pom.indexOf("</loran.jvmFlags>"));
        assertThat(header("RUNTIME_OPTIONS"))
                .hasSize(3)
                .allSatisfy(flag -> assertThat(flags).contains(flag));
    }

    /// The words behind `//` and `name` in the header of the example.
    private static List<String> header(String name) {
        return read(FINE_TUNE)
                .lines()
                .filter(line -> line.startsWith("//" + name))
                .flatMap(line ->
                        Stream.of(line.substring(2 + name.length()).strip().split(" ")))
                .toList();
    }

    private static String read(Path file) {
        try {
            return Files.readString(file);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
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
