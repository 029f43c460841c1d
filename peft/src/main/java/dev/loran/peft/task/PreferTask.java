package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Losses;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// `prefer`: of two answers to a prompt, the chosen one is to become likelier than the rejected one. The model is
/// compared with itself before the training, the reference, whose log-probabilities are computed once
/// ([#referenceNumbers]). With r = log p(answer) − log p_ref(answer), summed over the tokens of an answer and its end
/// token, and Δ = r(chosen) − r(rejected), the loss is one of these:
///
/// - [Loss#DPO]: −(1 − ε) · log σ(β·Δ) − ε · log σ(−β·Δ). **Paper**: Rafailov et al., "Direct Preference Optimization:
///   Your Language Model is Secretly a Reward Model", 2023, equation 7; ε is the share of rows in which the preference
///   is assumed to be the wrong way round (Mitchell, "A note on DPO with noisy preferences", 2023: conservative DPO).
/// - [Loss#IPO]: (Δ − 1/(2β))², where r is divided by the number of tokens. **Paper**: Azar et al., "A General
///   Theoretical Paradigm to Understand Learning from Human Preferences", 2023, equation 17; the division is that of
///   TRL's `DPOTrainer`.
///
/// An answer's reward is β · r. The target of an example is the length of its prompt, followed by the reference
/// log-probabilities of both answers.
///
/// @param beta β: the larger, the closer the model stays to the reference
/// @param labelSmoothing ε, from 0 to below 0.5
public record PreferTask(Loss loss, double beta, double labelSmoothing) implements Task {
    private static final Metric ACCURACY = new Metric("reward_accuracy", true);

    private static final String LOSS = "loss";
    private static final String BETA = "beta";
    private static final String SMOOTHING = "label_smoothing";

    /// The loss: see [PreferTask].
    public enum Loss {
        DPO,
        IPO;

        /// @throws InputException for any other name
        public static Loss named(String name) {
            for (Loss loss : values()) {
                if (loss.toString().equals(name)) {
                    return loss;
                }
            }
            throw new InputException("loss \"" + name + "\" is not known; choose dpo or ipo");
        }

        /// The name in lower case.
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /// A prompt with the better and the worse answer.
    public record Preference(String prompt, String chosen, String rejected) implements Row {}

    public PreferTask {
        if (!(beta > 0 && Double.isFinite(beta))) {
            throw new InputException("beta " + beta + " must be positive");
        }
        if (!(labelSmoothing >= 0 && labelSmoothing < 0.5)) {
            throw new InputException("label smoothing " + labelSmoothing + " must be from 0 to below 0.5");
        }
        if (loss == Loss.IPO && labelSmoothing != 0) {
            throw new InputException("label smoothing is for the loss dpo; leave it out for ipo");
        }
    }

    /// DPO with β = 0.1 and without label smoothing.
    public PreferTask() {
        this(Loss.DPO, 0.1, 0);
    }

    @Override
    public String name() {
        return "prefer";
    }

    @Override
    public String form() {
        return "{\"prompt\",\"chosen\",\"rejected\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("prompt", "chosen", "rejected");
    }

    @Override
    public Row row(Fields fields) {
        return new Preference(fields.text("prompt"), fields.text("chosen"), fields.text("rejected"));
    }

    @Override
    public void check(@Nullable Labels labels) {
        if (labels != null) {
            throw new InputException("task " + name() + " has no labels");
        }
    }

    // ---- settings

    @Override
    public Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put(LOSS, loss.toString());
        settings.put(BETA, String.valueOf(beta));
        settings.put(SMOOTHING, String.valueOf(labelSmoothing));
        return settings;
    }

    @Override
    public Task with(Map<String, String> settings) {
        Map<String, String> all = settings();
        settings.forEach((name, value) -> {
            if (all.put(name, value) == null) {
                throw new InputException("task " + name() + " has no " + name + "; leave it out");
            }
        });
        return new PreferTask(
                Loss.named(Objects.requireNonNull(all.get(LOSS))), number(BETA, all), number(SMOOTHING, all));
    }

    private static double number(String name, Map<String, String> settings) {
        String value = Objects.requireNonNull(settings.get(name));
        try {
            return Double.parseDouble(value);
        } catch (NumberFormatException e) {
            throw new InputException(name + " \"" + value + "\" is not a number", e);
        }
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Answers(tokenizer, options);
    }

    private static final class Answers extends GenerateTask.Prompted {
        private int same;

        Answers(Tokenizer tokenizer, Examples.Options options) {
            super(tokenizer, options);
        }

        @Override
        public void add(Row row, Sink out) {
            if (!(row instanceof Preference(String prompt, String chosen, String rejected))) {
                throw out.bad(
                        "a row of another form, " + row.getClass().getSimpleName() + ", among rows of task prefer");
            }
            int[] ids = tokenizer.body(prompt);
            out.note(prompt, chosen + "\0" + rejected, ids, 0);
            int[] first = bounded(ids);
            out.example(new Example(
                    texts(answered(first, chosen), answered(first, rejected)), new int[] {first.length}, false));
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            return this::around;
        }

        private Example around(Example raw) {
            Tokenizer.Encoded chosen = around(raw, 0);
            Tokenizer.Encoded rejected = around(raw, 1);
            same += Arrays.equals(chosen.ids(), rejected.ids()) ? 1 : 0;
            return new Example(
                    texts(chosen.ids(), rejected.ids()),
                    new int[] {chosen.promptLength()},
                    chosen.truncated() || rejected.truncated());
        }

        private static List<Example.Text> texts(int[] chosen, int[] rejected) {
            return List.of(new Example.Text(chosen, null), new Example.Text(rejected, null));
        }

        @Override
        public List<String> notices() {
            return same == 0
                    ? List.of()
                    : List.of("%,d rows have the same answer as chosen and rejected: nothing is learned from them"
                            .formatted(same));
        }
    }

    @Override
    public String cut(Examples.Options options) {
        return "rows have an answer that ends after %d tokens, or a prompt of more than %d, and were cut"
                .formatted(options.maxLength(), options.maxLength() - options.answerRoom());
    }

    /// The next tokens of all texts (B, T), how many there are of each (B), and the reference log-probabilities (B / 2,
    /// 2). The answers to a prompt are consecutive, the chosen one first.
    ///
    /// @throws IllegalStateException if `examples` have no reference
    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int n = rows.length;
        int[] labels = new int[2 * n * length];
        Arrays.fill(labels, Batch.IGNORE);
        float[] counts = new float[2 * n];
        float[] reference = new float[2 * n];
        for (int i = 0; i < 2 * n; i++) {
            Example row = examples.row(rows[i / 2]);
            if (row.target().length != 3) {
                throw new IllegalStateException("task prefer: the rows have no log-probabilities of the reference; call"
                        + " withReference of the model, as Trainer.train and Evaluation.of do");
            }
            int[] ids = row.texts().get(i % 2).ids();
            int prompt = row.target()[0];
            System.arraycopy(ids, prompt, labels, i * length + prompt, ids.length - prompt);
            counts[i] = ids.length - Math.max(prompt, 1);
            reference[i] = Float.intBitsToFloat(row.target()[1 + i % 2]);
        }
        return new Targets(
                List.of(
                        new Target.Ints(labels, 2 * n, length),
                        new Target.Floats(counts, 2 * n),
                        new Target.Floats(reference, n, 2)),
                n);
    }

    @Override
    public Example dummy(int length) {
        Example.Text text = new Example.Text(new int[length], null);
        return new Example(List.of(text, text), new int[3], false);
    }

    @Override
    public int referenceNumbers() {
        return 2;
    }

    @Override
    public boolean hasPrompts() {
        return true;
    }

    @Override
    public Tokenizer.Encoded prompt(Tokenizer tokenizer, String text, int maxLength, int answerRoom) {
        return tokenizer.encodePrompt(text, maxLength, answerRoom);
    }

    @Override
    public TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return TaskCard.of(this, maxLength).withAnswers(train.answerRoom(), tokenizer.eosToken());
    }

    // ---- the log-probabilities and the loss

    @Override
    public Head head(Site site) {
        CausalHead.of(site);
        return new LogProbabilities();
    }

    private final class LogProbabilities extends Head {
        LogProbabilities() {
            super(null);
        }

        /// The log-probability of each answer, (B).
        @Override
        public Tensor logits(Feed batch) {
            Tensor mean = Losses.nextTokenOfEach(batch.model(), batch.ids(), batch.mask(), batch.target(0));
            return mean.mul(batch.target(1)).scale(-1);
        }

        @Override
        public Tensor loss(Feed batch) {
            return PreferTask.this.loss(logits(batch), batch.target(1), batch.target(2));
        }
    }

    /// The mean loss of the rows, a scalar.
    ///
    /// @param logProbabilities (B) of the answers, for each row that of the chosen one, then that of the rejected one
    /// @param counts (B) their numbers of tokens
    /// @param reference (B / 2, 2) the log-probabilities under the reference
    Tensor loss(Tensor logProbabilities, Tensor counts, Tensor reference) {
        int rows = reference.shape().dim(0);
        Tensor ratios = logProbabilities.reshape(rows, 2).sub(reference);
        if (loss == Loss.IPO) {
            ratios = ratios.div(counts.reshape(rows, 2));
        }
        Tensor margins = ratios.slice(1, 0, 1).sub(ratios.slice(1, 1, 2));
        double wanted = loss == Loss.IPO ? 1 / (2 * beta) : 1 - labelSmoothing;
        Tensor targets = Tensor.full(margins.backend(), margins.dtype(), wanted, rows, 1);
        return loss == Loss.IPO
                ? Losses.squaredError(margins, targets)
                : Losses.binaryCrossEntropy(margins.scale(beta), targets);
    }

    // ---- metrics

    @Override
    public Metric headline() {
        return ACCURACY;
    }

    /// Measures the share of rows whose chosen answer has the greater reward, and the mean rewards: TRL's
    /// `rewards/accuracies`, `rewards/margins`, `rewards/chosen` and `rewards/rejected`.
    @Override
    public Meter meter(Examples rows) {
        return new Rewards();
    }

    private final class Rewards implements Meter {
        private int rows;
        private int right;
        private double chosen;
        private double rejected;
        private double losses;

        @Override
        public void add(Batch batch, double[] answer) {
            float[] counts = ((Target.Floats) batch.targets().get(1)).values();
            float[] reference = ((Target.Floats) batch.targets().get(2)).values();
            for (int i = 0; i < answer.length; i += 2) {
                double better = answer[i] - reference[i];
                double worse = answer[i + 1] - reference[i + 1];
                rows++;
                right += better > worse ? 1 : 0;
                chosen += beta * better;
                rejected += beta * worse;
                losses += loss(better, worse, counts[i], counts[i + 1]);
            }
        }

        @Override
        public Evaluation evaluation() {
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(ACCURACY.name(), right / (double) rows);
            metrics.put("reward_margin", (chosen - rejected) / rows);
            metrics.put("reward_chosen", chosen / rows);
            metrics.put("reward_rejected", rejected / rows);
            return new Evaluation(rows, losses / rows, metrics, ACCURACY);
        }
    }

    /// The loss of one row, given the log-ratios of both answers and their numbers of tokens.
    private double loss(double better, double worse, double first, double second) {
        if (loss == Loss.IPO) {
            double error = better / first - worse / second - 1 / (2 * beta);
            return error * error;
        }
        return ClassifyTask.binaryCrossEntropy(beta * (better - worse), 1 - labelSmoothing);
    }

    @Override
    public String toString() {
        return name();
    }
}
