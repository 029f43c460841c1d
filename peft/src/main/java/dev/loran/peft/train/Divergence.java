package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Op;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// Finds where the values of a step became NaN or infinite, by repeating the step and checking every operation.
final class Divergence {
    private final Learner learner;
    private @Nullable String found;
    private @Nullable String last;
    private int operations;
    private Map<Tensor, String> names = Map.of();

    private Divergence(Learner learner) {
        this.learner = learner;
    }

    /// Returns the rows of `batches` and the operation where the values went wrong: the text after "in ". The
    /// parameters must be those that the step started with; their gradients are dropped.
    ///
    /// @param microStep the number of the first batch's forward pass
    static String of(Learner learner, List<Batch> batches, int microStep) {
        for (int i = 0; i < batches.size(); i++) {
            learner.microStep(microStep + i);
            String where = new Divergence(learner).where(batches.get(i));
            if (where != null) {
                return rows(batches.get(i)) + ": " + where;
            }
        }
        int[] all = batches.stream().flatMapToInt(b -> Arrays.stream(b.rows())).toArray();
        return rows(all) + ": each number is finite, but not the norm of all gradients together";
    }

    /// Rows are numbered from 1, like lines.
    private static String rows(Batch batch) {
        return rows(batch.rows());
    }

    private static String rows(int[] rows) {
        int shown = 16;
        return (rows.length == 1 ? "row " : "rows ")
                + Arrays.stream(rows)
                        .limit(shown)
                        .mapToObj(r -> String.valueOf(r + 1))
                        .collect(Collectors.joining(", "))
                + (rows.length > shown ? " and %d more".formatted(rows.length - shown) : "");
    }

    private @Nullable String where(Batch batch) {
        Map<String, Tensor> parameters = learner.parameters();
        names = new LinkedHashMap<>();
        parameters.forEach((name, t) -> names.put(t, name));
        try (Scope scope = Scope.open()) {
            Tensor loss;
            try (Autograd.Mode watching = Autograd.watch(this::look)) {
                loss = learner.loss(batch);
            }
            if (found == null && !isFinite(loss)) {
                found = "the loss is " + loss.item();
            }
            if (found == null && loss.requiresGrad()) {
                loss.backward();
                // Backward visits the parameters from last to first, so the last one found is the first that went
                // wrong.
                parameters.forEach((name, t) -> found = isFinite(t.grad()) ? found : "the gradient of " + name);
            }
        } finally {
            parameters.values().forEach(Tensor::zeroGrad);
        }
        return found;
    }

    private void look(Op op, Tensor output) {
        operations++;
        boolean its = false;
        for (Tensor input : op.inputs()) {
            String name = names.get(input);
            last = name == null || its ? last : name;
            its |= name != null;
        }
        if (found == null && output.dtype().isFloating() && !isFinite(output)) {
            String near = last == null ? "" : (its ? ", with " : ", after ") + last;
            found = "first in the output of operation %d, %s %s%s"
                    .formatted(operations, op.getClass().getSimpleName(), output.shape(), near);
        }
    }

    private static boolean isFinite(@Nullable Tensor t) {
        return t == null || Arrays.stream(t.toDoubles()).allMatch(Double::isFinite);
    }
}
