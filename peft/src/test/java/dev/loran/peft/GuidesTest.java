package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.peft.cli.Main;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.task.ChatTask;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.PreferTask;
import dev.loran.peft.task.RegressTask;
import dev.loran.peft.task.RerankTask;
import dev.loran.peft.task.TagTask;
import dev.loran.peft.task.Task;
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
import dev.loran.peft.tuner.Targets;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// What the documents tell readers to type is accepted: commands by the command line, Java by the compiler; and what
/// they link to exists.
class GuidesTest {
    /// What a block of Java in a guide may use without saying where it comes from.
    private static final String BLOCK = """
            import dev.loran.engine.*;
            import dev.loran.engine.backend.*;
            import dev.loran.engine.functional.Functional;
            import dev.loran.engine.optim.*;
            import dev.loran.engine.testing.OpCase;
            import dev.loran.kernels.Backends;
            import dev.loran.peft.chat.*;
            import dev.loran.peft.data.*;
            import dev.loran.peft.generation.*;
            import dev.loran.peft.hf.HfModels;
            import dev.loran.peft.model.*;
            import dev.loran.peft.task.*;
            import dev.loran.peft.train.*;
            import dev.loran.peft.tuner.*;
            import java.nio.file.Path;
            import java.util.*;
            import java.util.concurrent.*;

            public class NAME {
                public Backend backend;
                Model model;
                PeftModel peft;
                Tokenizer tokenizer;
                TaskModel classifier;
                Examples rows;
                Examples heldOut;
                Path folder;

                public void block() throws Exception {
                    BODY
                }
            }
            """;

    @TempDir
    Path folder;

    static List<Path> documents() throws IOException {
        Path root = Compiled.root();
        List<Path> documents = new ArrayList<>(List.of(
                root.resolve("README.md"), root.resolve("CONTRIBUTING.md"), root.resolve("examples/README.md")));
        try (Stream<Path> guides = Files.list(root.resolve("docs"))) {
            guides.filter(f -> f.toString().endsWith(".md")).sorted().forEach(documents::add);
        }
        return documents;
    }

    private static List<String> blocks(Path document, String language) throws IOException {
        return Pattern.compile("(?s)```" + language + "\n(.*?)```")
                .matcher(Files.readString(document))
                .results()
                .map(m -> m.group(1))
                .toList();
    }

    @Test
    void theBlocksOfJavaCompileAndTheOperationPassesItsChecks() throws Exception {
        List<Path> sources = new ArrayList<>();
        String operation = "";
        for (Path document : documents()) {
            for (String block : blocks(document, "java")) {
                if (!block.contains("public class")) { // a whole program: ReadmeTest
                    String name = "Block" + sources.size();
                    operation = block.contains("OpCase.of") ? name : operation;
                    sources.add(Files.writeString(
                            folder.resolve(name + ".java"),
                            BLOCK.replace("NAME", name).replace("BODY", block)));
                }
            }
        }
        assertThat(sources).hasSizeGreaterThan(20);
        Compiled blocks = Compiled.of(folder.resolve("classes"), sources);
        try (Backend backend = Backends.best();
                URLClassLoader loader =
                        new URLClassLoader(new URL[] {blocks.folder().toUri().toURL()})) {
            Class<?> type = loader.loadClass(operation);
            Object block = type.getConstructor().newInstance();
            type.getField("backend").set(block, backend);
            type.getMethod("block").invoke(block);
        }
    }

    /// The words of the commands `./loran …` in a document, without those of `bench`, which is another program.
    static List<List<String>> commands() throws IOException {
        List<List<String>> commands = new ArrayList<>();
        for (Path document : documents()) {
            String all = String.join("\n", blocks(document, "sh")).replace("\\\n", " ");
            Stream<String> inText = Pattern.compile("`(\\./loran [a-z][^`…]*)`")
                    .matcher(Files.readString(document))
                    .results()
                    .map(m -> m.group(1));
            Stream.concat(all.lines(), inText)
                    .filter(line -> line.contains("./loran "))
                    .map(line -> line.substring(line.indexOf("./loran ") + "./loran ".length()))
                    .map(GuidesTest::words)
                    .filter(words -> !words.getFirst().equals("bench"))
                    .forEach(commands::add);
        }
        assertThat(commands).hasSizeGreaterThan(40);
        return commands.stream().distinct().toList();
    }

    /// A line as the shell splits it, without a comment at its end.
    private static List<String> words(String line) {
        return Pattern.compile("\"([^\"]*)\"|'([^']*)'|(#.*)|(\\S+)")
                .matcher(line)
                .results()
                .filter(m -> m.group(3) == null)
                .map(m -> m.group(1) != null ? m.group(1) : m.group(2) != null ? m.group(2) : m.group(4))
                .toList();
    }

    /// With `--help`, a command reads all its options and arguments, and stops there.
    @ParameterizedTest
    @MethodSource("commands")
    void theCommandLineAcceptsTheCommands(List<String> command) {
        List<String> words = new ArrayList<>(command);
        String help = run(words.getFirst(), "--help");
        if (List.of("sweep", "example").contains(words.getFirst())) {
            // They pass on the options of another command.
            String all = help + run("train", "--help") + run("compare", "--help");
            words.stream()
                    .filter(w -> w.startsWith("--"))
                    .forEach(option -> assertThat(all).contains(option.split("=", 2)[0]));
            return;
        }
        int resume = words.indexOf("--resume");
        if (resume > 0) { // whose folder is read before anything else
            assertThat(help).contains("--resume");
            words.subList(resume, resume + 2).clear();
        }
        words.add("--help");
        run(words.toArray(String[]::new));
    }

    @Test
    void theTasksReadTheRowsOfTheirGuide() throws IOException {
        List<String> rows = blocks(Compiled.root().resolve("docs/tasks.md"), "json");
        List<Task> tasks = List.of(
                new ClassifyTask(),
                new ClassifyTask(),
                new RegressTask(),
                new TagTask(),
                new EmbedTask(),
                new RerankTask(),
                new GenerateTask(),
                new ChatTask(),
                new PreferTask(),
                new PreferTask(),
                new PreferTask(PreferTask.Loss.KTO, 0.1, 0));
        assertThat(rows).hasSameSizeAs(tasks);
        for (int i = 0; i < rows.size(); i++) {
            byte[] file = rows.get(i).getBytes(StandardCharsets.UTF_8);
            assertThat(RowSource.stream(new ByteArrayInputStream(file), "docs/tasks.md")
                            .toList(tasks.get(i)))
                    .hasSize((int) rows.get(i).lines().count());
        }
    }

    /// The rates and epochs of the guide's table are those that the command line takes.
    @Test
    void theMethodsHaveTheDefaultsThatTheGuideSays() throws IOException {
        Map<String, List<String>> guide = rows(
                "(?m)^\\| `([a-z0-9-]+)` \\| ([\\d.e-]+) \\| (\\d+) \\|",
                Files.readString(Compiled.root().resolve("docs/methods.md")));
        Map<String, List<String>> help =
                rows("(?m)^ +([a-z0-9-]+) +--lr (\\S+) \\(.*\\) +--epochs (\\d+)", run("train", "--help"));
        assertThat(guide).isEqualTo(help).hasSize(11);
    }

    /// Learning rate and epochs by method.
    private static Map<String, List<String>> rows(String pattern, String text) {
        Map<String, List<String>> rows = new TreeMap<>();
        for (MatchResult m : Pattern.compile(pattern).matcher(text).results().toList()) {
            rows.put(m.group(1), List.of(Double.toString(Double.parseDouble(m.group(2))), m.group(3)));
        }
        return rows;
    }

    private static String run(String... words) {
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream out = new PrintStream(printed, true, StandardCharsets.UTF_8);
        assertThat(Main.run(words, out, out))
                .as("%s: %s", Arrays.asList(words), printed.toString(StandardCharsets.UTF_8))
                .isZero();
        return printed.toString(StandardCharsets.UTF_8);
    }

    @ParameterizedTest
    @MethodSource("documents")
    void theLinksLeadSomewhere(Path document) throws IOException {
        for (MatchResult link : Pattern.compile("\\]\\(([^)#:]+)(#[^)]*)?\\)")
                .matcher(Files.readString(document))
                .results()
                .toList()) {
            assertThat(Objects.requireNonNull(document.getParent()).resolve(link.group(1)))
                    .as("%s links to %s", document, link.group(1))
                    .exists();
        }
    }

    /// The formulas of `docs/methods.md`, on a BERT of width 12 with 3 blocks.
    @Test
    void theMethodsHaveAsManyParametersAsTheGuideSays() {
        int c = 12;
        int blocks = 3;
        int inner = 4 * c;
        int p = 5;
        Map<PeftConfig, Integer> expected = new LinkedHashMap<>();
        LoraConfig lora = LoraConfig.defaults().withRank(4, 8).withTargets(Targets.of("query", "value"));
        expected.put(lora, 2 * blocks * 4 * (c + c));
        expected.put(lora.withDora(true), 2 * blocks * (4 * (c + c) + c));
        expected.put(AdaLoraConfig.defaults().withRanks(6, 3).withLora(lora), 2 * blocks * 6 * (c + c + 1));
        expected.put(PromptEncoderConfig.of(p), p * c + c * c + c + c * c + c + c * c + c);
        expected.put(PromptTuningConfig.of(p), p * c);
        expected.put(PrefixTuningConfig.of(p), p * 2 * blocks * c);
        expected.put(BottleneckConfig.houlsby().withSize(3), 2 * blocks * (2 * c * 3 + 3 + c));
        expected.put(BottleneckConfig.pfeiffer().withSize(3), blocks * (2 * c * 3 + 3 + c));
        // Keys and values; and, of BERT, the outputs of attention and of the feed-forward network, by their inputs.
        expected.put(Ia3Config.defaults(), blocks * (c + c + c + inner));
        // Two norms in each block and one over the embeddings, each with a bias.
        expected.put(LnTuningConfig.defaults(), (2 * blocks + 1) * 2 * c);
        // q, k, v, o, two of the feed-forward network; the norms.
        expected.put(BitFitConfig.defaults(), blocks * (4 * c + inner + c) + (2 * blocks + 1) * c);
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = BertModel.random(BertModel.Config.of(30, c, blocks, 2, 16, 0), backend, DType.F32, 1)) {
            expected.forEach((config, parameters) -> {
                try (PeftModel peft = new PeftModel(model, 1)) {
                    peft.addAdapter("default", config);
                    assertThat(peft.parameterCount().trainableParameters())
                            .as(config.peftType())
                            .isEqualTo((long) parameters);
                }
            });
        }
    }
}
