package dev.loran.peft.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.tuner.AdapterFiles;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// The output folder of a run: `run.json` (its options), `metrics.jsonl` (a line for each step and each evaluation),
/// `result.json` (the results, once it is over), `facts.json` (what was known of the rows, the model and the machine as
/// it began), `spikes/` (the rows of steps whose loss or gradients jumped), `best/` (the parameters after the
/// evaluation with the lowest loss), `last/`, and `checkpoints/step-N/` to resume from. A run over several tasks has a
/// folder like this for each task in `tasks/`.
public record RunFolder(Path path) {
    private static final String OPTIONS = "run.json";
    private static final String METRICS = "metrics.jsonl";
    private static final String BEST = "best";
    private static final String LAST = "last";

    /// The results of a run; the file exists only once the run is finished.
    public static final String RESULT = "result.json";

    /// What was known of the rows, the model and the machine when the steps began.
    private static final String FACTS = "facts.json";

    private static final String SPIKES = "spikes";
    private static final String EVENTS = "tensorboard";
    private static final String TASKS = "tasks";
    private static final String SCORES = "continual.json";
    private static final String HEAT_MAP = "continual.svg";

    /// Everything that belongs to a run. The options come first: a folder without them is not a run's.
    private static final List<String> ALL = List.of(
            OPTIONS,
            RESULT,
            FACTS,
            BEST,
            LAST,
            "checkpoints",
            "base",
            "init",
            SPIKES,
            EVENTS,
            TASKS,
            SCORES,
            HEAT_MAP,
            METRICS);

    /// Creates the folder of a run without options; see [#create(Path, boolean, Consumer)].
    ///
    /// @throws InputException if it holds a run or anything else, or cannot be created
    public static RunFolder create(Path path) {
        return create(path, false, begun -> begun.options(Map.of()));
    }

    /// Creates the folder. It becomes a run's only once everything that `begin` writes is there, even if the process is
    /// killed before.
    ///
    /// @param overwrite whether an existing run in the folder, finished or not, may be deleted
    /// @param begin writes the initial files of the run, at least its [#options], into the folder that it is given
    /// @throws InputException if it holds a run or anything else, cannot be created, or another process trains there
    public static RunFolder create(Path path, boolean overwrite, Consumer<RunFolder> begin) {
        requireFree(path, overwrite);
        RunFolder run = new RunFolder(path);
        boolean isNew = !Files.exists(path);
        boolean done = false;
        try {
            run.drafts().begin();
            MetricsFile held = new MetricsFile(path.resolve(METRICS));
            try (held) {
                // Another process may have started a run here in the meantime.
                requireFree(path, overwrite);
                run.drafts().fill(OPTIONS, draft -> begin.accept(new RunFolder(draft)), () -> {
                    run.deleteParts();
                    held.keep(0, false);
                });
                done = true;
            } finally {
                if (!done) {
                    // If a run that was to be replaced is still there, nothing of it has been removed.
                    run.drafts().abandon(isRun(path) ? List.of() : ALL, isNew);
                }
            }
            return run;
        } catch (IOException e) {
            throw InputException.io(path, "cannot be made a run's folder", e);
        }
    }

    /// Removes what an earlier run left, except the metrics, which are open.
    private void deleteParts() {
        try {
            for (String part : ALL.subList(0, ALL.size() - 1)) {
                Drafts.delete(path.resolve(part));
            }
        } catch (IOException e) {
            throw InputException.io(path, "the run there cannot be removed", e);
        }
    }

    /// Refuses a folder that cannot become a run's folder.
    ///
    /// @param overwrite whether an earlier run may be replaced
    /// @throws InputException that says what is there
    public static void requireFree(Path path, boolean overwrite) {
        if (isRun(path)) {
            if (!overwrite) {
                throw new InputException(
                        "%s: holds a run already%s; go on with it (--resume %s), replace it (--overwrite),"
                                        .formatted(
                                                path,
                                                Files.exists(path.resolve(RESULT)) ? ", a finished one" : "",
                                                path)
                                + " or choose another folder (--out)");
            }
        } else if (!isFree(path)) {
            throw new InputException(path + ": holds other files; choose a new or empty folder for the run");
        }
    }

    /// Whether a new run can begin there: the folder is empty, or holds only what a process left that was killed before
    /// its run began.
    public static boolean isFree(Path path) {
        try {
            return !isRun(path) && new Drafts(path).isFree(ALL);
        } catch (IOException e) {
            throw InputException.io(path, "cannot be read", e);
        }
    }

    /// The folder of an existing run that is to be resumed: [Trainer#train] starts from its newest complete checkpoint,
    /// or from the beginning if there is none.
    ///
    /// @throws InputException if it is not a run's folder
    public static RunFolder resume(Path path) {
        if (!isRun(path)) {
            throw new InputException(path + ": holds no run that could go on (" + OPTIONS + "); name the --out of one");
        }
        return new RunFolder(path);
    }

    /// Whether `run.json` contains options; a run that was killed as it began may have none.
    public boolean hasOptions() {
        return !JsonFile.read(optionsFile()).isEmpty();
    }

    /// Whether there is a checkpoint to resume from.
    public boolean hasCheckpoints() {
        return Files.isDirectory(checkpoints());
    }

    /// Reserves the folder for one trainer until the result is closed, and cleans up what a killed process left
    /// unfinished.
    ///
    /// @throws InputException if another process, or another trainer in this process, has it open
    MetricsFile open() {
        MetricsFile metrics = new MetricsFile(path.resolve(METRICS));
        boolean done = false;
        try {
            drafts().clean(BEST, LAST);
            JsonFile.clean(optionsFile());
            JsonFile.clean(path.resolve(RESULT));
            done = true;
            return metrics;
        } catch (IOException e) {
            throw InputException.io(path, "cannot be written", e);
        } finally {
            if (!done) {
                metrics.close();
            }
        }
    }

    /// Reserves the folder for this process until the result is closed, for a run that trains in folders below it.
    ///
    /// @throws InputException if another process, or another trainer in this process, has it open
    public Reserved reserve() {
        return open()::close;
    }

    /// A folder that no other process can use until this is closed.
    public interface Reserved extends AutoCloseable {
        @Override
        void close();
    }

    /// Writes [#best] or [#last] atomically, with the checksums of its files.
    public void save(Learner learner, Path place) {
        try {
            drafts().put(place.getFileName().toString(), draft -> {
                learner.save(draft);
                Checksums.write(draft);
            });
        } catch (IOException e) {
            throw InputException.io(place, "cannot be written", e);
        }
    }

    private Drafts drafts() {
        return new Drafts(path);
    }

    /// Writes `run.json`.
    public void options(Map<String, ?> values) {
        JsonFile.write(optionsFile(), new ObjectMapper().valueToTree(values));
    }

    /// Writes `result.json`: the run is over.
    public void result(JsonNode values) {
        JsonFile.write(path.resolve(RESULT), values);
    }

    /// Writes `facts.json`.
    public void facts(JsonNode values) {
        JsonFile.write(path.resolve(FACTS), values);
    }

    /// The contents of `facts.json`; empty if there is none.
    public ObjectNode facts() {
        return readIfThere(path.resolve(FACTS));
    }

    /// The contents of `result.json`; empty if the run is not finished.
    public ObjectNode result() {
        return readIfThere(path.resolve(RESULT));
    }

    private static ObjectNode readIfThere(Path file) {
        return Files.isRegularFile(file) ? JsonFile.read(file) : JsonNodeFactory.instance.objectNode();
    }

    /// The lines of `metrics.jsonl`, one object for each step and each evaluation.
    ///
    /// @throws InputException if the file is missing or damaged; a partial last line, which a killed run leaves, is
    ///     left out
    public List<JsonNode> metrics() {
        List<JsonNode> lines = new ArrayList<>();
        metricsReader().next(lines::clear, lines::add);
        return lines.stream().filter(line -> !line.has(MetricsFile.DIVERGED)).toList();
    }

    /// Why the run ended, if it diverged, with its last step; null if it did not.
    public @Nullable String diverged() {
        List<String> whys = new ArrayList<>();
        metricsReader().next(whys::clear, line -> {
            if (line.has(MetricsFile.DIVERGED)) {
                whys.add(line.path(MetricsFile.DIVERGED).asText());
            }
        });
        return whys.isEmpty() ? null : whys.getFirst();
    }

    /// Reads `metrics.jsonl` while it grows.
    public MetricsReader metricsReader() {
        return new MetricsReader(path.resolve(METRICS));
    }

    /// Whether a process trains there now, by the system's list of locks, so that nothing is disturbed. Empty where
    /// there is no such list: only Linux has one.
    public Optional<Boolean> isTraining() {
        try {
            String lock =
                    ":%s %d %<d".formatted(Files.getAttribute(path.resolve(METRICS), "unix:ino"), MetricsFile.LOCKED);
            return Optional.of(Files.readString(Path.of("/proc/locks")).lines().anyMatch(l -> l.endsWith(lock)));
        } catch (IOException | UnsupportedOperationException | IllegalArgumentException e) {
            return Optional.empty();
        }
    }

    /// The folder of TensorBoard's event files.
    public Path events() {
        return path.resolve(EVENTS);
    }

    /// The rows of steps whose loss or gradients jumped: `step-N.json` each.
    public Path spikes() {
        return path.resolve(SPIKES);
    }

    /// Removes the spikes after step `step`, which a resumed run takes again.
    void keepSpikes(int step) {
        try {
            for (Path file : kept()) {
                if (Integer.parseInt(file.getFileName().toString().replaceAll("\\D", "")) > step) {
                    Files.delete(file);
                }
            }
        } catch (IOException e) {
            throw InputException.io(spikes(), "cannot be written", e);
        }
    }

    private List<Path> kept() throws IOException {
        if (!Files.isDirectory(spikes())) {
            return List.of();
        }
        try (Stream<Path> files = Files.list(spikes())) {
            return files.filter(f -> f.getFileName().toString().matches("step-\\d{1,9}\\.json"))
                    .toList();
        }
    }

    /// Keeps the rows of a step that is a spike, numbered from 1, with their texts and ids.
    ///
    /// @return how many spikes are kept now
    int keepSpike(StepResult result, List<Batch> batches, Examples examples) {
        Spike spike = Objects.requireNonNull(result.spike());
        ObjectNode json = JsonNodeFactory.instance
                .objectNode()
                .put("step", result.step())
                .put("loss", result.loss())
                .put("grad_norm", result.gradNorm())
                .put("lr", result.learningRate())
                .put("of", spike.of().key())
                .put("median", spike.median())
                .put("limit", spike.limit());
        ArrayNode rows = json.putArray("rows");
        for (Batch batch : batches) {
            for (int row : batch.rows()) {
                ObjectNode entry = rows.addObject().put("row", row + 1);
                examples.texts(row).forEach(entry.putArray("texts")::add);
                Arrays.stream(examples.target(row)).forEach(entry.putArray("target")::add);
                ArrayNode ids = entry.putArray("ids");
                examples.row(row)
                        .texts()
                        .forEach(text -> Arrays.stream(text.ids()).forEach(ids.addArray()::add));
            }
        }
        try {
            Files.createDirectories(spikes());
            JsonFile.write(spikes().resolve("step-" + result.step() + ".json"), json);
            return kept().size();
        } catch (IOException e) {
            throw InputException.io(spikes(), "cannot be written", e);
        }
    }

    /// Whether `folder` is an empty folder.
    public static boolean isEmpty(Path folder) throws IOException {
        if (!Files.isDirectory(folder)) {
            return false;
        }
        try (Stream<Path> files = Files.list(folder)) {
            return files.findAny().isEmpty();
        }
    }

    /// Whether `folder` holds a run.
    public static boolean isRun(Path folder) {
        return Files.isRegularFile(folder.resolve(OPTIONS));
    }

    /// The folder of the adapter (or the whole model) that `given` refers to: `given` itself, or for a run its best
    /// one, or its last one if there is no best.
    ///
    /// @throws InputException if there is none, or if the run's files have changed since they were written
    public static Path adapter(Path given) {
        boolean isRun = isRun(given);
        Drafts run = new Drafts(given);
        for (Path folder : isRun ? List.of(run.find(BEST), run.find(LAST)) : List.of(given)) {
            if (Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))
                    || Files.isRegularFile(folder.resolve("config.json"))) {
                if (isRun) {
                    check(folder);
                }
                return folder;
            }
        }
        throw new InputException(given
                + (Files.exists(given)
                        ? ": holds neither an adapter (" + AdapterFiles.CONFIG
                                + ") nor a finished run; name one of these"
                        : ": no such folder"));
    }

    private static void check(Path folder) {
        try {
            if (Files.exists(folder.resolve(Checksums.FILE))) {
                Checksums.check(folder);
            }
        } catch (IOException e) {
            throw new InputException(
                    "%s: is damaged (%s); if it was changed on purpose, name this folder instead of the run's"
                            .formatted(folder, InputException.reason(e)),
                    e);
        }
    }

    /// `run.json`.
    public Path optionsFile() {
        return path.resolve(OPTIONS);
    }

    /// Whether there is a `metrics.jsonl`.
    public boolean hasMetrics() {
        return Files.isRegularFile(path.resolve(METRICS));
    }

    public Path best() {
        return path.resolve(BEST);
    }

    public Path last() {
        return path.resolve(LAST);
    }

    /// The base model, if the run created it.
    public Path base() {
        return path.resolve("base");
    }

    /// The previously trained adapter that the run began with, if any.
    public Path init() {
        return path.resolve("init");
    }

    /// The folder of the run on task `number`, from 1, if this is a run over several tasks.
    public Path task(int number) {
        return path.resolve(TASKS).resolve(String.valueOf(number));
    }

    /// The scores after each task, if this is a run over several tasks.
    public Path scores() {
        return path.resolve(SCORES);
    }

    /// The same scores as a picture.
    public Path heatMap() {
        return path.resolve(HEAT_MAP);
    }

    Path checkpoints() {
        return path.resolve("checkpoints");
    }
}
