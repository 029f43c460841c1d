package dev.loran.peft.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.LrSchedule;
import dev.loran.engine.optim.Optimizer;
import dev.loran.engine.optim.ParameterGroup;
import dev.loran.engine.optim.Sgd;
import dev.loran.peft.io.InputException;
import java.util.List;
import java.util.Locale;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// How a [Trainer] trains, on batches of rows of similar length.
///
/// @param epochs passes over the data, used if `steps` is 0
/// @param steps optimizer steps; 0 to use `epochs`
/// @param batchSize rows per micro-batch
/// @param accumulation micro-batches per step: their gradients add up to those of one batch of all their rows
/// @param rate the learning rate over the run
/// @param optimizer the optimizer
/// @param weightDecay decoupled, for all trainable parameters
/// @param maxGradNorm gradients are scaled down to this global norm; infinity for no clipping
/// @param lossScale the initial scale of [dev.loran.engine.optim.GradScaler], for types in which small gradients
///     underflow: usually 65536; 0 for no scaling, which F32 and BF16 do not need
/// @param evalEvery steps between evaluations; 0 for one after each epoch. One always follows the last step
/// @param patience evaluations without a better loss after which training stops; 0 to never stop early
/// @param seed determines the order of the rows
/// @param checkpoints how often a run with a folder writes checkpoints to resume from
/// @param skipBadSteps how many steps with NaN or infinite loss or gradients are skipped before another one ends the
///     run
/// @param spikesToKeep the rows of the first so many steps whose loss or gradients jump ([SpikeWatch]) are kept in the
///     run's folder; 0 to not watch for such steps
public record TrainerConfig(
        int epochs,
        int steps,
        int batchSize,
        int accumulation,
        Rate rate,
        Optimization optimizer,
        double weightDecay,
        double maxGradNorm,
        double lossScale,
        int evalEvery,
        int patience,
        long seed,
        Checkpoints checkpoints,
        int skipBadSteps,
        int spikesToKeep) {
    private static final ObjectMapper JSON =
            new ObjectMapper().enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES);

    public TrainerConfig {
        check(skipBadSteps >= 0, "number of bad steps to leave out", skipBadSteps, "at least 0");
        check(spikesToKeep >= 0, "number of spikes to keep", spikesToKeep, "at least 1, or 0 to not watch for them");
        check(epochs >= 1, "epochs", epochs, "at least 1");
        check(steps >= 0, "steps", steps, "at least 1, or 0 to go by epochs");
        check(batchSize >= 1, "batch size", batchSize, "at least 1");
        check(accumulation >= 1, "accumulation", accumulation, "at least 1");
        check(weightDecay >= 0 && weightDecay < 1e6, "weight decay", weightDecay, "at least 0 and less than 1e6");
        check(maxGradNorm > 0, "largest gradient norm", maxGradNorm, "positive");
        check(lossScale >= 0 && lossScale <= Float.MAX_VALUE, "loss scale", lossScale, "positive, or 0 for none");
        check(evalEvery >= 0, "steps between evaluations", evalEvery, "at least 1, or 0 for one after each epoch");
        check(patience >= 0, "patience", patience, "at least 1, or 0 to never stop early");
    }

    private static void check(boolean right, String what, Object value, String need) {
        if (!right) {
            throw new InputException(what + " is " + value + ", must be " + need);
        }
    }

    /// Three epochs of batches of 16 rows, [Rate#defaults], AdamW, weight decay 0.01, gradients clipped at 1, an
    /// evaluation after each epoch, no early stopping, seed 42, [Checkpoints#defaults].
    public static TrainerConfig defaults() {
        return new TrainerConfig(
                3,
                0,
                16,
                1,
                Rate.defaults(),
                Optimization.adamW(),
                0.01,
                1,
                0,
                0,
                0,
                42,
                Checkpoints.defaults(),
                0,
                10);
    }

    /// The number of optimizer steps of a run over `rows` rows.
    public int stepsOver(int rows) {
        int batches = Math.ceilDiv(rows, batchSize);
        return steps > 0 ? steps : Math.multiplyExact(epochs, Math.ceilDiv(batches, accumulation));
    }

    /// Trains for a number of epochs.
    public TrainerConfig withEpochs(int number) {
        return with(n -> n.put("epochs", number).put("steps", 0));
    }

    public TrainerConfig withSteps(int number) {
        return with(n -> n.put("steps", number));
    }

    /// Sets the batch: each step takes `microBatches` batches of `rows` rows.
    public TrainerConfig withBatch(int rows, int microBatches) {
        return with(n -> n.put("batchSize", rows).put("accumulation", microBatches));
    }

    public TrainerConfig withRate(Rate next) {
        return with(n -> n.putPOJO("rate", next));
    }

    public TrainerConfig withOptimizer(Optimization next) {
        return with(n -> n.putPOJO("optimizer", next));
    }

    public TrainerConfig withWeightDecay(double decay) {
        return with(n -> n.put("weightDecay", decay));
    }

    public TrainerConfig withMaxGradNorm(double norm) {
        return with(n -> n.put("maxGradNorm", norm));
    }

    public TrainerConfig withLossScale(double first) {
        return with(n -> n.put("lossScale", first));
    }

    public TrainerConfig withEvaluation(int everySteps, int evaluationsToWait) {
        return with(n -> n.put("evalEvery", everySteps).put("patience", evaluationsToWait));
    }

    public TrainerConfig withSeed(long number) {
        return with(n -> n.put("seed", number));
    }

    public TrainerConfig withCheckpoints(Checkpoints next) {
        return with(n -> n.putPOJO("checkpoints", next));
    }

    public TrainerConfig withSkippedBadSteps(int most) {
        return with(n -> n.put("skipBadSteps", most));
    }

    public TrainerConfig withSpikesToKeep(int most) {
        return with(n -> n.put("spikesToKeep", most));
    }

    /// A copy with some components changed, by their names.
    private TrainerConfig with(Consumer<ObjectNode> change) {
        ObjectNode components = JSON.valueToTree(this);
        change.accept(components);
        try {
            return JSON.treeToValue(components, TrainerConfig.class);
        } catch (JsonProcessingException e) {
            throw e.getCause() instanceof InputException wrong ? wrong : new IllegalStateException(e);
        }
    }

    /// The optimizer, and the ratio between the learning rates of a method's parameters.
    ///
    /// @param kind which optimizer
    /// @param momentum the momentum of [Kind#SGD]
    /// @param loraPlusRatio the learning rate of LoRA's B divided by that of its A ([dev.loran.peft.tuner.LoraPlus]): 1
    ///     for the same rate, around 16 for LoRA+
    public record Optimization(Kind kind, double momentum, double loraPlusRatio) {
        private static final double MOMENTUM = 0.9;

        /// The optimizers of [dev.loran.engine.optim].
        public enum Kind {
            ADAMW,
            SGD;

            /// The optimizer with the lower-case name `name`.
            ///
            /// @throws InputException for any other name
            public static Kind named(String name) {
                for (Kind kind : values()) {
                    if (kind.toString().equals(name)) {
                        return kind;
                    }
                }
                throw new InputException("optimizer \"" + name + "\" is not known; choose adamw or sgd");
            }

            /// The name in lower case.
            @Override
            public String toString() {
                return name().toLowerCase(Locale.ROOT);
            }
        }

        public Optimization {
            check(momentum >= 0 && momentum < 1, "momentum", momentum, "at least 0 and less than 1");
            boolean right = loraPlusRatio >= 1 && loraPlusRatio < 1e6;
            check(right, "LoRA+ ratio", loraPlusRatio, "at least 1 and less than 1e6");
        }

        /// AdamW with betas 0.9 and 0.999 and eps 1e-8.
        public static Optimization adamW() {
            return of(Kind.ADAMW);
        }

        /// An optimizer with momentum 0.9, if it has momentum, and the same rate for all parameters of a method.
        public static Optimization of(Kind kind) {
            return new Optimization(kind, kind == Kind.SGD ? MOMENTUM : 0, 1);
        }

        public Optimization withLoraPlus(double ratio) {
            return new Optimization(kind, momentum, ratio);
        }

        /// Creates the optimizer for parameters of `dtype` on `backend`.
        ///
        /// @param weightDecay for parameters that are in no group
        /// @param groups the parameters with settings of their own
        Optimizer make(Backend backend, DType dtype, double weightDecay, List<ParameterGroup> groups) {
            ParameterGroup[] all = groups.toArray(ParameterGroup[]::new);
            return switch (kind) {
                case ADAMW -> new AdamW(backend, dtype, AdamW.Config.of(weightDecay, all));
                case SGD -> new Sgd(backend, dtype, momentum, weightDecay, all);
            };
        }
    }

    /// The checkpoints of a run; if there are any, one is also written after the last step.
    ///
    /// @param everySteps steps between checkpoints; 0 for none
    /// @param keep how many of the newest are kept; older ones are removed
    public record Checkpoints(int everySteps, int keep) {
        public Checkpoints {
            check(everySteps >= 0, "steps between checkpoints", everySteps, "at least 1, or 0 for none");
            check(keep >= 1, "number of checkpoints to keep", keep, "at least 1");
        }

        /// A checkpoint every 500 steps; the newest 2 are kept.
        public static Checkpoints defaults() {
            return new Checkpoints(500, 2);
        }
    }

    /// The learning rate over a run.
    ///
    /// @param peak the highest rate
    /// @param headFactor the head's rate as a multiple of `peak`: only the head starts from random weights
    /// @param schedule what follows the warm-up
    /// @param warmupSteps steps of rising rate; null for 20, or a fifth of the run if that is less
    public record Rate(
            double peak,
            double headFactor,
            Schedule schedule,
            @Nullable Integer warmupSteps) {
        private static final int WARMUP = 20;

        public Rate {
            check(peak > 0 && peak < 1e6, "learning rate", peak, "positive and less than 1e6");
            check(
                    headFactor >= 0 && headFactor < 1e6,
                    "factor of the head's learning rate",
                    headFactor,
                    "at least 0 and less than 1e6");
            check(
                    warmupSteps == null || warmupSteps >= 0,
                    "number of warm-up steps",
                    String.valueOf(warmupSteps),
                    "at least 0");
        }

        /// Peak 5e-4, five times that for the head, the default warm-up, then linear decay.
        public static Rate defaults() {
            return of(5e-4);
        }

        /// As [#defaults] with another peak.
        public static Rate of(double peak) {
            return new Rate(peak, 5, Schedule.LINEAR, null);
        }

        /// The number of warm-up steps in a run of `totalSteps`.
        int warmupOf(int totalSteps) {
            return warmupSteps == null ? Math.min(WARMUP, totalSteps / 5) : warmupSteps;
        }

        /// The learning rate at each step of a run of `totalSteps`, as a fraction of the peak.
        ///
        /// @throws InputException if the warm-up does not end before the run
        LrSchedule over(int totalSteps) {
            return over(totalSteps, warmupOf(totalSteps));
        }

        /// As above, with `warmup` warm-up steps.
        ///
        /// @throws InputException if the warm-up does not end before the run
        LrSchedule over(int totalSteps, int warmup) {
            if (warmup > 0 && warmup >= totalSteps) {
                throw new InputException("a warm-up of " + warmup + " steps does not fit a run of " + totalSteps
                        + "; warm up for fewer, or train longer");
            }
            return switch (schedule) {
                case CONSTANT -> new LrSchedule.Constant(warmup);
                case LINEAR -> new LrSchedule.Linear(warmup, totalSteps);
                case COSINE -> new LrSchedule.Cosine(warmup, totalSteps);
            };
        }
    }

    /// The shape of the learning rate after the warm-up.
    public enum Schedule {
        CONSTANT,
        /// Linear decay to 0.
        LINEAR,
        /// Half a cosine, decaying to 0.
        COSINE;

        /// The schedule with the lower-case name `name`.
        ///
        /// @throws InputException for any other name
        public static Schedule named(String name) {
            for (Schedule s : values()) {
                if (s.toString().equals(name)) {
                    return s;
                }
            }
            throw new InputException("schedule \"" + name + "\" is not known; choose constant, linear or cosine");
        }

        /// The name in lower case.
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }
}
