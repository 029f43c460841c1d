package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.chat.Chat;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalDouble;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// The loss KTO of task `prefer`, for answers that were judged one by one: λ · σ(∓β · (r − z)), − for an answer that is
/// desirable and + for one that is not, each with a λ of its own. The reference point z = max(0, mean of r' over the
/// batch) estimates how far the model has moved from the reference: r' is that of the same prompts with answers to
/// others. Nothing is learned from it.
///
/// **Paper**: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, equations 7 and 8,
/// less the constant λ.
///
/// @param beta β, as in [PreferTask]
/// @param desirableWeight λ of answers that are desirable
/// @param undesirableWeight λ of answers that are not
record Kto(double beta, double desirableWeight, double undesirableWeight) {
    /// The largest λ · n of the desirable answers, as a multiple of that of the undesirable ones, that the paper
    /// advises; the smallest is 1.
    private static final double MOST_DESIRABLE = 4.0 / 3;

    // ---- examples and batches

    Encoding encoding(Tokenizer tokenizer, Examples.Options options) {
        return new Judgements(tokenizer, options);
    }

    /// Each answer with one to another prompt: the k-th answer to a prompt with the k-th to the prompt before it, the
    /// first prompt with the last. These are the same in each epoch, so that the reference sees them once.
    private final class Judgements extends PreferTask.Answers {
        private int @Nullable [] firstPrompt;
        /// The last answers to another prompt than the first.
        private Run last = new Run(new int[0], List.of());

        private int desirable;
        private int rows;

        /// Answers to the same prompt, in consecutive rows.
        private record Run(int[] prompt, List<int[]> answers) {
            /// This run with one more answer, or a new one if that is to another prompt.
            Run with(int[] next, int[] answer) {
                Run run = !answers.isEmpty() && Arrays.equals(prompt, next) ? this : new Run(next, new ArrayList<>());
                run.answers.add(answer);
                return run;
            }
        }

        Judgements(Tokenizer tokenizer, Examples.Options options) {
            super(tokenizer, options);
        }

        @Override
        public void add(Row row, Sink out) {
            switch (row) {
                case PreferTask.Judgement(String prompt, String completion, boolean good) ->
                    add(prompt, completion, good, out);
                case PreferTask.Preference(String prompt, String chosen, String rejected) -> {
                    add(prompt, chosen, true, out);
                    add(prompt, rejected, false, out);
                }
                case PreferTask.ChatJudgement(Chat chat, boolean good) -> add(chat, good, out);
                case PreferTask.ChatPreference(Chat chosen, Chat rejected) -> {
                    add(chosen, true, out);
                    add(rejected, false, out);
                }
                default -> throw otherForm(row, out);
            }
        }

        private void add(String prompt, String answer, boolean good, Sink out) {
            int[] ids = prompt(prompt, out);
            out.note(prompt, answer + "\0" + good, ids, 0);
            int[] first = bounded(ids);
            add(first, answered(first, answer), good, out);
        }

        private void add(Chat chat, boolean good, Sink out) {
            ChatTask.Ids ids = chat(chat, out);
            int last = chat.size() - 1;
            out.note(chat.first(last).toString(), chat.text(last) + "\0" + good, ids.ids(), 0);
            if (fits(ids.spans()[0], out)) {
                add(Arrays.copyOf(ids.ids(), ids.spans()[0]), ids.ids(), good, out);
            }
        }

        /// @param both the ids of the prompt, `first`, and of the answer behind it
        private void add(int[] first, int[] both, boolean good, Sink out) {
            firstPrompt = firstPrompt == null ? first : firstPrompt;
            if (!Arrays.equals(firstPrompt, first)) {
                last = last.with(first, Arrays.copyOfRange(both, first.length, both.length));
            }
            rows++;
            desirable += good ? 1 : 0;
            out.example(Example.of(both, null, first.length, good ? 1 : 0));
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            if (last.answers.isEmpty()) {
                throw new InputException(out.source() + ": the loss kto compares answers to different prompts, and all"
                        + " rows have the same prompt; add others");
            }
            return new UnaryOperator<>() {
                private Run before = last;
                private Run run = new Run(new int[0], List.of());

                @Override
                public Example apply(Example raw) {
                    int[] ids = raw.texts().getFirst().ids();
                    int[] prompt = Arrays.copyOf(ids, raw.target()[0]);
                    Run next = run.with(prompt, Arrays.copyOfRange(ids, prompt.length, ids.length));
                    before = next == run || run.answers.isEmpty() ? before : run;
                    run = next;
                    int[] other = before.answers.get((run.answers.size() - 1) % before.answers.size());
                    int[] mismatched = Arrays.copyOf(prompt, prompt.length + other.length);
                    System.arraycopy(other, 0, mismatched, prompt.length, other.length);
                    return around(example(raw.target(), false, ids, mismatched));
                }
            };
        }

        @Override
        public List<String> notices() {
            double good = desirableWeight * desirable;
            double bad = undesirableWeight * (rows - desirable);
            // Halves of a file are rarely exactly equal.
            return good >= 0.99 * bad && good <= 1.01 * MOST_DESIRABLE * bad
                    ? List.of()
                    : List.of(("%,d answers are desirable, %,d are not; times --desirable-weight and"
                                    + " --undesirable-weight, the former should count 1 to 1.33 times as much")
                            .formatted(desirable, rows - desirable));
        }
    }

    /// (rows, 2): for each answer 1 if it is desirable or −1, and its weight.
    Target judgements(Examples examples, int[] rows) {
        float[] judgements = new float[2 * rows.length];
        for (int i = 0; i < rows.length; i++) {
            boolean good = examples.target(rows[i])[1] == 1;
            judgements[2 * i] = good ? 1 : -1;
            judgements[2 * i + 1] = (float) (good ? desirableWeight : undesirableWeight);
        }
        return new Target.Floats(judgements, rows.length, 2);
    }

    // ---- the loss

    /// The mean loss of answers that were judged one by one, a scalar.
    ///
    /// @param logProbabilities (B) for each row that of the answer, then that of the answer to another prompt
    /// @param reference (B / 2, 2) the same under the reference
    /// @param judgements (B / 2, 2) for each row 1 or −1, and the weight
    Tensor loss(Tensor logProbabilities, Tensor reference, Tensor judgements) {
        int rows = reference.shape().dim(0);
        Tensor ratios = logProbabilities.reshape(rows, 2).sub(reference);
        Tensor point = Functional.relu(ratios.slice(1, 1, 2).mean()).detach().reshape(1, 1);
        Tensor gains = ratios.slice(1, 0, 1).sub(point).mul(judgements.slice(1, 0, 1));
        return Functional.sigmoid(gains.scale(-beta))
                .mul(judgements.slice(1, 1, 2))
                .mean();
    }

    // ---- metrics

    /// As [PreferTask#meter] says.
    Meter meter() {
        return new Judged();
    }

    private final class Judged implements Meter {
        /// An answer's log-ratio, and whether it is desirable.
        private record Answer(double ratio, boolean desirable) {}

        private final List<Answer> answers = new ArrayList<>();
        private double mismatched;

        @Override
        public void add(Batch batch, double[] answer) {
            float[] reference = ((Target.Floats) batch.targets().get(2)).values();
            float[] judgements = ((Target.Floats) batch.targets().get(3)).values();
            for (int i = 0; i < answer.length; i += 2) {
                answers.add(new Answer(answer[i] - reference[i], judgements[i] > 0));
                mismatched += answer[i + 1] - reference[i + 1];
            }
        }

        @Override
        public Evaluation evaluation() {
            int rows = answers.size();
            double point = Math.max(0, mismatched / rows);
            double losses = 0;
            int right = 0;
            for (Answer a : answers) {
                double gain = a.desirable ? a.ratio - point : point - a.ratio;
                losses += (a.desirable ? desirableWeight : undesirableWeight) * ClassifyTask.probability(-beta * gain);
                right += gain > 0 ? 1 : 0;
            }
            OptionalDouble chosen = reward(true);
            OptionalDouble rejected = reward(false);
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(PreferTask.ACCURACY.name(), right / (double) rows);
            if (chosen.isPresent() && rejected.isPresent()) {
                metrics.put(PreferTask.MARGIN, chosen.getAsDouble() - rejected.getAsDouble());
            }
            chosen.ifPresent(reward -> metrics.put(PreferTask.CHOSEN, reward));
            rejected.ifPresent(reward -> metrics.put(PreferTask.REJECTED, reward));
            metrics.put("kl", point);
            return new Evaluation(rows, losses / rows, metrics, PreferTask.ACCURACY);
        }

        private OptionalDouble reward(boolean desirable) {
            return answers.stream()
                    .filter(a -> a.desirable == desirable)
                    .mapToDouble(a -> beta * a.ratio)
                    .average();
        }
    }
}
