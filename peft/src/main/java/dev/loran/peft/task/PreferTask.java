package dev.loran.peft.task;

import com.fasterxml.jackson.databind.node.ArrayNode;
import dev.loran.engine.Tensor;
import dev.loran.peft.chat.Chat;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.chat.TemplateException;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Losses;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
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
/// - [Loss#KTO], for answers that were judged one by one, [Judgement]: see [Kto].
///
/// An answer's reward is β · r. The target of an example is the length of its prompt, for KTO then 1 for an answer that
/// is desirable or 0, followed by the reference log-probabilities of both its texts: the two answers, or for KTO the
/// answer and one to another prompt.
///
/// @param beta β: the larger, the closer the model stays to the reference
/// @param labelSmoothing ε, from 0 to below 0.5
/// @param desirableWeight λ of answers that are desirable
/// @param undesirableWeight λ of answers that are not
/// @param chats whether it was trained on chats, so that prompts are chats, too; rows of either kind can be read
public record PreferTask(
        Loss loss, double beta, double labelSmoothing, double desirableWeight, double undesirableWeight, boolean chats)
        implements Task {
    static final Metric ACCURACY = new Metric("reward_accuracy", true);
    static final String MARGIN = "reward_margin";
    static final String CHOSEN = "reward_chosen";
    static final String REJECTED = "reward_rejected";

    private static final String LOSS = "loss";
    private static final String BETA = "beta";
    private static final String SMOOTHING = "label_smoothing";
    private static final String DESIRABLE = "desirable_weight";
    private static final String UNDESIRABLE = "undesirable_weight";
    private static final String CHATS = "chats";

    /// The loss: see [PreferTask].
    public enum Loss {
        DPO,
        IPO,
        KTO;

        /// @throws InputException for any other name
        public static Loss named(String name) {
            for (Loss loss : values()) {
                if (loss.toString().equals(name)) {
                    return loss;
                }
            }
            throw new InputException("loss \"" + name + "\" is not known; choose dpo, ipo or kto");
        }

        /// The name in lower case.
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /// A prompt with the better and the worse answer.
    public record Preference(String prompt, String chosen, String rejected) implements Row {}

    /// A prompt with one answer, and whether that is a good one.
    public record Judgement(String prompt, String completion, boolean desirable) implements Row {}

    /// The same for chats: both begin alike and end with an answer of the assistant.
    public record ChatPreference(dev.loran.peft.chat.Chat chosen, dev.loran.peft.chat.Chat rejected) implements Row {}

    /// A chat that ends with an answer of the assistant, and whether that is a good one.
    public record ChatJudgement(dev.loran.peft.chat.Chat chat, boolean desirable) implements Row {}

    public PreferTask {
        if (!(beta > 0 && Double.isFinite(beta))) {
            throw new InputException("beta " + beta + " must be positive");
        }
        if (!(labelSmoothing >= 0 && labelSmoothing < 0.5)) {
            throw new InputException("label smoothing " + labelSmoothing + " must be from 0 to below 0.5");
        }
        if (loss != Loss.DPO && labelSmoothing != 0) {
            throw new InputException("label smoothing is for the loss dpo; leave it out for " + loss);
        }
        if (!(desirableWeight > 0 && undesirableWeight > 0 && Double.isFinite(desirableWeight + undesirableWeight))) {
            throw new InputException("desirable weight " + desirableWeight + " and undesirable weight "
                    + undesirableWeight + " must be positive");
        }
        if (loss != Loss.KTO && (desirableWeight != 1 || undesirableWeight != 1)) {
            throw new InputException(
                    "desirable and undesirable weights are for the loss kto; leave them out for " + loss);
        }
    }

    /// With weights of 1.
    public PreferTask(Loss loss, double beta, double labelSmoothing) {
        this(loss, beta, labelSmoothing, 1, 1);
    }

    public PreferTask(Loss loss, double beta, double labelSmoothing, double desirableWeight, double undesirableWeight) {
        this(loss, beta, labelSmoothing, desirableWeight, undesirableWeight, false);
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
        String pairs = "{\"prompt\",\"chosen\",\"rejected\"}";
        return loss == Loss.KTO ? "{\"prompt\",\"completion\",\"label\"} or " + pairs : pairs;
    }

    @Override
    public List<String> fields() {
        return loss == Loss.KTO
                ? List.of("prompt", "completion", "label", "chosen", "rejected", "tools")
                : List.of("prompt", "chosen", "rejected", "tools");
    }

    @Override
    public Row row(Fields fields) {
        if (loss == Loss.KTO && !fields.has("chosen") && !fields.has("rejected")) {
            return fields.isList("completion") || fields.isList("prompt")
                    ? new ChatJudgement(answered(fields, "completion"), fields.flag("label"))
                    : new Judgement(fields.text("prompt"), fields.text("completion"), fields.flag("label"));
        }
        if (fields.has("completion") && !fields.has("chosen")) {
            throw fields.bad("an answer that was judged by itself is for the loss kto; the loss " + loss
                    + " needs \"chosen\" and \"rejected\"");
        }
        if (!fields.isList("chosen") && !fields.isList("prompt")) {
            return new Preference(fields.text("prompt"), fields.text("chosen"), fields.text("rejected"));
        }
        return fields.isList("prompt")
                ? new ChatPreference(answered(fields, "chosen"), answered(fields, "rejected"))
                : implicit(fields);
    }

    /// The messages of `prompt`, and one that answers them.
    private static Chat answered(Fields fields, String answer) {
        ArrayNode all = ChatTask.messages(fields, "prompt").deepCopy();
        all.addAll(ChatTask.messages(fields, answer));
        return answered(fields, answer, all, fields.json("prompt").size());
    }

    /// Both chats begin with the prompt: what they have in common.
    private static ChatPreference implicit(Fields fields) {
        ArrayNode chosen = ChatTask.messages(fields, "chosen");
        ArrayNode rejected = ChatTask.messages(fields, "rejected");
        int common = 0;
        while (common < Math.min(chosen.size(), rejected.size())
                && chosen.get(common).equals(rejected.get(common))) {
            common++;
        }
        // Where both answers are the same, so are the chats.
        common = Math.min(common, Math.min(chosen.size(), rejected.size()) - 1);
        if (common == 0) {
            throw fields.bad("\"chosen\" and \"rejected\" begin with different messages; put those before the answers"
                    + " into both, or into \"prompt\"");
        }
        Chat first = answered(fields, "chosen", chosen, common);
        Chat second = answered(fields, "rejected", rejected, common);
        if (fields.has("prompt")
                && !fields.json("prompt").isNull()
                && !fields.text("prompt").strip().equals(first.text(common - 1).strip())) {
            throw fields.bad("field \"prompt\" is a text, and not that of the message before the answers; leave it out,"
                    + " or give the messages before the answers as a list");
        }
        return new ChatPreference(first, second);
    }

    private static Chat answered(Fields fields, String field, ArrayNode messages, int prompt) {
        Chat chat = new Chat(messages, ChatTask.tools(fields));
        if (messages.size() != prompt + 1 || !chat.isAnswer(prompt)) {
            throw fields.bad("field \"%s\" must end with one message after the prompt, the assistant's, found %d%s"
                    .formatted(
                            field,
                            messages.size() - prompt,
                            messages.size() == prompt + 1
                                    ? " of \""
                                            + messages.get(prompt).path("role").asText() + "\""
                                    : ""));
        }
        return chat;
    }

    // ---- settings

    @Override
    public Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put(LOSS, loss.toString());
        settings.put(BETA, String.valueOf(beta));
        settings.put(SMOOTHING, String.valueOf(labelSmoothing));
        if (loss == Loss.KTO) {
            settings.put(DESIRABLE, String.valueOf(desirableWeight));
            settings.put(UNDESIRABLE, String.valueOf(undesirableWeight));
        }
        if (chats) {
            settings.put(CHATS, "true");
        }
        return settings;
    }

    @Override
    public Task with(Map<String, String> settings) {
        Map<String, Object> known = new LinkedHashMap<>(settings());
        known.put(DESIRABLE, desirableWeight);
        known.put(UNDESIRABLE, undesirableWeight);
        known.put(CHATS, chats);
        Settings all = Settings.of(this, known, settings);
        return new PreferTask(
                Loss.named(all.text(LOSS)),
                all.number(BETA),
                all.number(SMOOTHING),
                all.number(DESIRABLE),
                all.number(UNDESIRABLE),
                Boolean.parseBoolean(all.text(CHATS)));
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return loss == Loss.KTO ? kto().encoding(tokenizer, options) : new Pairs(tokenizer, options);
    }

    /// Two texts with the same prompt.
    abstract static class Answers extends GenerateTask.Prompted {
        /// How chats become text; null if the rows are none, or before the first.
        private @Nullable ChatFormat format;

        private boolean texts;

        Answers(Tokenizer tokenizer, Examples.Options options) {
            super(tokenizer, options);
        }

        static InputException otherForm(Row row, Sink out) {
            return out.bad("a row of another form, " + row.getClass().getSimpleName() + ", among rows of task prefer");
        }

        static Example example(int[] target, boolean truncated, int[] first, int[] second) {
            List<Example.Text> texts = List.of(new Example.Text(first, null), new Example.Text(second, null));
            return new Example(texts, target, truncated);
        }

        /// The ids of a prompt.
        final int[] prompt(String text, Sink out) {
            texts = true;
            requireOneKind(out);
            return tokenizer.body(text);
        }

        /// The ids of a chat, whose last answer is the part that is learned.
        final ChatTask.Ids chat(Chat chat, Sink out) {
            format = format == null ? ChatTask.format(tokenizer) : format;
            requireOneKind(out);
            try {
                return ChatTask.Ids.ofLastAnswer(tokenizer, format, chat);
            } catch (TemplateException e) {
                throw out.bad(e.problem());
            }
        }

        /// Whether there is room for an answer that begins there.
        final boolean fits(int prompt, Sink out) {
            if (prompt < options.maxLength()) {
                return true;
            }
            out.leftOut("their answers begin after %d tokens".formatted(options.maxLength()));
            return false;
        }

        private void requireOneKind(Sink out) {
            if (texts && format != null) {
                throw out.bad("some prompts are texts and others lists of messages; put them into files of their own");
            }
        }

        /// A prompt of a chat is never cut.
        @Override
        public final int answerRoom() {
            return format == null ? super.answerRoom() : 0;
        }

        /// The same as the model reads both texts: with the tokens around them, unless they are chats.
        final Example around(Example raw) {
            if (format != null) {
                int[] first = raw.texts().get(0).ids();
                int[] second = raw.texts().get(1).ids();
                return example(raw.target(), isCut(first) || isCut(second), cut(first), cut(second));
            }
            Tokenizer.Encoded first = around(raw, 0);
            Tokenizer.Encoded second = around(raw, 1);
            int[] target = raw.target().clone();
            target[0] = first.promptLength();
            return example(target, first.truncated() || second.truncated(), first.ids(), second.ids());
        }

        private boolean isCut(int[] ids) {
            return ids.length > options.maxLength();
        }

        private int[] cut(int[] ids) {
            return isCut(ids) ? Arrays.copyOf(ids, options.maxLength()) : ids;
        }
    }

    private static final class Pairs extends Answers {
        private int same;

        Pairs(Tokenizer tokenizer, Examples.Options options) {
            super(tokenizer, options);
        }

        @Override
        public void add(Row row, Sink out) {
            switch (row) {
                case Preference(String prompt, String chosen, String rejected) -> {
                    int[] ids = prompt(prompt, out);
                    out.note(prompt, chosen + "\0" + rejected, ids, 0);
                    int[] first = bounded(ids);
                    out.example(example(
                            new int[] {first.length}, false, answered(first, chosen), answered(first, rejected)));
                }
                case ChatPreference(Chat chosen, Chat rejected) -> add(chosen, rejected, out);
                default -> throw otherForm(row, out);
            }
        }

        private void add(Chat chosen, Chat rejected, Sink out) {
            ChatTask.Ids first = chat(chosen, out);
            ChatTask.Ids second = chat(rejected, out);
            out.note(
                    chosen.first(chosen.size() - 1).toString(),
                    chosen.text(chosen.size() - 1) + "\0" + rejected.text(rejected.size() - 1),
                    first.ids(),
                    0);
            // A token that reaches from the prompt into an answer counts as a part of both answers.
            int prompt = Math.min(first.spans()[0], second.spans()[0]);
            if (fits(prompt, out)) {
                out.example(example(new int[] {prompt}, false, first.ids(), second.ids()));
            }
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            return raw -> {
                Example both = around(raw);
                same += Arrays.equals(
                                both.texts().get(0).ids(), both.texts().get(1).ids())
                        ? 1
                        : 0;
                return both;
            };
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
        if (options.answerRoom() == 0) {
            return "chats are longer than %d tokens: the ends of their answers were cut".formatted(options.maxLength());
        }
        return "rows have an answer that ends after %d tokens, or a prompt of more than %d, and were cut"
                .formatted(options.maxLength(), options.maxLength() - options.answerRoom());
    }

    /// The next tokens of all texts (B, T), how many there are of each (B), and the reference log-probabilities (B / 2,
    /// 2). The texts of an example are consecutive: the chosen and the rejected answer, or for KTO the answer and one to
    /// another prompt; for KTO also (B / 2, 2) for each answer 1 if it is desirable or −1, and its weight.
    ///
    /// @throws IllegalStateException if `examples` have no reference
    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int n = rows.length;
        int[] labels = new int[2 * n * length];
        Arrays.fill(labels, Batch.IGNORE);
        float[] counts = new float[2 * n];
        float[] reference = new float[2 * n];
        int own = ownTargets();
        for (int i = 0; i < 2 * n; i++) {
            Example row = examples.row(rows[i / 2]);
            if (row.target().length != own + 2) {
                throw new IllegalStateException("task prefer: the rows have no log-probabilities of the reference; call"
                        + " withReference of the model, as Trainer.train and Evaluation.of do");
            }
            int[] ids = row.texts().get(i % 2).ids();
            int prompt = row.target()[0];
            System.arraycopy(ids, prompt, labels, i * length + prompt, ids.length - prompt);
            counts[i] = ids.length - Math.max(prompt, 1);
            reference[i] = Float.intBitsToFloat(row.target()[own + i % 2]);
        }
        List<Target> targets = new ArrayList<>(List.of(
                new Target.Ints(labels, 2 * n, length),
                new Target.Floats(counts, 2 * n),
                new Target.Floats(reference, n, 2)));
        if (loss == Loss.KTO) {
            targets.add(kto().judgements(examples, rows));
        }
        return new Targets(targets, n);
    }

    private Kto kto() {
        return new Kto(beta, desirableWeight, undesirableWeight);
    }

    /// How many numbers of an example's target precede those of the reference.
    private int ownTargets() {
        return loss == Loss.KTO ? 2 : 1;
    }

    @Override
    public Example dummy(int length) {
        Example.Text text = new Example.Text(new int[length], null);
        return new Example(List.of(text, text), new int[ownTargets() + 2], false);
    }

    @Override
    public int referenceNumbers() {
        return 2;
    }

    @Override
    public RowForm prompts() {
        return chats ? new ChatTask.Prompts() : new GenerateTask.Prompts(name());
    }

    @Override
    public GenerationConfig ending(GenerationConfig config, Tokenizer tokenizer) {
        return chats ? new ChatTask().ending(config, tokenizer) : config;
    }

    /// Only chats leave no room for an answer.
    @Override
    public TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        boolean ofChats = train.answerRoom() == 0;
        Task task = new PreferTask(loss, beta, labelSmoothing, desirableWeight, undesirableWeight, ofChats);
        TaskCard card = TaskCard.of(task, maxLength).withAnswers(train.answerRoom(), tokenizer.eosToken());
        return ofChats ? card.withChat(ChatTask.format(tokenizer)) : card;
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

        /// The log-probability of the answer in each text, (B).
        @Override
        public Tensor logits(Feed batch) {
            Tensor mean = Losses.nextTokenOfEach(batch.model(), batch.ids(), batch.mask(), batch.target(0));
            return mean.mul(batch.target(1)).scale(-1);
        }

        @Override
        public Tensor loss(Feed batch) {
            return loss == Loss.KTO
                    ? kto().loss(logits(batch), batch.target(2), batch.target(3))
                    : PreferTask.this.loss(logits(batch), batch.target(1), batch.target(2));
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
    /// `rewards/accuracies`, `rewards/margins`, `rewards/chosen` and `rewards/rejected`. For KTO, `reward_accuracy` is
    /// the share of answers on the right side of the reference point, which TRL does not have; and `kl` is that point,
    /// which all rows estimate together, so that the loss does not depend on their batches. What is about desirable or
    /// undesirable answers is left out if there are none.
    @Override
    public Meter meter(Examples rows) {
        return loss == Loss.KTO ? kto().meter() : new Rewards();
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
            metrics.put(MARGIN, (chosen - rejected) / rows);
            metrics.put(CHOSEN, chosen / rows);
            metrics.put(REJECTED, rejected / rows);
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
