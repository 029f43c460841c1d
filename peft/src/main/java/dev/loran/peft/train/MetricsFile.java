package dev.loran.peft.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.InputException;
import dev.loran.peft.data.Task;
import java.io.IOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;

/// `metrics.jsonl`: what a [Trainer] reports, a JSON object a line, each on disk before the next step.
final class MetricsFile implements TrainingListener, AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Path file;
    private final Writer out;

    /// Goes on after the lines of the first `steps` steps; lines of later ones, which a killed run left, are dropped.
    MetricsFile(Path file, int steps) {
        this.file = file;
        try {
            if (Files.exists(file)) {
                keep(steps);
            }
            out = Files.newBufferedWriter(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    private void keep(int steps) throws IOException {
        StringBuilder kept = new StringBuilder();
        for (String line : Files.readAllLines(file)) {
            if (isUpTo(steps, line)) {
                kept.append(line).append('\n');
            }
        }
        Path draft = file.resolveSibling(file.getFileName() + ".part");
        Files.writeString(draft, kept);
        Files.move(draft, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    private static boolean isUpTo(int steps, String line) {
        try {
            return JSON.readTree(line).path("step").asInt(Integer.MAX_VALUE) <= steps;
        } catch (JsonProcessingException e) {
            // The run was killed while it wrote this line.
            return false;
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
        write(line.put("tokens", result.tokens()).put("seconds", seconds));
    }

    @Override
    public void evaluated(int step, Evaluation e, boolean best) {
        ObjectNode line = JSON.createObjectNode().put("step", step).put("eval_loss", e.loss());
        if (e.task() == Task.CLASSIFY) {
            line.put("eval_accuracy", e.accuracy()).put("eval_macro_f1", e.macroF1());
        } else {
            line.put("eval_perplexity", e.perplexity());
        }
        write(line.put("best", best));
    }

    private void write(ObjectNode line) {
        try {
            out.write(line + "\n");
            out.flush();
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    @Override
    public void close() {
        try {
            out.close();
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }
}
