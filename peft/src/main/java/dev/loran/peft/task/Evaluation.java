package dev.loran.peft.task;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// The results of a model on some rows.
///
/// @param loss mean over the rows, or over the predicted tokens for a language model
/// @param metrics by name, in display order
/// @param headline the most important of them
/// @param tables details, such as the metrics of each class
public record Evaluation(int rows, double loss, Map<String, Double> metrics, Metric headline, List<Table> tables) {
    public Evaluation {
        tables = List.copyOf(tables);
        metrics = Collections.unmodifiableMap(new LinkedHashMap<>(metrics));
        if (!metrics.containsKey(headline.name())) {
            throw new IllegalArgumentException(
                    "evaluation: no metric " + headline.name() + " among " + metrics.keySet());
        }
    }

    /// An evaluation without details.
    public Evaluation(int rows, double loss, Map<String, Double> metrics, Metric headline) {
        this(rows, loss, metrics, headline, List.of());
    }

    /// Numbers in rows and columns.
    ///
    /// @param name as in files: `confusion`
    /// @param rows by name, in display order; a number for each column
    public record Table(String name, List<String> columns, Map<String, List<Number>> rows) {
        public Table {
            columns = List.copyOf(columns);
            rows = Collections.unmodifiableMap(new LinkedHashMap<>(rows));
        }
    }

    /// The metric called `name`.
    ///
    /// @throws IllegalArgumentException if the task has no such metric
    public double metric(String name) {
        Double value = metrics.get(name);
        if (value == null) {
            throw new IllegalArgumentException("evaluation: no metric " + name + " among " + metrics.keySet());
        }
        return value;
    }

    /// The value of the most important metric.
    public double headlineValue() {
        return metric(headline.name());
    }

    @Override
    public String toString() {
        return metrics.entrySet().stream()
                .map(e -> ", " + e.getKey() + "=" + e.getValue())
                .collect(Collectors.joining("", "Evaluation[rows=" + rows + ", loss=" + loss, "]"));
    }

    /// Evaluates `model` and leaves it in evaluation mode.
    public static Evaluation of(Forward model, Examples examples, int batchSize) {
        return Objects.requireNonNull(of(model, examples, batchSize, () -> false));
    }

    /// As above, but returns null once `stop`, which is called before each batch, returns true.
    public static @Nullable Evaluation of(Forward model, Examples examples, int batchSize, BooleanSupplier stop) {
        Examples rows = model.withReference(examples, batchSize, stop, done -> {});
        if (rows == null) {
            return null;
        }
        Meter meter = model.task().meter(rows);
        model.train(false);
        try (Autograd.Mode mode = Autograd.noGrad()) {
            for (Batch batch : new DataLoader(rows, DataLoader.Options.evaluation(batchSize)).epoch(0)) {
                if (stop.getAsBoolean()) {
                    return null;
                }
                double[] answer;
                try (Scope scope = Scope.open()) {
                    answer = model.task().asked(model, batch).toDoubles();
                }
                meter.add(batch, answer);
            }
        }
        return meter.evaluation();
    }
}
