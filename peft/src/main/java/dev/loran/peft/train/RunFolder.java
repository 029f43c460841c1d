package dev.loran.peft.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.data.InputException;
import dev.loran.peft.data.JsonFile;
import dev.loran.peft.tuner.AdapterFiles;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/// Where a run leaves what it made: `run.json` (its options), `metrics.jsonl` (a line a step and a line an evaluation),
/// `result.json` (what it came to, once it is over), `best/` (after the evaluation with the lowest loss), `last/`, and
/// `checkpoints/step-N/` to go on from.
public record RunFolder(Path path) {
    static final String OPTIONS = "run.json";
    static final String METRICS = "metrics.jsonl";

    /// What a finished run came to; there is none before.
    public static final String RESULT = "result.json";

    /// Makes the folder. What an earlier run left there is removed.
    ///
    /// @throws InputException if it holds anything but an earlier run, or cannot be made
    public static RunFolder create(Path path) {
        RunFolder run = new RunFolder(path);
        try {
            if (Files.exists(path) && !isRun(path) && !isEmpty(path)) {
                throw new InputException(path + ": holds other files; choose a new or empty folder for the run");
            }
            Files.createDirectories(path);
            for (Path part : List.of(run.best(), run.last(), run.checkpoints())) {
                Checkpoints.delete(part);
            }
            Files.deleteIfExists(path.resolve(METRICS));
            Files.deleteIfExists(path.resolve(RESULT));
            run.options(Map.of());
            return run;
        } catch (IOException e) {
            throw InputException.io(path, "cannot be made a run's folder", e);
        }
    }

    /// The folder of a run that was begun and is to go on: [Trainer#train] starts from its newest complete checkpoint, or
    /// from the beginning where there is none.
    ///
    /// @throws InputException if it is no run's folder
    public static RunFolder resume(Path path) {
        if (!isRun(path)) {
            throw new InputException(path + ": holds no run that could go on (" + OPTIONS + ")");
        }
        return new RunFolder(path);
    }

    /// Writes `run.json`.
    public void options(Map<String, ?> values) {
        JsonFile.write(optionsFile(), new ObjectMapper().valueToTree(values));
    }

    /// Writes `result.json`: the run is over.
    public void result(JsonNode values) {
        JsonFile.write(path.resolve(RESULT), values);
    }

    /// Whether `folder` is a folder without files.
    public static boolean isEmpty(Path folder) throws IOException {
        if (!Files.isDirectory(folder)) {
            return false;
        }
        try (Stream<Path> files = Files.list(folder)) {
            return files.findAny().isEmpty();
        }
    }

    /// Whether `folder` is a run's.
    public static boolean isRun(Path folder) {
        return Files.isRegularFile(folder.resolve(OPTIONS));
    }

    /// The folder with the adapter (or the whole model) that `given` means: itself, or of a run the best one, else the
    /// last one.
    ///
    /// @throws InputException if there is none
    public static Path adapter(Path given) {
        RunFolder run = new RunFolder(given);
        for (Path folder : isRun(given) ? List.of(run.best(), run.last()) : List.of(given)) {
            if (Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))
                    || Files.isRegularFile(folder.resolve("config.json"))) {
                return folder;
            }
        }
        throw new InputException(given
                + (Files.exists(given)
                        ? ": holds neither an adapter (" + AdapterFiles.CONFIG + ") nor a finished run"
                        : ": no such folder"));
    }

    /// `run.json`.
    public Path optionsFile() {
        return path.resolve(OPTIONS);
    }

    public Path best() {
        return path.resolve("best");
    }

    public Path last() {
        return path.resolve("last");
    }

    Path checkpoints() {
        return path.resolve("checkpoints");
    }

    /// @param steps whose metrics are kept
    MetricsFile metrics(int steps) {
        return new MetricsFile(path.resolve(METRICS), steps);
    }
}
