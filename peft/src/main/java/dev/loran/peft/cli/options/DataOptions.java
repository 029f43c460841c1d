package dev.loran.peft.cli.options;

import dev.loran.peft.data.RowFiles;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.RowFormat;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// How rows are read. What an option names may be a file, several with commas between, a folder with files named after
/// what they are for, or `-` for standard input.
public class DataOptions {
    /// Standard input.
    public static final Path STANDARD_INPUT = Path.of("-");

    /// What [#files] accepts, for the text of options.
    public static final String FILES = "a file, several with commas between, a folder, or - for standard input";

    @Option(
            names = "--format",
            paramLabel = "F",
            description = "how rows are written: jsonl, json, csv, tsv or txt, each plain or .gz (detected)")
    private @Nullable String format;

    @Option(
            names = "--columns",
            paramLabel = "MAP",
            description = "the names that fields have in the rows: text=body,label=category (their own)")
    private @Nullable String columns;

    public RowFormat.Options options() {
        Map<String, String> map = new LinkedHashMap<>();
        for (String pair : columns == null ? List.<String>of() : CommonOptions.names("--columns", columns)) {
            String[] names = pair.split("\\s*=\\s*", 2);
            if (names.length < 2 || names[0].isEmpty() || names[1].isEmpty()) {
                throw new InputException("--columns: \"" + pair + "\" is not FIELD=COLUMN, such as text=body");
            }
            map.put(names[0], names[1]);
        }
        return new RowFormat.Options(format == null ? null : RowFormat.named(format), map);
    }

    /// The rows that an option names.
    ///
    /// @param part which files of a folder
    /// @param otherwise which files if the folder has none for `part`; may be the same
    public RowSource rows(Path given, Part part, Part otherwise) {
        if (given.equals(STANDARD_INPUT)) {
            return new Spooled(spool(), options());
        }
        return new RowFiles(files(given, part, otherwise), options());
    }

    /// The files that an option names.
    public static List<Path> files(Path given, Part part, Part otherwise) {
        if (Files.isDirectory(given)) {
            List<Path> files = RowFiles.in(given, part);
            if (files.isEmpty()) {
                files = RowFiles.in(given, otherwise);
            }
            if (files.isEmpty()) {
                throw new InputException(
                        given + ": a folder without a file named train, validation or test with the ending .jsonl,"
                                + " .json, .csv, .tsv or .txt, as it needs for this; name the file itself");
            }
            return files;
        }
        if (!Files.exists(given) && given.toString().contains(",")) {
            return CommonOptions.names("the list of files", given.toString()).stream()
                    .map(Path::of)
                    .toList();
        }
        return List.of(given);
    }

    /// The rows to train on and those held out.
    ///
    /// @param heldOut null if nothing is held out
    public record Split(RowSource train, @Nullable RowSource heldOut) {}

    /// As above, for a command that also holds out rows.
    public static final class Splitting extends DataOptions {
        @Option(
                names = "--split",
                paramLabel = "X",
                description = "without --eval: hold out this share of the rows, of each class alike, such as 0.1")
        public @Nullable Double share;

        /// @param eval rows to hold out; null for those of the folder `train`, or for a share of it
        public Split split(Path train, @Nullable Path eval, long seed) {
            RowSource rows = rows(train, Part.TRAIN, Part.TRAIN);
            if (share != null) {
                if (eval != null) {
                    throw new InputException("--eval names the rows to hold out; leave --split out");
                }
                return new Split(rows.besides(share, seed), rows.heldOut(share, seed));
            }
            if (eval != null) {
                return new Split(rows, rows(eval, Part.VALIDATION, Part.TEST));
            }
            List<Path> own = Files.isDirectory(train) ? RowFiles.in(train, Part.VALIDATION) : List.of();
            return new Split(rows, own.isEmpty() ? null : new RowFiles(own, options()));
        }
    }

    /// Copies standard input into a file, because rows may be read more than once.
    private static Path spool() {
        try {
            Path file = Files.createTempFile("loran-rows", null);
            file.toFile().deleteOnExit();
            Files.copy(System.in, file, StandardCopyOption.REPLACE_EXISTING);
            return file;
        } catch (IOException e) {
            throw new InputException("standard input cannot be read (" + InputException.reason(e) + ")", e);
        }
    }

    private record Spooled(Path file, RowFormat.Options options) implements RowSource {
        @Override
        public String name() {
            return "standard input";
        }

        @Override
        public void forEach(RowForm form, Visitor visitor) {
            try (InputStream in = Files.newInputStream(file)) {
                RowSource.stream(in, name(), options).forEach(form, visitor);
            } catch (IOException e) {
                throw InputException.io(file, "cannot be read", e);
            }
        }
    }
}
