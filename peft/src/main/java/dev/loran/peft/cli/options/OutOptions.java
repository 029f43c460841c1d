package dev.loran.peft.cli.options;

import dev.loran.peft.train.RunFolder;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// The options for the output folder.
public final class OutOptions {
    @Option(
            names = "--out",
            paramLabel = "DIR",
            description = "where the files go (a new folder here, with a number where its name is taken)")
    public @Nullable Path out;

    @Option(names = "--overwrite", description = "replace the run, or the comparison, that is in --out already")
    public boolean overwrite;

    /// The folder that the user named; or else `usual`, or if that is taken, the first free one of `usual-2`,
    /// `usual-3`, ….
    public Path folder(String usual) {
        if (out != null || overwrite) {
            return out == null ? Path.of(usual) : out;
        }
        Path place = Path.of(usual);
        for (int i = 2; !RunFolder.isFree(place); i++) {
            place = Path.of(usual + "-" + i);
        }
        return place;
    }

    /// As above, for a run.
    ///
    /// @throws dev.loran.peft.io.InputException if it contains something that must not be replaced
    public Path runFolder(String usual) {
        Path place = folder(usual);
        RunFolder.requireFree(place, overwrite);
        return place;
    }
}
