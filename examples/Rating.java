package com.acme;

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
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Feed;
import dev.loran.peft.task.Head;
import dev.loran.peft.task.Meter;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Site;
import dev.loran.peft.task.Task;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/// A task of your own: a number for a text, such as how many stars a review gives. Rows are
/// `{"text": "…", "stars": 4}`. It works wherever a shipped task does, and on the command line:
///
/// ```sh
/// javac -cp 'peft/target/lib/*' -d rating examples/Rating.java
/// LORAN_CLASSPATH=rating ./loran train --model minilm --task com.acme.Rating --train reviews.jsonl --out run
/// ```
public class Rating implements Task {
    private static final Metric ERROR = new Metric("rmse", false);

    public record Review(String text, double stars) implements Row {}

    // ---- the rows

    @Override
    public String form() {
        return "{\"text\",\"stars\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("text", "stars");
    }

    @Override
    public Row row(Fields fields) {
        double stars = fields.number("stars");
        if (stars < 0 || stars > 5) {
            throw fields.bad("stars are " + stars + ", must be between 0 and 5");
        }
        return new Review(fields.text("text"), stars);
    }

    /// An example's target is one integer: here, the bits of a number.
    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, Labels labels) {
        return (row, out) -> {
            Review review = (Review) row;
            Tokenizer.Encoded text = tokenizer.encode(review.text, options.maxLength());
            out.example(Example.of(text, Float.floatToIntBits((float) review.stars)));
        };
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        float[] stars = new float[rows.length];
        for (int i = 0; i < rows.length; i++) {
            stars[i] = Float.intBitsToFloat(examples.target(rows[i])[0]);
        }
        return new Targets(List.of(new Target.Floats(stars, rows.length)), rows.length);
    }

    // ---- the head and the loss

    @Override
    public Head head(Site site) {
        int width = site.model().facts().hiddenSize();
        Linear layer = Head.newLinear(
                site.model().backend(), site.model().dtype().accumulator(), width, 1, site.random());
        return new Stars(layer).load(site);
    }

    private static final class Stars extends Head {
        private final Linear layer;

        Stars(Linear layer) {
            super(layer);
            this.layer = layer;
        }

        Head load(Site site) {
            return from(site);
        }

        /// (B): the mean of the hidden states (B, T, C) over each text's tokens, times a vector.
        @Override
        public Tensor logits(Feed batch) {
            Tensor hidden = batch.hidden();
            int texts = hidden.shape().dim(0);
            int positions = hidden.shape().dim(1);
            Tensor weights = batch.derived("weights", b -> weights(b, positions), texts, 1, positions);
            return layer.forward(weights.matmul(hidden).reshape(texts, -1)).reshape(-1);
        }

        private static double[] weights(Batch batch, int positions) {
            double[] weights = new double[batch.batchSize() * positions];
            for (int text = 0; text < batch.batchSize(); text++) {
                // Virtual tokens, if the method has any, come first.
                int length = positions - batch.length();
                for (int t = 0; t < batch.length(); t++) {
                    length += batch.attentionMask()[text * batch.length() + t];
                }
                Arrays.fill(weights, text * positions, text * positions + length, 1.0 / length);
            }
            return weights;
        }

        @Override
        public Tensor loss(Feed batch) {
            Tensor off = logits(batch).sub(batch.target(0));
            return off.mul(off).sum().scale(1.0 / off.shape().dim(0));
        }
    }

    // ---- the metrics

    @Override
    public Metric headline() {
        return ERROR;
    }

    @Override
    public Meter meter(Examples rows) {
        return new Meter() {
            private double squares;

            @Override
            public void add(Batch batch, double[] answer) {
                float[] stars = ((Target.Floats) batch.targets().getFirst()).values();
                for (int i = 0; i < stars.length; i++) {
                    squares += (answer[i] - stars[i]) * (answer[i] - stars[i]);
                }
            }

            @Override
            public Evaluation evaluation() {
                double mean = squares / rows.size();
                return new Evaluation(rows.size(), mean, Map.of("rmse", Math.sqrt(mean)), ERROR);
            }
        };
    }
}
