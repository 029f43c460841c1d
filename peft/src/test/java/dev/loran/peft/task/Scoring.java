package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// A task as a user may write one, whose targets are not integers: a score for how well two texts fit, computed from
/// the product of their mean hidden states. Each row is two texts that are processed separately.
public final class Scoring implements Task {
    private static final Metric ERROR = new Metric("rmse", false);

    public record Pair(String first, String second, double score) implements Row {}

    @Override
    public String form() {
        return "{\"first\",\"second\",\"score\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("first", "second", "score");
    }

    @Override
    public Row row(Fields fields) {
        return new Pair(fields.text("first"), fields.text("second"), fields.number("score"));
    }

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        return (row, out) -> {
            Pair pair = (Pair) row;
            Tokenizer.Encoded a = tokenizer.encode(pair.first, options.maxLength());
            Tokenizer.Encoded b = tokenizer.encode(pair.second, options.maxLength());
            out.example(new Example(
                    List.of(new Example.Text(a.ids(), null), new Example.Text(b.ids(), null)),
                    new int[] {Float.floatToIntBits((float) pair.score)},
                    a.truncated() || b.truncated()));
        };
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        float[] scores = new float[rows.length];
        for (int b = 0; b < rows.length; b++) {
            scores[b] = Float.intBitsToFloat(examples.target(rows[b])[0]);
        }
        return new Targets(List.of(new Target.Floats(scores, rows.length)), rows.length);
    }

    @Override
    public Example dummy(int length) {
        Example.Text text = new Example.Text(new int[length], null);
        return new Example(List.of(text, text), new int[1], false);
    }

    @Override
    public Head head(Site site) {
        Model model = site.model();
        int width = model.facts().hiddenSize();
        Linear layer = Head.newLinear(model.backend(), model.dtype().accumulator(), width, 1, site.random());
        return new OfProduct(layer).from(site);
    }

    private static final class OfProduct extends Head {
        private final Linear layer;

        OfProduct(Linear layer) {
            super(layer);
            this.layer = layer;
        }

        /// (rows)
        @Override
        public Tensor logits(Feed batch) {
            Tensor hidden = batch.hidden();
            int texts = hidden.shape().dim(0);
            int positions = hidden.shape().dim(1);
            int width = hidden.shape().dim(2);
            Tensor weights = batch.derived("weights", b -> weights(b, positions), texts, 1, positions);
            Tensor pooled = weights.matmul(hidden).reshape(texts / 2, 2, width);
            Tensor first = pooled.slice(1, 0, 1);
            Tensor second = pooled.slice(1, 1, 2);
            return layer.forward(first.mul(second).reshape(-1, width)).reshape(-1);
        }

        private static double[] weights(Batch batch, int positions) {
            double[] weights = new double[batch.batchSize() * positions];
            for (int text = 0; text < batch.batchSize(); text++) {
                int length = 0;
                for (int t = 0; t < batch.length(); t++) {
                    length += batch.attentionMask()[text * batch.length() + t];
                }
                java.util.Arrays.fill(weights, text * positions, text * positions + length, 1.0 / length);
            }
            return weights;
        }

        @Override
        public Tensor loss(Feed batch) {
            Tensor off = logits(batch).sub(batch.target(0));
            return off.mul(off).sum().scale(1.0 / off.shape().dim(0));
        }
    }

    @Override
    public Metric headline() {
        return ERROR;
    }

    @Override
    public Meter meter(Examples rows) {
        return new Meter() {
            private double sum;

            @Override
            public void add(Batch batch, double[] answer) {
                float[] scores = ((Target.Floats) batch.targets().getFirst()).values();
                for (int i = 0; i < scores.length; i++) {
                    sum += (answer[i] - scores[i]) * (answer[i] - scores[i]);
                }
            }

            @Override
            public Evaluation evaluation() {
                double mean = sum / rows.size();
                return new Evaluation(rows.size(), mean, Map.of("rmse", Math.sqrt(mean)), ERROR);
            }
        };
    }
}
