package dev.loran.peft.train;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Evaluation;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
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

/// The checkpoints from which a killed run is resumed and a finished one extended: folders `step-N`, each with
/// `state.safetensors` ([Trainer#state]), `state.json` (the position in the run, and the run's identity), and the
/// checksums of both. A folder gets its final name only once everything in it is on disk.
///
/// @param run the identity of this run, which a checkpoint must match
record Checkpoints(Path folder, TrainerConfig.Checkpoints options, ObjectNode run) {
    private static final Logger LOG = LoggerFactory.getLogger(Checkpoints.class);
    private static final ObjectMapper JSON =
            new ObjectMapper().enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES);
    private static final String TENSORS = "state.safetensors";
    private static final String TEXT = "state.json";
    private static final String PREFIX = "step-";

    /// The position of a run, apart from [Trainer#state].
    ///
    /// @param step optimizer steps done
    /// @param firstStep steps done before this run
    /// @param nanos time spent in the training loop
    /// @param worse evaluations since the best one
    /// @param evaluationDue whether the evaluation after `step` is still pending
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
        /// The position of a run that begins after `step` steps.
        static Standing at(int step) {
            return new Standing(step, step, 0, 0, 0, 0, null, 0, 0, false);
        }
    }

    boolean isDue(int step) {
        return options.everySteps() > 0 && step % options.everySteps() == 0;
    }

    /// The folder of the checkpoint of `step`.
    Path place(int step) {
        return folder.resolve(PREFIX + step);
    }

    // ---- writing

    /// Writes a checkpoint atomically, then removes those that are no longer to be kept.
    void write(Map<String, Tensor> state, Standing standing) {
        String name = PREFIX + standing.step;
        try {
            // Only a damaged checkpoint can already be there: the run resumed from an older one.
            drafts().put(name, draft -> {
                SafeTensors.write(draft.resolve(TENSORS), state);
                ObjectNode text = JSON.createObjectNode();
                text.set("standing", JSON.valueToTree(standing));
                text.set("run", run);
                JsonFile.write(draft.resolve(TEXT), text);
                Checksums.write(draft);
            });
            List<Path> all = newestFirst();
            for (Path old : all.subList(Math.min(options.keep(), all.size()), all.size())) {
                drafts().remove(old.getFileName().toString());
            }
        } catch (IOException e) {
            throw InputException.io(folder.resolve(name), "the checkpoint cannot be written", e);
        }
    }

    private Drafts drafts() {
        return new Drafts(folder);
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

    /// Reads the newest complete checkpoint, if there is one. Damaged ones are skipped with a warning.
    ///
    /// @param load takes over the state, whose tensors are closed afterwards, or throws and changes nothing
    /// @throws InputException if another run made the checkpoint; the message names what differs
    @Nullable
    Standing resume(Backend backend, Consumer<Map<String, Tensor>> load) {
        try {
            drafts().clean();
            for (Path place : newestFirst()) {
                try {
                    return read(place, backend, load);
                } catch (SafeTensorsException | IOException | IllegalArgumentException e) {
                    LOG.warn("{}: is damaged and is passed over ({})", place, reason(e));
                }
            }
            return null;
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    private static String reason(Exception e) {
        return switch (e) {
            case JacksonException json -> TEXT + ": " + JsonFile.problem(json);
            case IOException io -> InputException.reason(io);
            default -> String.valueOf(e.getMessage());
        };
    }

    private Standing read(Path place, Backend backend, Consumer<Map<String, Tensor>> load) throws IOException {
        Checksums.check(place);
        JsonNode text = JSON.readTree(Files.readString(place.resolve(TEXT)));
        requireSame(place, "", text.path("run"), run);
        Standing standing = JSON.treeToValue(text.path("standing"), Standing.class);
        if (standing == null || standing.step != step(place)) {
            throw new IOException(TEXT + " is not of this step");
        }
        Map<String, Tensor> state = new LinkedHashMap<>();
        try (SafeTensors file = SafeTensors.open(place.resolve(TENSORS))) {
            for (String name : file.names()) {
                DType dtype = file.entry(name).dtype().dtype();
                state.put(name, file.copy(backend, name, dtype));
            }
            load.accept(state);
        } finally {
            state.values().forEach(Tensor::close);
        }
        return standing;
    }

    /// Compares the identities of two runs value by value. Entries with a SHA-256 are compared by that alone,
    /// regardless of path.
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
