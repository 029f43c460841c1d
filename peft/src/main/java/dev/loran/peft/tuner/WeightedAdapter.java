package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.ejml.data.DMatrixRMaj;
import org.jspecify.annotations.Nullable;

/// Combines several low-rank adapters into one LoRA, layer by layer: see [Combination]. The result has scaling 1 in
/// every layer, whatever ranks, alphas and scaling rules the adapters have. Layers trained in full are combined by
/// their differences from the base, with the same rule.
final class WeightedAdapter {
    /// One adapter's factors for one layer, to be multiplied by `scaling` and `weight`.
    private record Term(Tuner tuner, LowRank factors, double scaling, double weight) {
        LowRank update() {
            return factors.times(scaling);
        }
    }

    /// A layer that one adapter trains in full: its parameters by their names below the layer.
    private record Whole(ModulesToSave<?> layer, double weight) {}

    /// The result for one layer, and ‖result − Σ wᵢΔᵢ‖ / ‖Σ wᵢΔᵢ‖.
    private record Result(LowRank update, double error) {}

    private static final String NO_SUM = "it is no sum of low-rank updates";

    private final Combination how;
    private final Map<String, List<Term>> terms = new LinkedHashMap<>();
    private final Map<String, List<Whole>> whole = new LinkedHashMap<>();

    /// The model's names of the layers: each adapter may use different ones.
    private final IdentityHashMap<AdaptedLayer<?>, String> modules = new IdentityHashMap<>();

    private WeightedAdapter(Model model, Combination how) {
        this.how = how;
        Targets.candidates(model).forEach((module, layer) -> modules.put(layer, module));
    }

    private String module(Tuner.Placed<?> p) {
        return Objects.requireNonNull(modules.get(p.layer()), p.module());
    }

    /// Adds the adapter `name` to `peft`.
    ///
    /// @return the relative error of each layer, by its name
    static Map<String, Double> add(PeftModel peft, String name, List<Tuner> tuners, double[] weights, Combination how) {
        WeightedAdapter work = new WeightedAdapter(peft.model(), how);
        for (int i = 0; i < weights.length; i++) {
            work.read(tuners.get(i), weights[i]);
        }
        work.terms.keySet().stream().filter(work.whole::containsKey).findFirst().ifPresent(module -> {
            throw new InputException("addWeightedAdapter: " + module
                    + " is trained whole by one adapter and has factors in" + " another; leave one of the two out");
        });
        Map<String, Result> results = new LinkedHashMap<>();
        work.terms.forEach((module, all) -> results.put(module, work.combined(module, all)));
        Tuner tuner = peft.addAdapter(name, work.config(tuners, results, peft.model()));
        Map<String, Double> errors = new LinkedHashMap<>();
        results.forEach((module, result) -> errors.put(module, result.error));
        for (Tuner.Placed<?> p : tuner.placements()) {
            Result result = results.get(p.module());
            if (result != null) {
                write(p, result.update);
            } else if (p.adapter() instanceof ModulesToSave<?> head) {
                String module = work.module(p);
                errors.put(module, work.write(module, head));
            }
        }
        return errors;
    }

    private void read(Tuner tuner, double weight) {
        String obstacle = obstacle(tuner);
        if (obstacle != null) {
            throw refusal(tuner, obstacle);
        }
        for (Tuner.Placed<?> p : tuner.placements()) {
            String module = module(p);
            if (p.adapter() instanceof LowRank.Source source) {
                LowRank factors = source.factors();
                if (factors.rank() > 0) {
                    terms.computeIfAbsent(module, m -> new ArrayList<>())
                            .add(new Term(tuner, factors, source.scaling(), weight));
                }
            } else if (p.adapter() instanceof ModulesToSave<?> head && !head.isGiven() && !head.isTied()) {
                whole.computeIfAbsent(module, m -> new ArrayList<>()).add(new Whole(head, weight));
            } else if (p.adapter() instanceof ModulesToSave<?>) {
                throw refusal(tuner, "its table of token embeddings is another than the base's, or tied to the head");
            } else {
                throw refusal(tuner, NO_SUM);
            }
        }
    }

    /// Why an adapter cannot be combined; null if it can.
    private @Nullable String obstacle(Tuner tuner) {
        boolean onFactors = how instanceof Combination.OfFactors;
        if (tuner.config() instanceof LoraConfig lora) {
            if (lora.useDora()) {
                return "use_dora: its update is no product of two thin matrices";
            }
            if (lora.loraBias()) {
                return "lora_bias: the biases of B would be lost";
            }
            if (!lora.trainableTokenIndices().isEmpty()) {
                return "trainable_token_indices: rows that are trained whole would be lost";
            }
            if (onFactors && lora.initLoraWeights().cutsBase()) {
                return "init_lora_weights " + lora.initLoraWeights().name()
                        + ": its update is a difference of two products; use cat, svd or a rule with _svd";
            }
        } else if (onFactors && tuner.config() instanceof AdaLoraConfig) {
            return "it has three factors, not two; use cat, svd or a rule with _svd";
        }
        if (!tuner.baseTensors().isEmpty()) {
            return "bias: biases of the base that are trained beside would be lost";
        }
        return tuner.placements().stream().anyMatch(p -> p.adapter() instanceof LowRank.Source) ? null : NO_SUM;
    }

    private static InputException refusal(Tuner tuner, String reason) {
        return new InputException("addWeightedAdapter: adapter " + tuner.title() + " cannot be combined: " + reason);
    }

    private Result combined(String module, List<Term> all) {
        LowRank target =
                LowRank.sum(all.stream().map(t -> t.update().times(t.weight)).toList());
        LowRank update = switch (how) {
            case Combination.Cat cat -> target;
            case Combination.OfUpdates of -> ofUpdates(module, all, target, of);
            case Combination.OfFactors of -> ofFactors(module, all, of.rule());
        };
        if (update == target) {
            return new Result(update, 0);
        }
        double difference = LowRank.sum(List.of(update, target.times(-1))).norm();
        return new Result(update, share(difference, target.norm()));
    }

    private static double share(double part, double whole) {
        return part == 0 ? 0 : part / whole;
    }

    private static LowRank ofUpdates(String module, List<Term> all, LowRank target, Combination.OfUpdates of) {
        int largest = all.stream().mapToInt(t -> t.factors.rank()).max().orElse(1);
        int rank = of.rank() == 0 ? largest : of.rank();
        if (of.rule() instanceof Combination.Sum) {
            return target.nearest(rank);
        }
        List<double[]> updates = all.stream().map(t -> t.update().whole().data).toList();
        double[] weights = all.stream().mapToDouble(Term::weight).toArray();
        double[] combined = of.rule().combine(updates, weights, 2L * module.hashCode());
        return LowRank.nearest(new DMatrixRMaj(target.b().numRows, target.a().numCols, true, combined), rank);
    }

    private static LowRank ofFactors(String module, List<Term> all, Combination.Rule rule) {
        List<Integer> ranks = all.stream().map(t -> t.factors.rank()).toList();
        if (Set.copyOf(ranks).size() > 1) {
            throw new InputException("addWeightedAdapter: on " + module + " adapters "
                    + all.stream().map(t -> t.tuner.attachment().name()).toList() + " have ranks " + ranks
                    + "; factors are combined of one rank only, use cat, svd or a rule with _svd");
        }
        LowRank first = all.getFirst().factors;
        // The sign of a negative weight is applied to one factor; on both it would cancel.
        double[] roots = all.stream()
                .mapToDouble(t -> Math.sqrt(Math.abs(t.weight * t.scaling)))
                .toArray();
        double[] signed = new double[roots.length];
        for (int i = 0; i < roots.length; i++) {
            signed[i] = Math.signum(all.get(i).weight * all.get(i).scaling) * roots[i];
        }
        double[] a = rule.combine(all.stream().map(t -> t.factors.a().data).toList(), signed, 2L * module.hashCode());
        double[] b =
                rule.combine(all.stream().map(t -> t.factors.b().data).toList(), roots, 2L * module.hashCode() + 1);
        return new LowRank(
                new DMatrixRMaj(first.b().numRows, first.rank(), true, b),
                new DMatrixRMaj(first.rank(), first.a().numCols, true, a));
    }

    /// A plain LoRA with the results' ranks and scaling 1.
    private LoraConfig config(List<Tuner> tuners, Map<String, Result> results, Model model) {
        int r = results.values().stream().mapToInt(x -> x.update.rank()).max().orElse(1);
        Map<String, Integer> ranks = new LinkedHashMap<>();
        Map<String, Double> alphas = new LinkedHashMap<>();
        results.forEach((module, result) -> {
            if (result.update.rank() != r) {
                ranks.put(module, result.update.rank());
                alphas.put(module, (double) result.update.rank());
            }
        });
        Set<String> saved = new LinkedHashSet<>();
        // A task lists heads under several names; only those that this model has are kept.
        tuners.forEach(t -> lora(t).modulesToSave().stream()
                .filter(head -> whole.keySet().stream().anyMatch(m -> Heads.whole(List.of(head), m) != null))
                .forEach(saved::add));
        LoraConfig first = lora(tuners.getFirst());
        return LoraConfig.defaults()
                .withRank(r, r)
                .withDropout(first.loraDropout())
                .withTargets(targets(tuners, results.keySet(), model))
                .withPatterns(ranks, alphas)
                .withModulesToSave(List.copyOf(saved))
                .withTask(first.taskType());
    }

    private static LoraConfig lora(Tuner tuner) {
        return switch (tuner.config()) {
            case LoraConfig lora -> lora;
            case AdaLoraConfig ada -> ada.lora();
            default -> throw refusal(tuner, NO_SUM);
        };
    }

    /// The adapters' own target names if they match exactly these modules, otherwise the modules' full names.
    private static Targets targets(List<Tuner> tuners, Set<String> modules, Model model) {
        Set<String> names = new LinkedHashSet<>();
        for (Tuner t : tuners) {
            List<String> own = lora(t).targetModules().names();
            names.addAll(own == null ? modules : own);
        }
        List<String> all = List.copyOf(names);
        Set<String> meant = new LinkedHashSet<>();
        Targets.candidates(model).keySet().stream()
                .filter(module -> Targets.matching(all, module) != null)
                .forEach(meant::add);
        return Targets.of(meant.equals(modules) ? all : List.copyOf(modules));
    }

    private static void write(Tuner.Placed<?> placed, LowRank update) {
        placed.adapter().collect((local, tensor) -> {
            DMatrixRMaj factor =
                    local.startsWith("lora_A") || local.startsWith("lora_embedding_A") ? update.a() : update.b();
            write(tensor, factor.data);
        });
    }

    private static void write(Tensor tensor, double[] values) {
        try (Tensor t = Tensor.of(
                tensor.backend(), tensor.dtype(), values, tensor.shape().dims())) {
            tensor.copyFrom(t);
        }
    }

    /// Writes the base plus the rule's combination of the differences; returns the relative error.
    private double write(String module, ModulesToSave<?> head) {
        Combination.Rule rule = switch (how) {
            case Combination.Cat cat -> new Combination.Sum();
            case Combination.OfUpdates of -> of.rule();
            case Combination.OfFactors of -> of.rule();
        };
        List<Whole> all = Objects.requireNonNull(whole.get(module), module);
        double[] weights = all.stream().mapToDouble(Whole::weight).toArray();
        double missing = 0;
        double norm = 0;
        // Newly placed, it holds the base's values.
        for (int i = 0; i < head.parameters().size(); i++) {
            int index = i;
            Tensor parameter = head.parameters().get(i);
            double[] base = parameter.toDoubles();
            List<double[]> differences = all.stream()
                    .map(w -> difference(w.layer.parameters().get(index).toDoubles(), base))
                    .toList();
            double[] combined = rule.combine(differences, weights, 2L * module.hashCode() + i);
            double[] target = new Combination.Sum().combine(differences, weights, 0);
            for (int j = 0; j < base.length; j++) {
                missing += (combined[j] - target[j]) * (combined[j] - target[j]);
                norm += target[j] * target[j];
                combined[j] += base[j];
            }
            write(parameter, combined);
        }
        return share(Math.sqrt(missing), Math.sqrt(norm));
    }

    private static double[] difference(double[] a, double[] b) {
        double[] d = new double[a.length];
        for (int i = 0; i < d.length; i++) {
            d[i] = a[i] - b[i];
        }
        return d;
    }
}
