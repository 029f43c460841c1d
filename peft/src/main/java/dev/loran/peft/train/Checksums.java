package dev.loran.peft.train;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;

/// `SHA256SUMS`: the checksums of a folder's files as they were written, in the format of `sha256sum -c`.
final class Checksums {
    static final String FILE = "SHA256SUMS";
    private static final String GAP = "  ";

    private Checksums() {}

    /// Writes the checksums of all files in `folder`.
    ///
    /// @throws InputException if they cannot be written
    static void write(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            StringBuilder sums = new StringBuilder();
            for (Path file : files.filter(Files::isRegularFile).sorted().toList()) {
                sums.append(sha256(file)).append(GAP).append(file.getFileName()).append('\n');
            }
            Files.writeString(folder.resolve(FILE), sums);
        } catch (IOException e) {
            throw InputException.io(folder.resolve(FILE), "cannot be written", e);
        }
    }

    /// @throws IOException if a file is missing or has changed; the message says which
    static void check(Path folder) throws IOException {
        List<String> lines = Files.readAllLines(folder.resolve(FILE));
        if (lines.isEmpty()) {
            throw new IOException(FILE + " names no file");
        }
        for (String line : lines) {
            String[] parts = line.split(GAP, 2);
            if (parts.length < 2 || parts[1].contains("/") || parts[1].contains("\\")) {
                throw new IOException(FILE + " holds a line that is none: " + line);
            }
            if (!sha256(folder.resolve(parts[1])).equals(parts[0])) {
                throw new IOException(parts[1] + " is not what was written: its SHA-256 is not that of " + FILE);
            }
        }
    }

    private static String sha256(Path file) throws IOException {
        try (InputStream in = Files.newInputStream(file);
                DigestInputStream bytes = new DigestInputStream(in, MessageDigest.getInstance("SHA-256"))) {
            byte[] chunk = new byte[1 << 16];
            while (bytes.read(chunk) >= 0) {
                // Reading updates the digest; the bytes are not needed.
            }
            return HexFormat.of().formatHex(bytes.getMessageDigest().digest());
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java has SHA-256", e);
        }
    }
}
