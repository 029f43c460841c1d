package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.RougeL;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.Task;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class EvaluationTest {
    /// Answers each row of a batch with predefined scores for its number.
    private record Oracle(Task task, Backend backend, double[][] answers) implements Learner {
        @Override
        public DType dtype() {
            return DType.F64;
        }

        @Override
        public Map<String, Tensor> parameters() {
            return Map.of();
        }

        /// The mean over the batch of a loss of 1 + row for each predicted token of a row.
        @Override
        public Tensor loss(Batch batch) {
            double sum = 0;
            for (int b = 0; b < batch.batchSize(); b++) {
                for (int t = 1; t < batch.length(); t++) {
                    sum += batch.labels()[b * batch.length() + t] == Batch.IGNORE ? 0 : 1 + batch.rows()[b];
                }
            }
            return Tensor.full(backend, DType.F64, sum / batch.lossTerms());
        }

        @Override
        public Tensor logits(Batch batch) {
            List<Double> values = new ArrayList<>();
            for (int row : batch.rows()) {
                for (double v : answers[row]) {
                    values.add(v);
                }
            }
            double[] flat = values.stream().mapToDouble(Double::doubleValue).toArray();
            return Tensor.of(backend, DType.F64, flat, batch.batchSize(), flat.length / batch.batchSize());
        }

        @Override
        public void save(Path folder) {
            throw new AssertionError("an evaluation saves nothing");
        }
    }

    @Test
    void accuracyLossAndF1AreThoseOfTheConfusionMatrix() {
        // Truth a a a b b c; answers a a b b b b; the fourth class appears nowhere.
        List<Row.Classify> rows = List.of(
                new Row.Classify("red", "a"),
                new Row.Classify("red red red red", "a"),
                new Row.Classify("red red", "a"),
                new Row.Classify("red red red", "b"),
                new Row.Classify("red", "b"),
                new Row.Classify("red red red red red", "c"));
        int[] answers = {0, 0, 1, 1, 1, 1};
        int[] truth = {0, 0, 0, 1, 1, 2};
        double[][] logits = new double[6][4];
        double loss = 0;
        for (int i = 0; i < 6; i++) {
            logits[i] = new double[] {0.1 * i, -0.2, 0.3, -1};
            logits[i][answers[i]] += 2 + i;
            double sum = 0;
            for (double v : logits[i]) {
                sum += Math.exp(v);
            }
            loss -= Math.log(Math.exp(logits[i][truth[i]]) / sum) / 6;
        }
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece();
                ReferenceBackend backend = new ReferenceBackend()) {
            Examples examples = Examples.of(
                    new ClassifyTask(),
                    rows,
                    tokenizer,
                    Examples.Options.of(16),
                    new Labels(List.of("a", "b", "c", "d")));
            Evaluation e = Evaluation.of(new Oracle(new ClassifyTask(), backend, logits), examples, 4);
            assertThat(e.rows()).isEqualTo(6);
            assertThat(e.metric("accuracy")).isCloseTo(4.0 / 6, within(1e-12));
            assertThat(e.loss()).isCloseTo(loss, within(1e-12));
            // F1 of a: 2·2/(3+2); of b: 2·2/(2+4); of c: 0.
            assertThat(e.metric("macro_f1")).isCloseTo((0.8 + 2.0 / 3 + 0) / 3, within(1e-12));
            assertThat(backend.liveBuffers()).isZero();
        }
    }

    @Test
    void aLanguageModelsLossIsTheMeanOverTokensNotOverBatches() {
        try (ReferenceBackend backend = new ReferenceBackend()) {
            Examples texts = Tiny.texts(7, 4);
            double sum = 0;
            int terms = 0;
            for (int row = 0; row < texts.size(); row++) {
                sum += (1 + row) * (texts.length(row) - 1);
                terms += texts.length(row) - 1;
            }
            Evaluation e = Evaluation.of(new Oracle(new LmTask(), backend, new double[0][]), texts, 3);
            assertThat(e.loss()).isCloseTo(sum / terms, within(1e-12));
            assertThat(e.metric("perplexity")).isCloseTo(Math.exp(sum / terms), within(1e-9));
            assertThat(e.metrics()).containsOnlyKeys("perplexity");
            assertThatThrownBy(() -> e.metric("accuracy"))
                    .hasMessageContaining("no metric accuracy among [perplexity]");
        }
    }

    @Test
    void rougeIsTheHarmonicMeanOverTheLongestCommonSubsequence() {
        // The example of Lin's paper, section 3.1: "police killed the gunman" against two candidates.
        assertThat(RougeL.score("police kill the gunman", "police killed the gunman"))
                .isEqualTo(0.75);
        assertThat(RougeL.score("the gunman kill police", "police killed the gunman"))
                .isEqualTo(0.5);
        assertThat(RougeL.score("Red shoes, 40 % off!", "red shoes 40 off")).isEqualTo(1);
        assertThat(RougeL.score("a b c d e f", "a x c")).isCloseTo(2 * 2.0 / 9, within(1e-12));
        assertThat(RougeL.score("", "words")).isZero();
        assertThat(RougeL.score("…", "")).isEqualTo(1);
    }
}
