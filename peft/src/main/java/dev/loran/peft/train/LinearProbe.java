package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Head;
import dev.loran.peft.task.Task;
import java.nio.file.Path;
import java.util.Map;
import java.util.SplittableRandom;

/// Measures what a frozen model can already do. Only the head is trained, in the way an adapter's head would be (same
/// rows, batches, epochs, rate and initialization), on hidden states that are computed once. **Source**: Alain and
/// Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
public final class LinearProbe {
    private LinearProbe() {}

    /// The evaluation on the held-out rows after training a new head on `examples`.
    ///
    /// @param model classifies with a [dev.loran.peft.task.TextClassifier] and must behave as the base model does: its
    ///     adapter is new or disabled
    /// @param config as for the adapter; the head's rate is the peak rate times the head's factor
    public static Evaluation evaluate(
            TaskModel model, Examples examples, Examples heldOut, TrainerConfig config, long seed) {
        try (Table train = Table.of(model, examples, config.batchSize());
                Table held = Table.of(model, heldOut, config.batchSize());
                Probe probe = new Probe(train, examples.labels().size(), seed);
                Trainer trainer = new Trainer(probe, config)) {
            trainer.train(examples, null, null, new TrainingListener() {});
            probe.table = held;
            return Evaluation.of(probe, heldOut, config.batchSize());
        }
    }

    /// The pooled hidden states of every row, (N, C).
    private record Table(Tensor rows) implements AutoCloseable {
        static Table of(TaskModel model, Examples examples, int batchSize) {
            Backend backend = model.backend();
            int c = model.model().facts().hiddenSize();
            double[] values = new double[examples.size() * c];
            model.train(false);
            try (Autograd.Mode mode = Autograd.noGrad()) {
                for (Batch batch : new DataLoader(examples, DataLoader.Options.evaluation(batchSize)).epoch(0)) {
                    try (Scope scope = Scope.open()) {
                        double[] pooled = model.pooled(batch).toDoubles();
                        for (int i = 0; i < batch.batchSize(); i++) {
                            System.arraycopy(pooled, i * c, values, batch.rows()[i] * c, c);
                        }
                    }
                }
            }
            return new Table(Tensor.of(backend, model.dtype(), values, examples.size(), c)
                    .detachFromScope());
        }

        @Override
        public void close() {
            rows.close();
        }
    }

    /// The head alone, trained on a table's rows.
    private static final class Probe implements Learner, AutoCloseable {
        private final Linear head;
        private Table table;

        Probe(Table table, int labels, long seed) {
            this.table = table;
            int width = table.rows.shape().dim(1);
            head = Head.newLinear(backend(), dtype(), width, labels, new SplittableRandom(seed));
            head.requiresGrad(true);
        }

        @Override
        public Task task() {
            return new ClassifyTask();
        }

        @Override
        public Backend backend() {
            return table.rows.backend();
        }

        @Override
        public DType dtype() {
            return table.rows.dtype();
        }

        @Override
        public Map<String, Tensor> parameters() {
            return head.namedParameters();
        }

        @Override
        public boolean isHead(String name) {
            return true;
        }

        @Override
        public Tensor logits(Batch batch) {
            Tensor ids = Tensor.ofInts(backend(), batch.rows(), batch.batchSize());
            return head.forward(Functional.embedding(table.rows, ids));
        }

        @Override
        public Tensor loss(Batch batch) {
            Tensor labels = Tensor.ofInts(backend(), batch.labels(), batch.batchSize());
            return Functional.crossEntropy(logits(batch), labels, Batch.IGNORE);
        }

        @Override
        public void save(Path folder) {
            throw new UnsupportedOperationException("a probe is measured, not kept");
        }

        @Override
        public void close() {
            head.close();
        }
    }
}
