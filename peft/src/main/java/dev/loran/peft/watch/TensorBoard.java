package dev.loran.peft.watch;

import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.train.TrainingReport;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// Writes the course of a run for TensorBoard: `train/loss`, `train/lr`, `train/grad_norm`, `train/tokens_per_second`,
/// and `eval/…` with the metrics of each evaluation. A resumed run goes on in a new file; TensorBoard then drops what
/// the earlier one holds of the steps that are taken again.
public final class TensorBoard implements TrainingListener {
    private final Path folder;
    private @Nullable EventFile file;
    private double lastSeconds = Double.NaN;

    /// @param folder where the event files go
    public TensorBoard(Path folder) {
        this.folder = folder;
    }

    @Override
    public void begun(int step, int totalSteps) {
        file = new EventFile(folder, step + 1);
    }

    @Override
    public void step(StepResult result, int totalSteps, double seconds) {
        Map<String, Double> values = new LinkedHashMap<>();
        values.put("train/loss", result.loss());
        values.put("train/lr", result.learningRate());
        values.put("train/grad_norm", result.gradNorm());
        if (seconds > lastSeconds) {
            values.put("train/tokens_per_second", result.tokens() / (seconds - lastSeconds));
        }
        lastSeconds = seconds;
        write(result.step(), values);
    }

    @Override
    public void evaluated(int step, Evaluation evaluation, boolean best) {
        Map<String, Double> values = new LinkedHashMap<>();
        values.put("eval/loss", evaluation.loss());
        evaluation.metrics().forEach((name, value) -> values.put("eval/" + name, value));
        write(step, values);
    }

    private void write(int step, Map<String, Double> values) {
        if (file != null) {
            file.scalars(step, values);
        }
    }

    @Override
    public void ended(TrainingReport report) {
        if (file != null) {
            file.close();
            file = null;
        }
    }
}
