package dev.loran.peft.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.Evaluation;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/// `metrics.jsonl`: what a [Trainer] reports, one JSON object per line, each on disk before the next step. Having it
/// open also locks the run's folder: a lock on the file itself ends with the process, however the process ends, and
/// leaves nothing behind. (On POSIX systems it also ends when the same process opens and closes the file elsewhere.)
final class MetricsFile implements TrainingListener, AutoCloseable {
    private static final Logger LOG = LoggerFactory.getLogger(MetricsFile.class);
    private static final ObjectMapper JSON = new ObjectMapper();
    /// The field of the last line of a run that diverged, which is no line of a step or an evaluation.
    static final String DIVERGED = "diverged";

    /// The byte that is locked. It lies beyond all lines: where locks prevent reading, the lines stay readable for
    /// others.
    static final long LOCKED = Long.MAX_VALUE - 1;

    private final Path file;
    /// Not used through its channel: an interrupt would close the channel and release the lock.
    private final RandomAccessFile lines;

    /// @throws InputException if another process, or another trainer in this process, has it open
    MetricsFile(Path file) {
        this.file = file;
        try {
            lines = new RandomAccessFile(file.toFile(), "rw");
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
        if (!isLocked()) {
            close();
            throw new InputException(file.getParent()
                    + ": another process trains there; wait until it has ended, or choose another folder (--out)");
        }
    }

    private boolean isLocked() {
        try {
            return lines.getChannel().tryLock(LOCKED, 1, false) != null;
        } catch (OverlappingFileLockException e) {
            return false;
        } catch (IOException e) {
            LOG.warn("{}: cannot be locked ({}); see to it that no other process trains there", file, e.getMessage());
            return true;
        }
    }

    /// Continues after the lines of the first `steps` steps. Lines of later steps, and a partial line that a killed run
    /// left, are dropped.
    ///
    /// @param evaluated whether the evaluation after the last of these steps is kept as well
    /// @return the lines that are kept
    List<JsonNode> keep(int steps, boolean evaluated) {
        List<JsonNode> kept = new ArrayList<>();
        try {
            byte[] bytes = new byte[Math.toIntExact(lines.length())];
            lines.seek(0);
            lines.readFully(bytes);
            String text = new String(bytes, StandardCharsets.ISO_8859_1);
            int end = 0;
            for (int next = text.indexOf('\n'); next >= 0; next = text.indexOf('\n', end)) {
                JsonNode line = upTo(steps, evaluated, text.substring(end, next));
                if (line == null) {
                    break;
                }
                kept.add(line);
                end = next + 1;
            }
            lines.setLength(end);
            lines.seek(end);
            return kept;
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    /// The line; null if it is of a later step.
    private static @Nullable JsonNode upTo(int steps, boolean evaluated, String line) {
        try {
            JsonNode entry = JSON.readTree(line);
            int step = entry.path("step").asInt(Integer.MAX_VALUE);
            boolean isKept = step < steps || step == steps && (evaluated || !entry.has("eval_loss"));
            return isKept && !entry.has(DIVERGED) ? entry : null;
        } catch (JsonProcessingException e) {
            // The machine stopped while this line was being written.
            return null;
        }
    }

    @Override
    public void step(StepResult result, int totalSteps, double seconds) {
        ObjectNode line = JSON.createObjectNode()
                .put("step", result.step())
                .put("loss", result.loss())
                .put("lr", result.learningRate())
                .put("grad_norm", result.gradNorm());
        if (result.penalty() != 0) {
            line.put("penalty", result.penalty());
        }
        if (!result.ranks().isEmpty()) {
            result.ranks().forEach(line.putObject("ranks")::put);
        }
        Spike spike = result.spike();
        if (spike != null) {
            line.put("spike", spike.toString());
        }
        write(line.put("tokens", result.tokens())
                .put("data_seconds", result.dataSeconds())
                .put("seconds", seconds));
    }

    @Override
    public void evaluated(int step, Evaluation e, boolean best) {
        ObjectNode line = JSON.createObjectNode().put("step", step).put("eval_loss", e.loss());
        e.metrics().forEach((name, value) -> line.put("eval_" + name, value));
        write(line.put("best", best));
    }

    @Override
    public void diverged(int step, String why) {
        write(JSON.createObjectNode().put("step", step).put(DIVERGED, why));
    }

    private void write(ObjectNode line) {
        try {
            lines.write((line + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    @Override
    public void close() {
        try {
            lines.close();
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }
}
