package dev.loran.peft.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Tensor;
import dev.loran.engine.io.MappedFile;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.data.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/// The points that a killed run goes on from: folders `step-N`, each with `state.safetensors` ([Trainer#state]) and
/// `state.json` (where the run stood, and which run it was). A folder has its name only once all of it is on the disk.
///
/// @param run what a checkpoint of this run must have been made with
record Checkpoints(Path folder, TrainerConfig.Checkpoints options, ObjectNode run) {
    private static final Logger LOG = LoggerFactory.getLogger(Checkpoints.class);
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String TENSORS = "state.safetensors";
    private static final String TEXT = "state.json";
    private static final String PREFIX = "step-";
    /// Before the name of a folder that is being written or removed.
    private static final String DRAFT = ".";

    /// Where a run stands, beside [Trainer#state].
    ///
    /// @param step optimizer steps done
    /// @param firstStep those before this run
    /// @param nanos of the training loop
    /// @param worse evaluations since the best one
    /// @param evaluationDue whether the evaluation after `step` is still to be made
    record Standing(
            int step,
            int firstStep,
            long nanos,
            long tokens,
            double lossOfEpoch,
            int stepsOfEpoch,
            @Nullable Evaluation best,
            int bestStep,
            int worse,
            boolean evaluationDue) {
        /// A run that begins after `step` steps.
        static Standing at(int step) {
            return new Standing(step, step, 0, 0, 0, 0, null, 0, 0, false);
        }
    }

    boolean isDue(int step) {
        return options.everySteps() > 0 && step % options.everySteps() == 0;
    }

    /// Where the checkpoint of `step` lies.
    Path place(int step) {
        return folder.resolve(PREFIX + step);
    }

    // ---- writing

    /// Writes a checkpoint, whole or not at all, then removes those that are no longer to be kept.
    void write(Map<String, Tensor> state, Standing standing) {
        Path place = place(standing.step);
        Path draft = folder.resolve(DRAFT + place.getFileName());
        try {
            // Only a damaged one can stand there: the run went on from an older one.
            remove(place);
            delete(draft);
            Files.createDirectories(draft);
            SafeTensors.write(draft.resolve(TENSORS), state);
            ObjectNode text = JSON.createObjectNode();
            text.set("standing", JSON.valueToTree(standing));
            text.set("run", run);
            Files.writeString(draft.resolve(TEXT), text.toPrettyString() + "\n");
            MappedFile.force(draft.resolve(TEXT));
            MappedFile.force(draft);
            Files.move(draft, place, StandardCopyOption.ATOMIC_MOVE);
            MappedFile.force(folder);
            List<Path> all = newestFirst();
            for (Path old : all.subList(Math.min(options.keep(), all.size()), all.size())) {
                remove(old);
            }
        } catch (IOException e) {
            throw InputException.io(place, "the checkpoint cannot be written", e);
        }
    }

    /// Removes a checkpoint, if it exists; what is left of one never has its name.
    private static void remove(Path place) throws IOException {
        if (Files.exists(place)) {
            Path gone = place.resolveSibling(DRAFT + place.getFileName());
            delete(gone);
            Files.move(place, gone, StandardCopyOption.ATOMIC_MOVE);
            delete(gone);
        }
    }

    /// Deletes a folder with all that is in it, if it exists.
    static void delete(Path folder) throws IOException {
        if (Files.exists(folder)) {
            try (Stream<Path> files = Files.walk(folder)) {
                for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(file);
                }
            }
        }
    }

    // ---- reading

    private List<Path> newestFirst() throws IOException {
        if (!Files.isDirectory(folder)) {
            return List.of();
        }
        try (Stream<Path> all = Files.list(folder)) {
            return all.filter(f -> f.getFileName().toString().matches(PREFIX + "\\d{1,9}"))
                    .sorted(Comparator.comparingInt(Checkpoints::step).reversed())
                    .toList();
        }
    }

    private static int step(Path place) {
        return Integer.parseInt(place.getFileName().toString().substring(PREFIX.length()));
    }

    /// Reads the newest complete checkpoint, if there is one. A damaged one is passed over with a warning.
    ///
    /// @param load takes over the state, whose tensors are closed afterwards
    /// @throws InputException if it was made by another run, naming what differs
    @Nullable
    Standing resume(Backend backend, Consumer<Map<String, Tensor>> load) {
        try {
            for (Path place : newestFirst()) {
                try (SafeTensors file = SafeTensors.open(place.resolve(TENSORS))) {
                    JsonNode text = JSON.readTree(Files.readString(place.resolve(TEXT)));
                    if (!text.path("standing").isObject()) {
                        throw new IOException(TEXT + " says nothing");
                    }
                    requireSame(place, "", text.path("run"), run);
                    Standing standing = JSON.treeToValue(text.path("standing"), Standing.class);
                    Map<String, Tensor> state = new LinkedHashMap<>();
                    try {
                        for (String name : file.names()) {
                            DType dtype = file.entry(name).dtype().dtype();
                            state.put(name, file.copy(backend, name, dtype));
                        }
                        load.accept(state);
                    } finally {
                        state.values().forEach(Tensor::close);
                    }
                    return standing;
                } catch (SafeTensorsException | IOException e) {
                    LOG.warn("{}: is damaged and is passed over ({})", place, e.getMessage());
                }
            }
            return null;
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    /// Compares what two runs are, value by value. What has a SHA-256 is the same wherever it lies if that is the same.
    private static void requireSame(Path place, String name, JsonNode before, JsonNode now) {
        boolean fingerprint = before.has("sha256") && now.has("sha256");
        if (before.isObject() && now.isObject() && !fingerprint) {
            TreeSet<String> keys = new TreeSet<>();
            before.fieldNames().forEachRemaining(keys::add);
            now.fieldNames().forEachRemaining(keys::add);
            keys.forEach(key ->
                    requireSame(place, name.isEmpty() ? key : name + "." + key, before.path(key), now.path(key)));
        } else if (fingerprint
                ? !before.get("sha256").equals(now.get("sha256"))
                : !shown(before).equals(shown(now))) {
            throw new InputException(
                    "%s: is of a run with %s %s, not %s; resume with what the run was begun with, or begin another one"
                            .formatted(place, name, shown(before), shown(now)));
        }
    }

    private static String shown(JsonNode value) {
        return value.isMissingNode() ? "nothing" : value.isValueNode() ? value.asText() : value.toString();
    }
}
