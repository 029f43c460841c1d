package dev.loran.peft.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Stream;

/// The files of a run: every file in its folder, including hidden ones, by name, as a hash of what must be the same in
/// two equal runs: everything except the times in the text files.
public final class RunFiles {
    private static final Set<String> TIMED = Set.of("metrics.jsonl", "result.json", "state.json");

    private RunFiles() {}

    public static Map<String, String> of(Path run) throws IOException {
        Map<String, String> files = new TreeMap<>();
        try (Stream<Path> all = Files.walk(run)) {
            for (Path file : all.filter(f -> !f.equals(run)).toList()) {
                files.put(run.relativize(file).toString(), Files.isDirectory(file) ? "folder" : content(run, file));
            }
        }
        return files;
    }

    private static String content(Path run, Path file) throws IOException {
        byte[] bytes = Files.readAllBytes(file);
        if (file.endsWith("SHA256SUMS") && file.toString().contains("/checkpoints/")) {
            // Checksums of a text file that contains times.
            bytes = new byte[0];
        } else if (TIMED.contains(file.getFileName().toString())) {
            bytes = Files.readString(file)
                    .replaceAll("\"(nanos|\\w*seconds?|\\w+_per_second|peak_\\w+)\"\\s*:\\s*[^,}\\s]+", "")
                    .replace(run.toString(), "")
                    .getBytes(java.nio.charset.StandardCharsets.UTF_8);
        }
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    /// The names of the files that only one of them has, or that differ.
    public static Set<String> difference(Map<String, String> a, Map<String, String> b) {
        Set<String> names = new TreeSet<>(a.keySet());
        names.addAll(b.keySet());
        names.removeIf(name -> Objects.equals(a.get(name), b.get(name)));
        return names;
    }
}
