package dev.loran.peft.cli;

import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import org.jspecify.annotations.Nullable;

/// A model that is to be trained for a task with a method. Closing restores the model to its previous state, but does
/// not close it.
///
/// @param peft holds the adapter; null if the whole model trains
record Subject(@Nullable PeftModel peft, TaskModel learner) implements AutoCloseable {
    /// Adds the method `config` to `model`, or makes all of it trainable if `config` is null.
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

    /// Adds the adapter of `init` to `model`, with its weights.
    ///
    /// @param head whether its head is used
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
