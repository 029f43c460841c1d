package dev.loran.peft.task;

import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.Weights;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// Where the head of a task is placed: a model, and which part of it trains.
public final class Site {
    private final Model model;
    private final @Nullable PeftModel peft;
    private final TaskCard card;
    private final RandomGenerator random;
    private final @Nullable Path saved;

    private Site(Model model, @Nullable PeftModel peft, TaskCard card, RandomGenerator random, @Nullable Path saved) {
        this.model = model;
        this.peft = peft;
        this.card = card;
        this.random = random;
        this.saved = saved;
    }

    /// The active adapter trains, if there is one, with a new head.
    public static Site of(PeftModel peft, TaskCard card, long seed) {
        return new Site(peft.model(), peft, card, new SplittableRandom(seed), null);
    }

    /// The whole model trains, with a new head.
    public static Site whole(Model model, TaskCard card, long seed) {
        return new Site(model, null, card, new SplittableRandom(seed), null);
    }

    /// For using a trained adapter: its separate head, if it has one, is in `folder`.
    public static Site saved(PeftModel peft, TaskCard card, Path folder) {
        return new Site(peft.model(), peft, card, new SplittableRandom(0), folder);
    }

    /// The same with another card.
    Site with(TaskCard other) {
        return new Site(model, peft, other, random, saved);
    }

    public Model model() {
        return model;
    }

    /// The model with its adapters; null if the whole model trains.
    public @Nullable PeftModel peft() {
        return peft;
    }

    public TaskCard card() {
        return card;
    }

    /// The source of a new head's initial values.
    public RandomGenerator random() {
        return random;
    }

    /// The folder of a trained head; null for a new head.
    public @Nullable Path saved() {
        return saved;
    }

    /// Gives the model a new classification head of its family, which is then trained and saved as a part of the model
    /// or of the adapter.
    ///
    /// @param kind [TaskType#SEQ_CLS] or [TaskType#TOKEN_CLS]
    /// @return whether it was added: false if nothing of the model trains
    public boolean addClassifier(TaskType kind, int classes) {
        if (peft == null) {
            model.addClassifier(kind, classes, module -> false);
            List<Linear> layers = List.copyOf(model.headLayers().values());
            model.makeWritable();
            layers.forEach(layer -> Weights.drawHead(layer.weight(), random));
            return true;
        }
        if (peft.activeAdapter() == null) {
            return false;
        }
        peft.addClassifier(kind, classes, random);
        return true;
    }
}
