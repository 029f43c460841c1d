package dev.loran.peft.continual;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;

/// What a model does, while it learns a task, to keep what it learned from the tasks before.
///
/// | name | adapters | what protects the earlier tasks |
/// |---|---|---|
/// | sequential | one, trained on all tasks in turn | nothing: the baseline |
/// | separate | one per task | each task has its own adapter and head; it must be known which task a text is from |
/// | rehearsal | one | a fixed number of rows of the earlier tasks is trained on again |
/// | l2 | one | its parameters are pulled towards their values after the task before |
/// | ewc | one | the same, each parameter by its importance for the earlier tasks |
/// | olora | one LoRA per task, all added up | the earlier ones are frozen, and the new one is kept orthogonal |
///
/// Where tasks have classes, the head gains rows for those of a new task and keeps the others; with `separate`, each
/// task has a head for its own classes.
public sealed interface Strategy {
    /// The name on the command line.
    String name();

    /// The name with the options, as a run records them.
    default ObjectNode toJson() {
        return JsonNodeFactory.instance.objectNode().put("name", name());
    }

    /// Plain fine-tuning of one adapter on one task after the other.
    record Sequential() implements Strategy {
        @Override
        public String name() {
            return "sequential";
        }
    }

    /// One adapter and one head for each task; nothing is shared but the frozen base.
    record Separate() implements Strategy {
        @Override
        public String name() {
            return "separate";
        }
    }

    /// A uniform sample of all rows of the earlier tasks is added to the rows of a task.
    /// **Papers**: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019; Vitter, "Random Sampling
    /// with a Reservoir", 1985, algorithm R, which draws the sample.
    ///
    /// @param memory the number of rows that are kept
    record Rehearsal(int memory) implements Strategy {
        public Rehearsal {
            check(memory >= 1, "rehearsal", "memory", memory, "at least 1");
        }

        @Override
        public String name() {
            return "rehearsal";
        }

        @Override
        public ObjectNode toJson() {
            return Strategy.super.toJson().put("memory", memory);
        }
    }

    /// Adds λ/2 · Σ (θ − θ*)² to the loss; θ* are the values after the task before. New rows of the head have none.
    ///
    /// @param lambda λ
    record L2(double lambda) implements Strategy {
        public L2 {
            check(isStrength(lambda), "l2", "lambda", lambda, "positive and finite");
        }

        @Override
        public String name() {
            return "l2";
        }

        @Override
        public ObjectNode toJson() {
            return Strategy.super.toJson().put("lambda", lambda);
        }
    }

    /// Elastic weight consolidation: adds λ/2 · Σ F · (θ − θ*)² to the loss, where F is the diagonal of the empirical
    /// Fisher information on the rows of the earlier tasks. It is accumulated, F ← decay · F + F of the new task, so
    /// that there is one anchor whatever the number of tasks.
    /// **Papers**: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, equation 3;
    /// Schwarz et al., "Progress & Compress", 2018 (the accumulated form).
    ///
    /// @param lambda λ
    /// @param decay the weight of the earlier tasks' information, from 0 to 1
    /// @param rows the number of rows of a task from which F is computed, one gradient each
    record Ewc(double lambda, double decay, int rows) implements Strategy {
        public Ewc {
            check(isStrength(lambda), "ewc", "lambda", lambda, "positive and finite");
            check(decay >= 0 && decay <= 1, "ewc", "decay of the Fisher information", decay, "from 0 to 1");
            check(rows >= 1, "ewc", "number of rows for the Fisher information", rows, "at least 1");
        }

        @Override
        public String name() {
            return "ewc";
        }

        @Override
        public ObjectNode toJson() {
            return Strategy.super
                    .toJson()
                    .put("lambda", lambda)
                    .put("fisher_decay", decay)
                    .put("fisher_rows", rows);
        }
    }

    /// O-LoRA: each task trains a new LoRA in addition to the frozen ones of the earlier tasks, and λ · Σ ‖Aᵢ·Aᵀ‖² is
    /// added to the loss, over all layers and earlier tasks i, in the squared Frobenius norm.
    /// **Paper**: Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", 2023 (whose A
    /// is transposed).
    ///
    /// @param lambda λ
    record OrthogonalLora(double lambda) implements Strategy {
        public OrthogonalLora {
            check(isStrength(lambda), "olora", "lambda", lambda, "positive and finite");
        }

        @Override
        public String name() {
            return "olora";
        }

        @Override
        public ObjectNode toJson() {
            return Strategy.super.toJson().put("lambda", lambda);
        }
    }

    private static boolean isStrength(double lambda) {
        return lambda > 0 && Double.isFinite(lambda);
    }

    private static void check(boolean right, String strategy, String what, Object value, String need) {
        if (!right) {
            throw new InputException("strategy " + strategy + ": " + what + " is " + value + ", must be " + need);
        }
    }
}
