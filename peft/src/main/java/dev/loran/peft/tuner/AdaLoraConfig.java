package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Functional;
import dev.loran.engine.Functional.Projection;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.UnaryFn;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// AdaLoRA: the update of each layer in the form of a singular value decomposition, s · B·diag(E)·A, whose triplets
/// (a column of B, an entry of E, a row of A) compete over all layers for a budget that shrinks while training.
///
/// **Paper**: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023: importance
/// (equations 8 to 10), schedule (equation 12); the orthogonality penalty as in peft, the mean of unsquared norms (the paper
/// sums squared ones).
///
/// The allocator is driven by the trainer ([Tuner#afterStep]) with the gradients as the optimizer used them. Between
/// allocations pruned triplets may revive, as in peft. After the last allocation, at step total − tfinal, they stay pruned:
/// with `shrink` they leave the tensors, the optimizer's moments and the penalty; without, peft's arithmetic is kept to the
/// letter. Ranks stay as the last allocation left them also where a run is prolonged after it, or another begins from the
/// saved adapter. Two faults of peft are not repeated: a budget equal to the initial one prunes nothing (peft fails), and an
/// adapter saved before the last allocation keeps all its triplets.
///
/// @param targetR mean rank per adapted layer at the end
/// @param initR rank of every layer at the start; the scaling is loraAlpha / (initR + 1e-5) for ever
/// @param tinit optimizer steps before the first allocation
/// @param tfinal optimizer steps after the last one
/// @param deltaT steps between allocations
/// @param beta1 smoothing of the sensitivity
/// @param beta2 smoothing of its uncertainty
/// @param orthRegWeight weight of the penalty
/// @param totalStep optimizer steps of the whole training; null: what the trainer says
/// @param shrink whether pruned triplets leave the tensors after the last allocation; not part of peft's file
/// @param lora rank-free options shared with LoRA; its r is ignored, its rank pattern must be empty
/// @param rankPattern which triplets of each layer are live, in a saved adapter; null before the last allocation
public record AdaLoraConfig(
        int targetR,
        int initR,
        int tinit,
        int tfinal,
        int deltaT,
        double beta1,
        double beta2,
        double orthRegWeight,
        @Nullable Integer totalStep,
        boolean shrink,
        LoraConfig lora,
        @Nullable Map<String, List<Boolean>> rankPattern)
        implements PeftConfig {
    public AdaLoraConfig {
        check(initR >= 1, "init_r", initR, "at least 1");
        check(targetR >= 1 && targetR <= initR, "target_r", targetR, "at least 1 and at most init_r = " + initR);
        check(tinit >= 0, "tinit", tinit, "at least 0");
        check(tfinal >= 0, "tfinal", tfinal, "at least 0");
        check(deltaT >= 1, "deltaT", deltaT, "at least 1");
        check(beta1 > 0 && beta1 < 1, "beta1", beta1, "between 0 and 1");
        check(beta2 > 0 && beta2 < 1, "beta2", beta2, "between 0 and 1");
        check(orthRegWeight >= 0, "orth_reg_weight", orthRegWeight, "at least 0");
        check(!lora.useRslora(), "use_rslora", true, "false: AdaLoRA has a scaling of its own");
        check(!lora.useDora() && !lora.loraBias(), "use_dora or lora_bias", true, "false: AdaLoRA has neither");
        check(
                lora.trainableTokenIndices().isEmpty(),
                "trainable_token_indices",
                lora.trainableTokenIndices(),
                "empty: AdaLoRA trains no token rows");
        rankPattern = rankPattern == null ? null : Map.copyOf(rankPattern);
        if (totalStep != null) {
            checkSchedule(tinit, tfinal, totalStep);
        }
    }

    private static void check(boolean right, String field, Object value, String need) {
        if (!right) {
            throw new InputException("AdaLoraConfig: " + field + " is " + value + ", must be " + need);
        }
    }

    private static void checkSchedule(int tinit, int tfinal, int total) {
        if (tinit >= total - tfinal) {
            throw new InputException(
                    "AdaLoraConfig: tinit " + tinit + " and tfinal " + tfinal + " leave no step to allocate in " + total
                            + " steps; tinit + tfinal must be less than the number of steps");
        }
    }

    /// peft's defaults: from rank 12 to 8, allocation at every step, alpha 8.
    public static AdaLoraConfig defaults() {
        return new AdaLoraConfig(8, 12, 0, 0, 1, 0.85, 0.85, 0.5, null, true, LoraConfig.defaults(), null);
    }

    public AdaLoraConfig withRanks(int init, int target) {
        return new AdaLoraConfig(
                target, init, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, totalStep, shrink, lora, rankPattern);
    }

    public AdaLoraConfig withSchedule(int first, int last, int every) {
        return new AdaLoraConfig(
                targetR, initR, first, last, every, beta1, beta2, orthRegWeight, totalStep, shrink, lora, rankPattern);
    }

    public AdaLoraConfig withBetas(double sensitivity, double uncertainty) {
        return new AdaLoraConfig(
                targetR,
                initR,
                tinit,
                tfinal,
                deltaT,
                sensitivity,
                uncertainty,
                orthRegWeight,
                totalStep,
                shrink,
                lora,
                rankPattern);
    }

    public AdaLoraConfig withOrthRegWeight(double weight) {
        return new AdaLoraConfig(
                targetR, initR, tinit, tfinal, deltaT, beta1, beta2, weight, totalStep, shrink, lora, rankPattern);
    }

    public AdaLoraConfig withTotalStep(@Nullable Integer steps) {
        return new AdaLoraConfig(
                targetR, initR, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, steps, shrink, lora, rankPattern);
    }

    public AdaLoraConfig withShrink(boolean value) {
        return new AdaLoraConfig(
                targetR,
                initR,
                tinit,
                tfinal,
                deltaT,
                beta1,
                beta2,
                orthRegWeight,
                totalStep,
                value,
                lora,
                rankPattern);
    }

    /// The options shared with LoRA: alpha, dropout, targets, modules to save, task.
    public AdaLoraConfig withLora(LoraConfig shared) {
        return new AdaLoraConfig(
                targetR,
                initR,
                tinit,
                tfinal,
                deltaT,
                beta1,
                beta2,
                orthRegWeight,
                totalStep,
                shrink,
                shared,
                rankPattern);
    }

    private AdaLoraConfig withRankPattern(@Nullable Map<String, List<Boolean>> pattern) {
        return new AdaLoraConfig(
                targetR, initR, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, totalStep, shrink, lora, pattern);
    }

    @Override
    public String peftType() {
        return "ADALORA";
    }

    @Override
    public @Nullable TaskType taskType() {
        return lora.taskType();
    }

    @Override
    public boolean inferenceMode() {
        return lora.inferenceMode();
    }

    static AdaLoraConfig fromJson(ConfigJson json) {
        Map<String, List<Boolean>> pattern = null;
        if (json.has("rank_pattern")) {
            Map<String, List<Boolean>> live = new LinkedHashMap<>();
            json.object("rank_pattern").properties().forEach(e -> {
                List<Boolean> flags = new ArrayList<>();
                e.getValue().forEach(b -> flags.add(b.asBoolean()));
                live.put(e.getKey(), List.copyOf(flags));
            });
            pattern = live.isEmpty() ? null : live;
        }
        return new AdaLoraConfig(
                json.integer("target_r", 8),
                json.integer("init_r", 12),
                json.integer("tinit", 0),
                json.integer("tfinal", 0),
                json.integer("deltaT", 1),
                json.number("beta1", 0.85),
                json.number("beta2", 0.85),
                json.number("orth_reg_weight", 0.5),
                json.integerOrNull("total_step"),
                true,
                LoraConfig.sharedFromJson(json),
                pattern);
    }

    @Override
    public ObjectNode toJson() {
        ObjectNode n = lora.toJson();
        n.put("peft_type", peftType());
        n.put("target_r", targetR);
        n.put("init_r", initR);
        n.put("tinit", tinit);
        n.put("tfinal", tfinal);
        n.put("deltaT", deltaT);
        n.put("beta1", beta1);
        n.put("beta2", beta2);
        n.put("orth_reg_weight", orthRegWeight);
        n.put("total_step", totalStep);
        if (rankPattern == null) {
            n.putNull("rank_pattern");
        } else {
            ObjectNode pattern = n.putObject("rank_pattern");
            rankPattern.forEach((name, live) -> {
                ArrayNode flags = pattern.putArray(name);
                live.forEach(flags::add);
            });
        }
        return n;
    }

    @Override
    public Tuner attach(Attachment to) {
        Heads heads = lora.heads(to);
        Targets targets = lora.targetModules().or(to.model(), peftType(), lora.peftType());
        Targets.Limits limits = new Targets.Limits(
                lora.excludeModules(), lora.layersToTransform(), lora.layersPattern(), heads.names());
        Map<String, AdaptedLayer<?>> found = targets.resolve("target_modules", to, limits);
        boolean transposed = found.values().stream().anyMatch(l -> l instanceof Linear x && x.fanInFanOut());
        LoraConfig shared =
                lora.withTargets(targets).withModulesToSave(heads.names()).withFanInFanOut(transposed);
        Allocator tuner = new Allocator(withLora(shared), to);
        found.forEach((name, layer) -> {
            if (!(layer instanceof Linear linear)) {
                throw new InputException(
                        "target_modules: " + name + " is no linear layer; AdaLoRA adapts linear layers");
            }
            tuner.add(name, linear);
        });
        heads.place(tuner);
        shared.trainBiases(tuner, found.keySet());
        return tuner;
    }

    /// The adapted linear layer: A (r, in) and B (out, r) from N(0, 0.02²), E (r, 1) zero.
    static final class SvdLinear implements AroundLayer<Linear>, Mergeable<Linear>, LowRank.Source {
        private final String name;
        private final Tensor loraA;
        private final Tensor loraB;
        private final Tensor loraE;
        private final double scaling;
        private final @Nullable DropoutMask dropout;

        SvdLinear(Linear base, int r, double scaling, Attachment to, @Nullable DropoutMask dropout) {
            Backend be = to.backend();
            DType type = base.weight().dtype().accumulator();
            this.name = to.name();
            this.scaling = scaling;
            this.dropout = dropout;
            this.loraA = Tensor.randn(be, type, to.random(), 0.02, r, base.inFeatures())
                    .detachFromScope();
            this.loraB = Tensor.randn(be, type, to.random(), 0.02, base.outFeatures(), r)
                    .detachFromScope();
            this.loraE = Tensor.zeros(be, type, r, 1).detachFromScope();
        }

        /// Makes room for `r` triplets, all of them 0.
        void reshape(int r) {
            reshape(loraA, r, loraA.shape().cols());
            reshape(loraB, loraB.shape().rows(), r);
            reshape(loraE, r, 1);
        }

        private static void reshape(Tensor t, int... dims) {
            Shape shape = Shape.of(dims);
            Buffer zeros = t.backend().allocate(t.dtype(), shape.size());
            t.backend().fill(zeros, 0);
            t.assign(shape, zeros);
        }

        int rank() {
            return loraE.shape().dim(0);
        }

        /// y = x·Wᵀ + b + s · dropout(x)·(A ∘ E)ᵀ·Bᵀ; a layer of rank 0 is its base.
        @Override
        public Tensor forward(Linear base, Tensor x) {
            return Functional.projections(x, List.of(projection(base, x.dtype())))
                    .getFirst();
        }

        @Override
        public Projection projection(Linear base, DType type) {
            if (rank() == 0) {
                return base.projection(type);
            }
            Tensor a = Functional.cast(loraA.mul(loraE), type);
            Tensor b = Functional.cast(loraB, type);
            DropoutMask mask = base.isTraining() ? dropout : null;
            return new Projection(base.weight(), base.bias(type), new Functional.Lora(a, b, scaling, mask));
        }

        @Override
        public Tensor after(Linear base, Tensor x, Tensor y) {
            if (rank() == 0) {
                return y;
            }
            Tensor in = dropout != null && base.isTraining() ? Functional.dropout(x, dropout) : x;
            Tensor small = Functional.linear(in, Functional.cast(loraA.mul(loraE), x.dtype()), null);
            return y.add(Functional.linear(small, Functional.cast(loraB, x.dtype()), null)
                    .scale(scaling));
        }

        @Override
        public boolean isTerm() {
            return true;
        }

        /// W + s · B·diag(E)·A.
        @Override
        public void merge(Linear base, Merge merge) {
            if (rank() > 0) {
                Tensor b = Merge.wide(loraB).scale(scaling);
                Tensor a = Merge.wide(loraA).mul(Merge.wide(loraE));
                merge.put(base.weight(), merge.value(base.weight()).add(b.matmul(a)));
            }
        }

        @Override
        public LowRank factors() {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                return LowRank.of(loraB, loraA.mul(loraE));
            }
        }

        @Override
        public double scaling() {
            return scaling;
        }

        /// ‖A·Aᵀ − I‖ + ‖Bᵀ·B − I‖ (Frobenius), a scalar.
        Tensor penalty() {
            return distanceToIdentity(Functional.matmul(loraA, loraA, false, true))
                    .add(distanceToIdentity(Functional.matmul(loraB, loraB, true, false)));
        }

        private static Tensor distanceToIdentity(Tensor gram) {
            int r = gram.shape().cols();
            double[] identity = new double[r * r];
            for (int i = 0; i < r; i++) {
                identity[i * r + i] = 1;
            }
            Tensor difference = gram.sub(Tensor.of(gram.backend(), gram.dtype(), identity, r, r));
            return Functional.unary(UnaryFn.SQRT, difference.mul(difference).sum());
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept("lora_A." + name, loraA);
            visitor.accept("lora_B." + name, loraB);
            visitor.accept("lora_E." + name, loraE);
        }

        @Override
        public void close() {
            loraA.close();
            loraB.close();
            loraE.close();
        }
    }

    /// Peft's RankAllocator: smoothed importance of every entry, and who stays.
    static final class Allocator extends Tuner {
        private static final String RANK_PATTERN = "rank_pattern.";
        private static final String SMOOTH = "exp_avg_ipt.";
        private static final String SPREAD = "exp_avg_unc.";

        private final AdaLoraConfig config;
        private final Map<String, SvdLinear> layers = new LinkedHashMap<>();
        /// Smoothed sensitivity and uncertainty of each parameter, by its name; released after the last allocation.
        private final Map<String, Tensor> sensitivity = new LinkedHashMap<>();
        private final Map<String, Tensor> uncertainty = new LinkedHashMap<>();
        private @Nullable Map<String, List<Boolean>> rankPattern;
        private boolean compacted;
        private int total;

        Allocator(AdaLoraConfig config, Attachment to) {
            super(config, to);
            this.config = config;
            this.rankPattern = config.rankPattern == null ? null : new LinkedHashMap<>(config.rankPattern);
            this.compacted = rankPattern != null;
            this.total = config.totalStep == null ? 0 : config.totalStep;
        }

        void add(String module, Linear linear) {
            List<Boolean> live = rankPattern == null ? null : live(rankPattern, module + ".lora_E");
            if (rankPattern != null && live == null) {
                throw new InputException("rank_pattern: there is no entry for " + module + ".lora_E");
            }
            int r = live == null
                    ? config.initR
                    : (int) live.stream().filter(b -> b).count();
            double scaling = config.lora.loraAlpha() / (config.initR + 1e-5);
            SvdLinear adapter = new SvdLinear(
                    linear, r, scaling, attachment(), attachment().dropout(config.lora.loraDropout(), layers.size()));
            layers.put(module, adapter);
            place(module, linear, adapter);
        }

        /// The entry `name`, which files for a model with a head may have by its name below that.
        private @Nullable List<Boolean> live(Map<String, List<Boolean>> pattern, String name) {
            List<Boolean> below = pattern.remove(attachment().model().belowHead(name));
            if (below != null) {
                pattern.put(name, below);
            }
            return pattern.get(name);
        }

        private Map<String, List<Boolean>> inFile(Map<String, List<Boolean>> pattern) {
            Map<String, List<Boolean>> all = new LinkedHashMap<>();
            pattern.forEach((name, live) -> all.put(key(name).substring(prefix().length()), live));
            return all;
        }

        /// Live triplets of each adapted layer, by module name.
        @Override
        public Map<String, Integer> ranks() {
            Map<String, Integer> ranks = new LinkedHashMap<>();
            layers.forEach((module, layer) -> ranks.put(module, (int)
                    Arrays.stream(layer.loraE.toDoubles()).filter(e -> e != 0).count()));
            return ranks;
        }

        /// Weight times the mean over all A and B; layers without triplets count with 0.
        @Override
        public @Nullable Tensor penalty() {
            Tensor sum = null;
            for (SvdLinear layer : layers.values()) {
                if (layer.rank() > 0) {
                    sum = sum == null ? layer.penalty() : sum.add(layer.penalty());
                }
            }
            return sum == null || config.orthRegWeight == 0
                    ? null
                    : sum.scale(config.orthRegWeight / (2 * layers.size()));
        }

        @Override
        public void beginTraining(int totalSteps) {
            if (rankPattern != null) {
                // Ranks that are cut stay as they are, however long they are trained.
                return;
            }
            total = config.totalStep == null ? totalSteps : config.totalStep;
            if (total != totalSteps) {
                throw new InputException("AdaLoraConfig: total_step is " + total + " but training takes " + totalSteps
                        + " steps; leave total_step out, or make them equal");
            }
            checkSchedule(config.tinit, config.tfinal, total);
        }

        /// All but those that allocate, and those that read a mask back.
        @Override
        public boolean repeats(int step) {
            int last = total - config.tfinal;
            return compacted || rankPattern == null && step < last && !allocates(step);
        }

        private boolean allocates(int step) {
            return step > config.tinit && step % config.deltaT == 0;
        }

        @Override
        public void afterStep(int step, @Nullable Buffer gradScale, Optimizer optimizer) {
            int last = total - config.tfinal;
            if (compacted) {
                return;
            }
            if (rankPattern != null) {
                Map<String, List<Boolean>> pattern = rankPattern;
                layers.forEach((module, layer) -> mask(layer, flags(pattern, module)));
            } else if (step < last) {
                updateImportance(gradScale);
                if (allocates(step)) {
                    allocate(budget(step));
                }
            } else if (step == last) {
                rankPattern = allocate(budget(step));
                releaseStatistics();
                if (config.shrink) {
                    compact(optimizer);
                }
            }
        }

        /// b(t) of the paper's equation 12, over all layers.
        private int budget(int step) {
            int initial = config.initR * layers.size();
            int target = config.targetR * layers.size();
            if (step <= config.tinit) {
                return initial;
            }
            double left = 1 - (double) (step - config.tinit) / (total - config.tfinal - config.tinit);
            return (int) ((initial - target) * (left * left * left) + target);
        }

        /// See [OptimizerKernels#importance].
        private void updateImportance(@Nullable Buffer gradScale) {
            parametersOfLayers().forEach((name, p) -> {
                Tensor grad = p.grad();
                if (grad == null) {
                    return;
                }
                Tensor smooth = sensitivity.computeIfAbsent(name, k -> zeros(p));
                Tensor spread = uncertainty.computeIfAbsent(name, k -> zeros(p));
                p.backend()
                        .optimizer()
                        .importance(
                                smooth.buffer(),
                                spread.buffer(),
                                p.buffer(),
                                grad.buffer(),
                                gradScale,
                                config.beta1,
                                config.beta2);
            });
        }

        private static Tensor zeros(Tensor like) {
            Buffer b = like.backend().allocate(like.dtype(), like.shape().size());
            like.backend().fill(b, 0);
            return Tensor.own(like.shape(), b);
        }

        private Map<String, Tensor> parametersOfLayers() {
            Map<String, Tensor> all = new LinkedHashMap<>();
            layers.forEach((module, layer) -> layer.collect((local, t) -> all.put(module + "." + local, t)));
            return all;
        }

        /// Sets E to zero where a triplet's score is not above the k-th smallest of all, k = all − budget.
        private Map<String, List<Boolean>> allocate(int budget) {
            Map<String, double[]> scores = new LinkedHashMap<>();
            layers.forEach((module, layer) -> scores.put(module, scores(module, layer)));
            double[] sorted = scores.values().stream()
                    .flatMapToDouble(Arrays::stream)
                    .sorted()
                    .toArray();
            int k = sorted.length - budget;
            double threshold = k <= 0 ? Double.NEGATIVE_INFINITY : sorted[k - 1];
            Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
            layers.forEach((module, layer) -> {
                List<Boolean> live = Arrays.stream(scores.get(module))
                        .mapToObj(s -> s > threshold)
                        .toList();
                pattern.put(module + ".lora_E", live);
                mask(layer, live);
            });
            return pattern;
        }

        /// Score of each triplet: Ī·Ū of E's entry, plus its mean over A's row, plus its mean over B's column.
        private double[] scores(String module, SvdLinear layer) {
            String name = attachment().name();
            int r = layer.rank();
            double[] score = new double[r];
            float[] e = entryScores(module + ".lora_E." + name, layer.loraE);
            float[] a = entryScores(module + ".lora_A." + name, layer.loraA);
            float[] b = entryScores(module + ".lora_B." + name, layer.loraB);
            int in = layer.loraA.shape().cols();
            int out = layer.loraB.shape().rows();
            for (int i = 0; i < r; i++) {
                double row = 0;
                double column = 0;
                for (int j = 0; j < in; j++) {
                    row += a[i * in + j];
                }
                for (int j = 0; j < out; j++) {
                    column += b[j * r + i];
                }
                score[i] = e[i] + row / in + column / out;
            }
            return score;
        }

        private float[] entryScores(String name, Tensor parameter) {
            float[] scores = new float[Math.toIntExact(parameter.shape().size())];
            Tensor smooth = sensitivity.get(name);
            Tensor spread = uncertainty.get(name);
            if (smooth != null && spread != null) {
                float[] s = smooth.toFloats();
                float[] u = spread.toFloats();
                for (int i = 0; i < scores.length; i++) {
                    scores[i] = s[i] * u[i];
                }
            }
            return scores;
        }

        private static void mask(SvdLinear layer, List<Boolean> live) {
            double[] e = layer.loraE.toDoubles();
            for (int i = 0; i < e.length; i++) {
                e[i] = live.get(i) ? e[i] : 0;
            }
            try (Tensor masked = Tensor.of(layer.loraE.backend(), layer.loraE.dtype(), e, e.length, 1)) {
                layer.loraE.copyFrom(masked);
            }
        }

        private static List<Boolean> flags(Map<String, List<Boolean>> pattern, String module) {
            return java.util.Objects.requireNonNull(pattern.get(module + ".lora_E"), module);
        }

        private static int[] kept(List<Boolean> live) {
            return IntStream.range(0, live.size()).filter(live::get).toArray();
        }

        /// Takes the pruned triplets out of A, B, E and their moments.
        private void compact(Optimizer optimizer) {
            Map<String, List<Boolean>> pattern = java.util.Objects.requireNonNull(rankPattern);
            String name = attachment().name();
            layers.forEach((module, layer) -> {
                int[] keep = kept(flags(pattern, module));
                String full = key(module) + ".";
                optimizer.resize(full + "lora_A." + name, layer.loraA, 0, keep);
                optimizer.resize(full + "lora_B." + name, layer.loraB, 1, keep);
                optimizer.resize(full + "lora_E." + name, layer.loraE, 0, keep);
            });
            compacted = true;
        }

        private void releaseStatistics() {
            sensitivity.values().forEach(Tensor::close);
            uncertainty.values().forEach(Tensor::close);
            sensitivity.clear();
            uncertainty.clear();
        }

        /// After the last allocation the live triplets only, as peft writes them; before it, all.
        @Override
        public Map<String, Tensor> fileTensors() {
            Map<String, Tensor> all = super.fileTensors();
            if (rankPattern == null || compacted) {
                return all;
            }
            Map<String, List<Boolean>> pattern = rankPattern;
            layers.forEach((module, layer) -> {
                int[] keep = kept(flags(pattern, module));
                String full = key(module) + ".";
                all.put(full + "lora_A", rows(layer.loraA, keep));
                all.put(full + "lora_B", columns(layer.loraB, keep));
                all.put(full + "lora_E", rows(layer.loraE, keep));
            });
            return all;
        }

        private static Tensor rows(Tensor t, int... keep) {
            int cols = t.shape().cols();
            double[] all = t.toDoubles();
            double[] some = new double[keep.length * cols];
            for (int i = 0; i < keep.length; i++) {
                System.arraycopy(all, keep[i] * cols, some, i * cols, cols);
            }
            return Tensor.of(t.backend(), t.dtype(), some, keep.length, cols);
        }

        private static Tensor columns(Tensor t, int... keep) {
            int rows = t.shape().rows();
            int cols = t.shape().cols();
            double[] all = t.toDoubles();
            double[] some = new double[rows * keep.length];
            for (int i = 0; i < rows; i++) {
                for (int j = 0; j < keep.length; j++) {
                    some[i * keep.length + j] = all[i * cols + keep[j]];
                }
            }
            return Tensor.of(t.backend(), t.dtype(), some, rows, keep.length);
        }

        @Override
        public ObjectNode savedConfig() {
            return config.withTotalStep(total == 0 ? null : (Integer) total)
                    .withRankPattern(rankPattern == null ? null : inFile(rankPattern))
                    .toJson();
        }

        /// Statistics before the last allocation, which triplets are live (1) after it.
        @Override
        public Map<String, Tensor> trainingState() {
            Map<String, Tensor> state = new LinkedHashMap<>();
            if (rankPattern != null) {
                rankPattern.forEach((name, live) -> {
                    int[] flags = live.stream().mapToInt(b -> b ? 1 : 0).toArray();
                    state.put(RANK_PATTERN + name, Tensor.ofInts(attachment().backend(), flags, flags.length));
                });
            }
            sensitivity.forEach((name, t) -> state.put(SMOOTH + name, t));
            uncertainty.forEach((name, t) -> state.put(SPREAD + name, t));
            return state;
        }

        @Override
        public Map<String, Shape> shapes(Map<String, Tensor> state) {
            Map<String, Tensor> own = parametersOfLayers();
            Map<String, List<Boolean>> pattern = pattern(state);
            state.forEach((key, t) -> {
                String name = key.substring(key.indexOf('.') + 1);
                Tensor of = own.get(name);
                boolean known = key.startsWith(RANK_PATTERN)
                        ? pattern.containsKey(name) && t.shape().equals(Shape.of(config.initR))
                        : (key.startsWith(SMOOTH) || key.startsWith(SPREAD))
                                && of != null
                                && of.shape().equals(t.shape());
                if (!known) {
                    throw new IllegalArgumentException(title() + ": training state has " + key + " of " + t.shape()
                            + ", which does not belong to this adapter");
                }
            });
            if (!pattern.isEmpty() && pattern.size() != layers.size()) {
                throw new IllegalArgumentException(
                        title() + ": training state knows the ranks of " + pattern.keySet() + " alone");
            }
            Map<String, Shape> shapes = new LinkedHashMap<>();
            if (!pattern.isEmpty() && config.shrink && !compacted) {
                String name = attachment().name();
                layers.forEach((module, layer) -> {
                    int r = kept(flags(pattern, module)).length;
                    String full = prefix() + module + ".";
                    shapes.put(full + "lora_A." + name, layer.loraA.shape().withDim(0, r));
                    shapes.put(full + "lora_B." + name, layer.loraB.shape().withDim(1, r));
                    shapes.put(full + "lora_E." + name, layer.loraE.shape().withDim(0, r));
                });
            }
            return shapes;
        }

        /// Which triplets `state` says are live, by the names of `E`; empty before the last allocation.
        private Map<String, List<Boolean>> pattern(Map<String, Tensor> state) {
            Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
            layers.keySet().forEach(module -> {
                Tensor live = state.get(RANK_PATTERN + module + ".lora_E");
                if (live != null) {
                    pattern.put(
                            module + ".lora_E",
                            Arrays.stream(live.toDoubles())
                                    .mapToObj(b -> b != 0)
                                    .toList());
                }
            });
            return pattern;
        }

        @Override
        public void loadTrainingState(Map<String, Tensor> state) {
            Map<String, List<Boolean>> pattern = pattern(state);
            if (!pattern.isEmpty()) {
                rankPattern = pattern;
                if (config.shrink && !compacted) {
                    layers.forEach((module, layer) -> layer.reshape(kept(flags(pattern, module)).length));
                    compacted = true;
                }
            }
            parametersOfLayers().forEach((name, p) -> {
                Tensor smooth = state.get(SMOOTH + name);
                Tensor spread = state.get(SPREAD + name);
                if (smooth != null && spread != null) {
                    sensitivity.computeIfAbsent(name, k -> zeros(p)).copyFrom(smooth);
                    uncertainty.computeIfAbsent(name, k -> zeros(p)).copyFrom(spread);
                }
            });
        }

        @Override
        public void close() {
            releaseStatistics();
            super.close();
        }
    }
}
