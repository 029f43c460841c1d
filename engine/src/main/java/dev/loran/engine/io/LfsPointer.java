package dev.loran.engine.io;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Optional;

/// Recognizes the short text that Git LFS leaves in place of a large file; a repository cloned without LFS is full of
/// such pointers.
public final class LfsPointer {
    /// Every pointer file begins with the key `version`; the rest of that line names its specification.
    private static final byte[] START = "version https://git-lfs.".getBytes(StandardCharsets.US_ASCII);

    private LfsPointer() {}

    /// Describes the problem in one line if `file` is an LFS pointer; empty for any other file, and for one that cannot
    /// be read.
    public static Optional<String> problem(Path file) {
        if (!Files.isRegularFile(file)) {
            return Optional.empty();
        }
        try (InputStream in = Files.newInputStream(file)) {
            return Arrays.equals(in.readNBytes(START.length), START)
                    ? Optional.of(
                            file + ": is a Git LFS pointer, not the file itself; run git lfs pull where it came from")
                    : Optional.empty();
        } catch (IOException e) {
            return Optional.empty();
        }
    }
}
