package dev.loran.peft.io;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// `SHA256SUMS`: the checksums of a folder's files as they were written, in the format of `sha256sum -c`.
public final class Checksums {
    public static final String FILE = "SHA256SUMS";
    private static final String GAP = "  ";

    private Checksums() {}

    /// Writes the checksums of all files in `folder`.
    ///
    /// @throws InputException if they cannot be written
    public static void write(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            StringBuilder sums = new StringBuilder();
            for (Path file : files.filter(Files::isRegularFile).sorted().toList()) {
                sums.append(sha256(List.of(file)))
                        .append(GAP)
                        .append(file.getFileName())
                        .append('\n');
            }
            Files.writeString(folder.resolve(FILE), sums);
        } catch (IOException e) {
            throw InputException.io(folder.resolve(FILE), "cannot be written", e);
        }
    }

    /// @throws IOException if a file is missing or has changed; the message says which
    public static void check(Path folder) throws IOException {
        Map<String, String> sums = parse(Files.readString(folder.resolve(FILE)));
        if (sums.isEmpty()) {
            throw new IOException(FILE + " names no file");
        }
        for (Map.Entry<String, String> sum : sums.entrySet()) {
            if (!sha256(List.of(folder.resolve(sum.getKey()))).equals(sum.getValue())) {
                throw new IOException(sum.getKey() + " is not what was written: its SHA-256 is not that of " + FILE);
            }
        }
    }

    /// The checksums by file name, in the order of the lines of a [#FILE].
    ///
    /// @throws IOException if a line is not a checksum and the name of a file in the same folder
    public static Map<String, String> parse(String text) throws IOException {
        Map<String, String> sums = new LinkedHashMap<>();
        for (String line : text.lines().toList()) {
            String[] parts = line.split(GAP, 2);
            boolean isName = parts.length == 2 && !parts[1].contains("/") && !parts[1].contains("\\");
            if (!isName || sums.containsKey(parts[1])) {
                throw new IOException(FILE + " holds a line that is none: " + line);
            }
            sums.put(parts[1], parts[0]);
        }
        return sums;
    }

    /// A new SHA-256 digest.
    public static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java platform has SHA-256", e);
        }
    }

    /// The SHA-256 of a model folder's weights: of `model.safetensors`, or of the files `model-*.safetensors`
    /// concatenated in name order. Null if it holds no such files.
    ///
    /// @throws InputException if they cannot be read
    public static @Nullable String ofWeights(Path folder) {
        try {
            List<Path> files = weightFiles(folder);
            return files.isEmpty() ? null : sha256(files);
        } catch (IOException e) {
            throw InputException.io(folder, "its weights cannot be read", e);
        }
    }

    private static List<Path> weightFiles(Path folder) throws IOException {
        Path single = folder.resolve("model.safetensors");
        if (Files.exists(single)) {
            return List.of(single);
        }
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(f -> f.getFileName().toString().matches("model-.*\\.safetensors"))
                    .sorted()
                    .toList();
        }
    }

    /// The SHA-256 of the files' contents, one after the other.
    private static String sha256(List<Path> files) throws IOException {
        MessageDigest sha256 = sha256();
        for (Path file : files) {
            try (InputStream in = new DigestInputStream(Files.newInputStream(file), sha256)) {
                in.transferTo(OutputStream.nullOutputStream());
            }
        }
        return HexFormat.of().formatHex(sha256.digest());
    }
}
