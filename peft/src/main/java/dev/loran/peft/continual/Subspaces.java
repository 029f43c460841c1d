package dev.loran.peft.continual;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.tuner.Tuner;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/// The subspaces of the inputs of each layer in which the LoRAs of earlier tasks work: the rows of their A.
///
/// @param rows for each A of the LoRA that trains, by its name: (Σ rᵢ, in), owned by this object
record Subspaces(Map<String, Tensor> rows) implements AutoCloseable {
    private static final String A = ".lora_A.";

    /// @param trained the LoRA of the present task
    /// @param earlier those of the earlier tasks, on the same layers
    static Subspaces of(Tuner trained, List<Tuner> earlier) {
        Map<String, Tensor> rows = new LinkedHashMap<>();
        for (String name : trained.parameters().keySet()) {
            if (!name.contains(A)) {
                continue;
            }
            List<Tensor> of = new ArrayList<>();
            for (Tuner tuner : earlier) {
                String its = name.replace(
                        A + trained.attachment().name() + ".",
                        A + tuner.attachment().name() + ".");
                of.add(Objects.requireNonNull(tuner.parameters().get(its), its));
            }
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                rows.put(name, Functional.concat(of, 0).detachFromScope());
            }
        }
        return new Subspaces(rows);
    }

    /// λ · Σ ‖Aᵢ·Aᵀ‖² over the layers and the earlier tasks i; a scalar, recorded.
    Tensor penalty(Map<String, Tensor> parameters, double lambda) {
        Tensor sum = null;
        for (Map.Entry<String, Tensor> e : rows.entrySet()) {
            Tensor a = Objects.requireNonNull(parameters.get(e.getKey()), e.getKey());
            Tensor overlap = Functional.matmul(e.getValue(), a, false, true);
            Tensor term = overlap.mul(overlap).sum();
            sum = sum == null ? term : sum.add(term);
        }
        return Objects.requireNonNull(sum, "no LoRA on linear layers").scale(lambda);
    }

    @Override
    public void close() {
        rows.values().forEach(Tensor::close);
    }
}
