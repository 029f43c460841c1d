package dev.loran.peft.cli;

import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import org.jspecify.annotations.Nullable;

/// A model that a method is about to train for a task. Closing leaves the model alone, as it was before.
///
/// @param peft holds the adapter; null where the whole model trains
record Subject(@Nullable PeftModel peft, TaskModel learner) implements AutoCloseable {
    /// Puts the method `config` onto `model`, or makes all of it train where that is null.
    static Subject of(Model model, @Nullable PeftConfig config, TaskCard card, long seed) {
        if (config == null) {
            return new Subject(null, TaskModel.full(model, card, seed));
        }
        PeftModel peft = new PeftModel(model, seed);
        boolean done = false;
        try {
            peft.addAdapter(PeftModel.DEFAULT_ADAPTER, config);
            Subject subject = new Subject(peft, TaskModel.of(peft, card, seed));
            done = true;
            return subject;
        } finally {
            if (!done) {
                peft.close();
            }
        }
    }

    /// Puts the adapter of `init` onto `model`, with its weights.
    ///
    /// @param head whether its head is taken
    static Subject of(Model model, InitAdapter init, boolean head, TaskCard card, long seed) {
        PeftModel peft = new PeftModel(model, seed);
        boolean done = false;
        try {
            peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, init.folder(), head);
            TaskModel learner = TaskModel.of(peft, card, seed);
            if (head && TextClassifier.isIn(init.folder())) {
                learner.loadHead(init.folder());
            }
            done = true;
            return new Subject(peft, learner);
        } finally {
            if (!done) {
                peft.close();
            }
        }
    }

    @Override
    public void close() {
        learner.close();
        if (peft != null) {
            peft.close();
        }
    }
}
