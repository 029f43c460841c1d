package dev.loran.peft;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.tuner.PeftConfig;
import java.util.List;
import java.util.Map;
import java.util.Set;

/// Single training steps for a loop of your own: a [Trainer] over a model with one adapter, at a constant learning
/// rate. For runs with schedules, evaluation and checkpoints, use [Trainer#train].
///
/// As with [EfficientFineTuningManager], the names and defaults (`lr` 1e-4, `weight_decay` 0.01, `betas` 0.9 and 0.999,
/// `max_grad_norm` 1) come from a project on SEO texts and are kept for users who know them.
///
/// ```java
/// try (PeftTrainer trainer = new PeftTrainer(model, config, Map.of("lr", 1e-4, "weight_decay", 0.01))) {
///     for (Batch batch : loader.epoch(0)) {
///         Map<String, Double> metrics = trainer.trainStep(batch);    // loss, lr
///     }
/// }
/// ```
public final class PeftTrainer implements AutoCloseable {
    private static final Set<String> OPTIONS = Set.of("lr", "weight_decay", "betas", "max_grad_norm", "total_steps");
    private static final long SEED = 42;

    private final EfficientFineTuningManager manager;
    private final TaskModel learner;
    private final Trainer trainer;

    /// Attaches `config` to `model` and trains with the model's own head: a causal model, or one with a classifier.
    ///
    /// @param optimizerConfig `lr` (1e-4), `weight_decay` (0.01), `betas` (0.9 and 0.999; others are refused),
    ///     `max_grad_norm` (1), `total_steps` (required by AdaLoRA, whose rank allocation depends on it)
    /// @throws InputException for unknown options, or if configuration and model do not fit together
    public PeftTrainer(Model model, PeftConfig config, Map<String, ?> optimizerConfig) {
        optimizerConfig.keySet().stream()
                .filter(k -> !OPTIONS.contains(k))
                .findFirst()
                .ifPresent(k -> {
                    throw new InputException("optimizer_config: " + k
                            + " is not known; known are lr, weight_decay, betas, max_grad_norm, total_steps");
                });
        if (!List.of(0.9, 0.999)
                .equals(optimizerConfig.containsKey("betas") ? optimizerConfig.get("betas") : List.of(0.9, 0.999))) {
            throw new InputException("optimizer_config: betas are " + optimizerConfig.get("betas")
                    + "; this trainer has [0.9, 0.999], use dev.loran.engine.optim.AdamW in a loop of your own"
                    + " for others");
        }
        TrainerConfig.Rate rate =
                new TrainerConfig.Rate(number(optimizerConfig, "lr", 1e-4), 1, TrainerConfig.Schedule.CONSTANT, 0);
        TrainerConfig options = TrainerConfig.defaults()
                .withRate(rate)
                .withWeightDecay(number(optimizerConfig, "weight_decay", 0.01))
                .withMaxGradNorm(number(optimizerConfig, "max_grad_norm", 1))
                .withSteps((int) number(optimizerConfig, "total_steps", Integer.MAX_VALUE));
        manager = Peft.applyPeftToModel(model, config);
        try {
            learner = TaskModel.of(manager.peftModel(), card(model), SEED);
            trainer = new Trainer(learner, options);
        } catch (RuntimeException e) {
            manager.close();
            throw e;
        }
    }

    private static double number(Map<String, ?> options, String key, double otherwise) {
        Object value = options.containsKey(key) ? options.get(key) : (Double) otherwise;
        if (value instanceof Number n) {
            return n.doubleValue();
        }
        throw new InputException("optimizer_config: " + key + " is " + value + ", needs a number");
    }

    private static TaskCard card(Model model) {
        int longest = model.facts().maxPositions();
        if (model.task() == TaskType.CAUSAL_LM) {
            return TaskCard.of(new LmTask(), longest);
        }
        if (model.task() == TaskType.SEQ_CLS) {
            return TaskCard.classify(new Labels(model.labels()), longest);
        }
        throw new InputException(
                "PeftTrainer: an encoder without a head has no loss; use TaskModel, which brings one, and Trainer");
    }

    /// Forward, backward, clipping and AdamW on one batch. Returns the `loss` before the step, and `lr`.
    public Map<String, Double> trainStep(Batch batch) {
        StepResult result = trainer.trainStep(batch);
        return Map.of("loss", result.loss(), "lr", result.learningRate());
    }

    /// The adapter, for saving and counting.
    public EfficientFineTuningManager manager() {
        return manager;
    }

    /// Closes the optimizer and the adapter, but not the model.
    @Override
    public void close() {
        trainer.close();
        learner.close();
        manager.close();
    }
}
