package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

/// Rows in files, one file after the other.
///
/// @param files at least one
/// @param options how they are read
public record RowFiles(List<Path> files, RowFormat.Options options) implements RowSource {
    public RowFiles {
        files = List.copyOf(files);
    }

    /// What the files in a folder are for, by the first word of their names.
    public enum Part {
        TRAIN("train"),
        VALIDATION("validation|valid|val|dev|eval"),
        TEST("test");

        private final String words;

        /// @param words a regular expression
        Part(String words) {
            this.words = words;
        }

        private boolean has(String file) {
            return file.matches("(?i)(" + words + ")([-_.].*)?\\.(jsonl|json|csv|tsv|txt)(\\.gz)?");
        }
    }

    /// The files in `folder` that are for `part`, such as `train.jsonl` or `train-00000-of-00002.csv.gz`, in order of
    /// their names; empty if there are none.
    public static List<Path> in(Path folder, Part part) {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(file -> part.has(file.getFileName().toString()) && Files.isRegularFile(file))
                    .sorted()
                    .toList();
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    @Override
    public String name() {
        String first = files.getFirst().toString();
        return files.size() == 1 ? first : first + " and " + (files.size() - 1) + " more";
    }

    @Override
    public void forEach(RowForm form, Visitor visitor) {
        for (Path file : files) {
            visitor.file(file.toString());
            Rows.forEach(file, options, form, visitor);
        }
    }
}
