package dev.loran.peft;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import java.io.IOException;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.function.UnaryOperator;

/// The model folders among the test resources, and modified copies of them.
public final class Fixtures {
    private Fixtures() {}

    /// `fixtures/NAME` of the test resources.
    public static Path root(String name) {
        URL url = Objects.requireNonNull(Fixtures.class.getResource("/fixtures/" + name));
        try {
            return Path.of(url.toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    /// The small model of a family, as saved by transformers.
    public static Path base(String family) {
        return root("hf").resolve(family).resolve("base");
    }

    /// A copy of [#base] with another config.
    public static Path changed(Path temp, String family, Consumer<ObjectNode> change) throws IOException {
        Path folder = Files.createTempDirectory(temp, family);
        Files.copy(base(family).resolve("model.safetensors"), folder.resolve("model.safetensors"));
        ObjectMapper mapper = new ObjectMapper();
        ObjectNode config =
                (ObjectNode) mapper.readTree(Files.readString(base(family).resolve("config.json")));
        change.accept(config);
        Files.writeString(folder.resolve("config.json"), config.toPrettyString());
        return folder;
    }

    /// A copy of [#base] with other tensors: `change` gets them by name in F32 and may rename, add and remove tensors.
    public static Path retold(Path temp, String family, UnaryOperator<Map<String, Tensor>> change) throws IOException {
        Path folder = changed(temp, family, c -> {});
        write(folder.resolve("model.safetensors"), base(family), change);
        return folder;
    }

    /// Writes the tensors of `folder`, after `change`, to `file`.
    public static void write(Path file, Path folder, UnaryOperator<Map<String, Tensor>> change) {
        ReferenceBackend backend = new ReferenceBackend();
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        try (SafeTensors files = SafeTensors.openModel(folder)) {
            files.names().forEach(name -> tensors.put(name, files.copy(backend, name, DType.F32)));
        }
        SafeTensors.write(file, change.apply(tensors));
    }

    /// The BERT of the fixtures as a bare encoder: names without `bert.`, and no head.
    public static Path encoder(Path temp) throws IOException {
        Path folder = retold(temp, "bert", tensors -> {
            Map<String, Tensor> encoder = new LinkedHashMap<>();
            tensors.forEach((name, tensor) -> {
                if (name.startsWith("bert.")) {
                    encoder.put(name.substring(5), tensor);
                }
            });
            return encoder;
        });
        ObjectMapper mapper = new ObjectMapper();
        ObjectNode config = (ObjectNode) mapper.readTree(Files.readString(folder.resolve("config.json")));
        config.putArray("architectures").add("BertModel");
        Files.writeString(folder.resolve("config.json"), config.toPrettyString());
        return folder;
    }
}
