package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonIgnore;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// AdaLoRA: writes the update of each layer as a singular value decomposition, s · B·diag(E)·A. Its triplets (a column
/// of B, an entry of E, a row of A) compete across all layers for a rank budget that shrinks during training.
///
/// **Paper**: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023: importance
/// (equations 8 to 10), schedule (equation 12). The orthogonality penalty follows peft: the mean of the norms, where
/// the paper sums squared norms.
///
/// The trainer drives the allocator ([Tuner#afterStep]) with the gradients that the optimizer used. Between allocations
/// pruned triplets may revive, as in peft. After the last allocation, at step total − tfinal, they stay pruned. With
/// `shrink` they are then removed from the tensors, the optimizer's moments and the penalty; without it peft's
/// arithmetic is reproduced exactly. The ranks of the last allocation are also kept when a run is extended after it, or
/// when a new run starts from the saved adapter. Two faults of peft are not reproduced: a budget equal to the initial
/// one prunes nothing (peft fails), and an adapter saved before the last allocation keeps all its triplets.
///
/// @param targetR average rank per adapted layer at the end
/// @param initR initial rank of every layer; the scaling stays loraAlpha / (initR + 1e-5)
/// @param tinit optimizer steps before the first allocation
/// @param tfinal optimizer steps after the last one
/// @param deltaT steps between allocations
/// @param beta1 smoothing factor of the sensitivity
/// @param beta2 smoothing factor of its uncertainty
/// @param orthRegWeight weight of the orthogonality penalty
/// @param totalStep optimizer steps of the whole training; null: set by the trainer
/// @param shrink whether pruned triplets are removed from the tensors after the last allocation; not part of peft's
///     file
/// @param lora options shared with LoRA, except the rank: its r is ignored, and its rank pattern must be empty
/// @param rankPattern in a saved adapter, which triplets of each layer are live; null before the last allocation
public record AdaLoraConfig(
        int targetR,
        int initR,
        int tinit,
        int tfinal,
        @JsonProperty("deltaT") int deltaT,
        double beta1,
        double beta2,
        double orthRegWeight,
        @Nullable Integer totalStep,
        @JsonIgnore boolean shrink,
        @JsonIgnore LoraConfig lora,
        @Nullable Map<String, List<Boolean>> rankPattern)
        implements PeftConfig {
    private static final String PATTERN = "rank_pattern";

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

    static void checkSchedule(int tinit, int tfinal, int total) {
        if (tinit >= total - tfinal) {
            throw new InputException(
                    "AdaLoraConfig: tinit " + tinit + " and tfinal " + tfinal + " leave no step to allocate in " + total
                            + " steps; tinit + tfinal must be less than the number of steps");
        }
    }

    /// peft's defaults: rank 12 reduced to 8, an allocation at every step, alpha 8.
    public static AdaLoraConfig defaults() {
        return fromJson(new ConfigJson("ADALORA", JsonNodeFactory.instance.objectNode()));
    }

    private AdaLoraConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, json -> read(json, shrink), change);
    }

    public AdaLoraConfig withRanks(int init, int target) {
        return with(n -> n.put("init_r", init).put("target_r", target));
    }

    public AdaLoraConfig withSchedule(int first, int last, int every) {
        return with(n -> n.put("tinit", first).put("tfinal", last).put("deltaT", every));
    }

    public AdaLoraConfig withBetas(double sensitivity, double uncertainty) {
        return with(n -> n.put("beta1", sensitivity).put("beta2", uncertainty));
    }

    public AdaLoraConfig withOrthRegWeight(double weight) {
        return with(n -> n.put("orth_reg_weight", weight));
    }

    public AdaLoraConfig withTotalStep(@Nullable Integer steps) {
        return with(n -> n.put("total_step", steps));
    }

    public AdaLoraConfig withShrink(boolean value) {
        return ConfigJson.copy(this, json -> read(json, value), n -> {});
    }

    /// The options shared with LoRA: alpha, dropout, targets, modules to save, task.
    public AdaLoraConfig withLora(LoraConfig shared) {
        ObjectNode json = shared.toJson();
        json.remove(List.of("peft_type", PATTERN));
        return with(n -> n.setAll(json));
    }

    AdaLoraConfig withRankPattern(@Nullable Map<String, List<Boolean>> pattern) {
        return with(n -> ConfigJson.put(n, PATTERN, pattern));
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
        return read(json, true);
    }

    private static AdaLoraConfig read(ConfigJson json, boolean shrink) {
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
                shrink,
                LoraConfig.read(json, Map.of()),
                readPattern(json));
    }

    private static @Nullable Map<String, List<Boolean>> readPattern(ConfigJson json) {
        if (!json.has(PATTERN)) {
            return null;
        }
        Map<String, List<Boolean>> live = new LinkedHashMap<>();
        json.object(PATTERN).properties().forEach(e -> {
            List<Boolean> flags = new ArrayList<>();
            e.getValue().forEach(b -> flags.add(b.asBoolean()));
            live.put(e.getKey(), List.copyOf(flags));
        });
        return live.isEmpty() ? null : live;
    }

    @Override
    public ObjectNode toJson() {
        return lora.toJson().setAll(ConfigJson.of(this));
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
        RankAllocator tuner = new RankAllocator(withLora(shared), to);
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
        final Tensor loraA;
        final Tensor loraB;
        final Tensor loraE;
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

        /// Resizes the tensors to `r` triplets, all zero.
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

        /// y = x·Wᵀ + b + s · dropout(x)·(A ∘ E)ᵀ·Bᵀ; a layer of rank 0 returns the base layer's output.
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
}
