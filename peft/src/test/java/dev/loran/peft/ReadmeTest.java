package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Tiny;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The library example in the README compiles as written and does what the README says; the tests that `docs/seeds.md`
/// names exist.
class ReadmeTest {
    @TempDir
    Path folder;

    private static String example() throws Exception {
        Matcher block = Pattern.compile("(?s)```java\n(.*?)```")
                .matcher(Files.readString(Compiled.root().resolve("README.md")));
        assertThat(block.find()).isTrue();
        return block.group(1);
    }

    /// `ClassTest#method`, or `#method` of the class named before it.
    @Test
    void theTestsThatDocsSeedsNamesExist() throws Exception {
        Map<String, String> tests = new HashMap<>();
        for (String module : List.of("engine", "peft")) {
            try (Stream<Path> files = Files.walk(Compiled.root().resolve(module).resolve("src/test/java"))) {
                for (Path file :
                        files.filter(f -> f.toString().endsWith("Test.java")).toList()) {
                    tests.put(file.getFileName().toString().replace(".java", ""), Files.readString(file));
                }
            }
        }
        Matcher name = Pattern.compile("`(?:\\w+/)*([A-Z]\\w+Test)?(?:#(\\w+))?`")
                .matcher(Files.readString(Compiled.root().resolve("docs/seeds.md")));
        String test = "";
        int found = 0;
        while (name.find()) {
            test = name.group(1) == null ? test : name.group(1);
            assertThat(tests).containsKey(test);
            if (name.group(2) != null) {
                assertThat(tests.get(test)).as(test).contains(" " + name.group(2) + "(");
            }
            found++;
        }
        assertThat(found).isGreaterThan(60);
    }

    @Test
    void theExampleTrainsAndSaves() throws Exception {
        String source = example();
        assertThat(source.substring(source.indexOf("public class")).lines().count())
                .isLessThanOrEqualTo(22);
        Path file = Files.writeString(folder.resolve("Example.java"), source);
        Compiled program = Compiled.of(folder.resolve("classes"), List.of(file));
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.encoder(backend, DType.F32)) {
            // The example allows 128 tokens per text; these texts have far fewer.
            Tiny.save(model, folder.resolve("model"));
        }
        Path rows = Tiny.write(folder.resolve("rows.jsonl"), Tiny.rows(32, 1));
        assertThat(program.run("Example", folder.resolve("model"), rows, folder.resolve("out")))
                .startsWith("Evaluation[rows=32, loss=");
        assertThat(folder.resolve("out")).isDirectoryContaining("glob:**adapter_config.json");
        assertThat(folder.resolve("out")).isDirectoryContaining("glob:**adapter_model.safetensors");
        assertThat(folder.resolve("out")).isDirectoryContaining("glob:**head.safetensors");
    }
}
