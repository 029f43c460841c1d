package dev.loran.peft.continual;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.TaskModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// The values of trained parameters, by name, and calculations with them: what a later task starts from, and is held
/// back to. A parameter may have gained rows since, as a head does with new classes; values then belong to its first
/// rows.
///
/// @param values owned by this object
record Anchor(Map<String, Tensor> values) implements AutoCloseable {
    /// A copy of the parameters of `model`.
    static Anchor of(TaskModel model) {
        Map<String, Tensor> values = new LinkedHashMap<>();
        model.parameters().forEach((name, p) -> values.put(name, copy(p)));
        return new Anchor(values);
    }

    private static Tensor copy(Tensor of) {
        return Tensor.empty(of.backend(), of.dtype(), of.shape().dims())
                .detachFromScope()
                .copyFrom(of);
    }

    /// Copies the values into those parameters of `model` that have one, and whose name `wanted` accepts.
    ///
    /// @throws IllegalStateException if a parameter's shape differs by more than additional rows
    void copyTo(TaskModel model, Predicate<String> wanted) {
        model.parameters().forEach((name, p) -> {
            Tensor value = values.get(name);
            if (value != null && wanted.test(name)) {
                try (Scope scope = Scope.open();
                        Autograd.Mode mode = Autograd.noGrad()) {
                    p.copyFrom(grown(name, value, p));
                }
            }
        });
    }

    /// `value`, followed by the further rows of `as`.
    private static Tensor grown(String name, Tensor value, Tensor as) {
        int rows = rows(name, value, as);
        return rows == as.shape().dim(0)
                ? value
                : Functional.concat(
                        List.of(value, as.detach().slice(0, rows, as.shape().dim(0))), 0);
    }

    /// The number of rows of `value`, which are the first ones of `now`.
    private static int rows(String name, Tensor value, Tensor now) {
        Shape before = value.shape();
        Shape after = now.shape();
        boolean fits = before.rank() == after.rank() && before.dim(0) <= after.dim(0);
        for (int i = 1; fits && i < before.rank(); i++) {
            fits = before.dim(i) == after.dim(i);
        }
        if (!fits) {
            throw new IllegalStateException(name + " was " + before + " after the task before and is " + after
                    + "; only a head can grow, by rows");
        }
        return before.dim(0);
    }

    /// λ/2 · Σ F · (θ − θ*)² over the parameters θ that have a value θ*; a scalar, recorded.
    ///
    /// @param importance F, which has the shapes of the values; null for 1
    Tensor penalty(Map<String, Tensor> parameters, @Nullable Map<String, Tensor> importance, double lambda) {
        Tensor sum = null;
        for (Map.Entry<String, Tensor> e : values.entrySet()) {
            Tensor value = e.getValue();
            Tensor now = Objects.requireNonNull(parameters.get(e.getKey()), e.getKey());
            int rows = rows(e.getKey(), value, now);
            Tensor moved = (rows == now.shape().dim(0) ? now : now.slice(0, 0, rows)).sub(value);
            Tensor squares = moved.mul(moved);
            Tensor term = (importance == null
                            ? squares
                            : squares.mul(Objects.requireNonNull(importance.get(e.getKey()))))
                    .sum();
            sum = sum == null ? term : sum.add(term);
        }
        return Objects.requireNonNull(sum, "nothing trains").scale(lambda / 2);
    }

    /// The diagonal of the empirical Fisher information: the mean, over a sample of `examples`, of the squared gradient
    /// of a row's loss, without dropout. **Paper**: Kirkpatrick et al., 2017.
    ///
    /// @param rows the size of the sample, at most; drawn by `seed`
    /// @return null if `stop` returned true between two rows
    static @Nullable Anchor fisher(TaskModel model, Examples examples, int rows, long seed, BooleanSupplier stop) {
        Map<String, Tensor> parameters = model.parameters();
        Map<String, Tensor> sums = new LinkedHashMap<>();
        parameters.forEach((name, p) -> sums.put(
                name, Tensor.zeros(p.backend(), p.dtype(), p.shape().dims()).detachFromScope()));
        Anchor fisher = new Anchor(sums);
        int n = Math.min(rows, examples.size());
        List<Batch> single = new DataLoader(examples, new DataLoader.Options(1, true, seed, false, false, 1)).epoch(0);
        model.train(false);
        for (Batch batch : single.subList(0, n)) {
            if (stop.getAsBoolean()) {
                fisher.close();
                return null;
            }
            try (Scope scope = Scope.open()) {
                model.loss(batch).backward();
                try (Autograd.Mode mode = Autograd.noGrad()) {
                    parameters.forEach((name, p) -> {
                        Tensor g = p.grad();
                        if (g != null) {
                            Tensor sum = Objects.requireNonNull(sums.get(name));
                            sum.copyFrom(sum.add(g.mul(g).scale(1.0 / n)));
                        }
                    });
                }
            }
            parameters.values().forEach(Tensor::zeroGrad);
        }
        return fisher;
    }

    /// Adds `factor` times the values of `before`, which may have fewer rows.
    void add(Anchor before, double factor) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            before.values.forEach((name, value) -> {
                Tensor own = Objects.requireNonNull(values.get(name), name);
                Tensor none =
                        Tensor.zeros(own.backend(), own.dtype(), own.shape().dims());
                own.copyFrom(own.add(grown(name, value, none).scale(factor)));
            });
        }
    }

    // ---- files

    void write(Path file) {
        SafeTensors.write(file, values);
    }

    /// Refuses values that are not of the same parameters as these.
    ///
    /// @param file their file
    void requireFits(Anchor other, Path file) {
        boolean fits = other.values.keySet().equals(values.keySet());
        for (String name : values.keySet()) {
            fits = fits && shape(other, name).equals(shape(this, name));
        }
        if (!fits) {
            throw new InputException(
                    file + ": does not belong to the parameters that were trained; remove the task's folder to train it"
                            + " again");
        }
    }

    private static Shape shape(Anchor of, String name) {
        return Objects.requireNonNull(of.values.get(name), name).shape();
    }

    /// @throws dev.loran.engine.io.SafeTensorsException if the file is damaged
    static Anchor read(Path file, Backend backend) {
        Map<String, Tensor> values = new LinkedHashMap<>();
        try (SafeTensors stored = SafeTensors.open(file)) {
            for (String name : new ArrayList<>(stored.names())) {
                values.put(
                        name,
                        stored.copy(backend, name, stored.entry(name).dtype().dtype())
                                .detachFromScope());
            }
        }
        return new Anchor(values);
    }

    @Override
    public void close() {
        values.values().forEach(Tensor::close);
    }
}
