package dev.loran.peft.data;

import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.util.HexFormat;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// `loran-tiny`: the small causal language model that comes with Loran, in its jar. It was made by Loran itself, from
/// random weights, on texts whose licenses permit that; its model card, `README.md`, says how, and what it is not good
/// for.
///
/// The jar holds the files of a Hugging Face model folder and `SHA256SUMS`, which lists them. They are copied to the
/// cache once, because weights are used in place in their file.
final class ShippedModel {
    static final String NAME = "loran-tiny";

    static final String WEIGHTS = "model.safetensors";

    private static final String RESOURCES = "dev/loran/peft/data/" + NAME + "/";

    private ShippedModel() {}

    /// The model folder in `cache`, whose name contains the beginning of the weights' checksum.
    ///
    /// @throws InputException if this build of Loran lacks the model, or its files are damaged
    static Path folder(Path cache, ClassLoader classPath) {
        try {
            Map<String, String> sums = sums(classPath);
            if (sums == null) {
                throw new InputException(NAME + ": this build of Loran does not contain it; make it with "
                        + "benchmarks/loran-tiny.sh, and build again");
            }
            String weights = sums.getOrDefault(WEIGHTS, "");
            Path folder = cache.resolve(NAME + "-" + weights.substring(0, Math.min(12, weights.length())));
            if (!Catalogue.isComplete(folder)) {
                Catalogue.make(NAME, cache, folder, draft -> copy(sums, classPath, draft));
            }
            return folder;
        } catch (IOException | UncheckedIOException e) {
            throw new InputException(NAME + ": cannot be unpacked to " + cache + " (" + e.getMessage() + ")", e);
        }
    }

    /// Checksums by file name; null if the model is not there.
    private static @Nullable Map<String, String> sums(ClassLoader classPath) throws IOException {
        try (InputStream in = classPath.getResourceAsStream(RESOURCES + Checksums.FILE)) {
            if (in == null) {
                return null;
            }
            return Checksums.parse(new String(in.readAllBytes(), StandardCharsets.UTF_8));
        }
    }

    private static void copy(Map<String, String> sums, ClassLoader classPath, Path draft) throws IOException {
        for (Map.Entry<String, String> file : sums.entrySet()) {
            try (InputStream in = classPath.getResourceAsStream(RESOURCES + file.getKey())) {
                if (in == null) {
                    throw new InputException(NAME + ": the jar of Loran lacks " + file.getKey());
                }
                DigestInputStream bytes = new DigestInputStream(in, Checksums.sha256());
                Files.copy(bytes, draft.resolve(file.getKey()));
                String actual =
                        HexFormat.of().formatHex(bytes.getMessageDigest().digest());
                if (!actual.equals(file.getValue())) {
                    throw new InputException("%s: %s in the jar of Loran has SHA-256 %s, expected %s"
                            .formatted(NAME, file.getKey(), actual, file.getValue()));
                }
            }
        }
    }
}
