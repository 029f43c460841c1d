package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.chat.Chat;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.PreferTask.Judgement;
import dev.loran.peft.task.PreferTask.Loss;
import dev.loran.peft.task.PreferTask.Preference;
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

/// The numbers are those of TRL 1.13's `DPOTrainer._compute_loss` in float64, called on logits of
/// `torch.randn(4, 6, 5)` with ids of `torch.randint(0, 5, (4, 6))`, both from the generator with seed 7, and masks of 3,
/// 4, 2 and 2 tokens of the answers; its gradients with respect to the logits are those given here, with respect to the
/// log-probabilities, times their derivatives.
class PreferTaskTest {
    /// Of the rows' chosen and rejected answers; TRL has all chosen ones first.
    private static final double[] LOGPS = {
        -4.8069317740927024, -4.246893543585043, -8.988214253246763, -4.500513906552818
    };
    private static final double[] COUNTS = {3, 2, 4, 2};
    private static final double[] REFERENCE = {-5.25, -3.75, -6.5, -4.0};

    private static void check(PreferTask task, double loss, double... gradient) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor logps = Tensor.of(backend, DType.F64, LOGPS, 4).requiresGrad(true);
            Tensor value = task.loss(
                    logps, Tensor.of(backend, DType.F64, COUNTS, 4), Tensor.of(backend, DType.F64, REFERENCE, 2, 2));
            assertThat(value.item()).isCloseTo(loss, within(1e-12));
            value.backward();
            Tensor found = Objects.requireNonNull(logps.grad());
            assertThat(found.toDoubles()).containsExactly(gradient, within(1e-12));
            logps.zeroGrad();
        }
    }

    @Test
    void lossesAndGradientsAreThoseOfTrl() {
        check(
                new PreferTask(),
                0.7223579378845761,
                -0.02382591211059637,
                0.02382591211059637,
                -0.02747647709431781,
                0.02747647709431781);
        check(
                new PreferTask(Loss.IPO, 0.3, 0),
                2.884790123461789,
                -0.42351016207945985,
                0.6352652431191897,
                -0.5096158191754872,
                1.0192316383509743);
    }

    /// TRL 1.13 has no conservative DPO any more: `(-0.9 * logsigmoid(d) - 0.1 * logsigmoid(-d)).mean()` of torch.
    @Test
    void conservativeDpoIsTheFormula() {
        check(
                new PreferTask(Loss.DPO, 0.1, 0.1),
                0.7171192449985682,
                -0.018825912110596373,
                0.018825912110596373,
                -0.022476477094317812,
                0.022476477094317812);
    }

    // ---- KTO

    /// TRL 1.13's `KTOTrainer._compute_loss` on logits and ids as above, then a second draw of both for the KL term,
    /// with masks of 3, 2, 4 and 2 tokens, and 2, 4, 2 and 3. For each row the answer, then that to another prompt.
    private static final double[] KTO_LOGPS = {
        -5.200262989768968, -6.08563211931182, -2.481711072852569, -6.335892953337144,
        -7.41223574294976, -2.9538472921038856, -3.8408819587512095, -6.521908673218356
    };

    private static double[] ktoReference(double... ofOthers) {
        return new double[] {-5.25, ofOthers[0], -3.75, ofOthers[1], -6.5, ofOthers[2], -4.0, ofOthers[3]};
    }

    private static double[] judgements(PreferTask task, boolean... good) {
        double[] both = new double[2 * good.length];
        for (int i = 0; i < good.length; i++) {
            both[2 * i] = good[i] ? 1 : -1;
            both[2 * i + 1] = good[i] ? task.desirableWeight() : task.undesirableWeight();
        }
        return both;
    }

    private static void checkKto(
            PreferTask task, double[] reference, boolean[] good, double loss, double... gradientOfAnswers) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor logps = Tensor.of(backend, DType.F64, KTO_LOGPS, 8).requiresGrad(true);
            Tensor value = new Kto(task.beta(), task.desirableWeight(), task.undesirableWeight())
                    .loss(
                            logps,
                            Tensor.of(backend, DType.F64, reference, 4, 2),
                            Tensor.of(backend, DType.F64, judgements(task, good), 4, 2));
            assertThat(value.item()).isCloseTo(loss, within(1e-12));
            value.backward();
            double[] found = Objects.requireNonNull(logps.grad()).toDoubles();
            for (int i = 0; i < 4; i++) {
                assertThat(found[2 * i]).isCloseTo(gradientOfAnswers[i], within(1e-12));
                assertThat(found[2 * i + 1]).isZero();
            }
            logps.zeroGrad();
        }
    }

    /// Of the three, the first has a mean below 0 for the KL term, which is then 0.
    @Test
    void ktoIsThatOfTrl() {
        checkKto(
                new PreferTask(Loss.KTO, 0.1, 0),
                ktoReference(-3.5, -7.25, -4.0, -6.0),
                new boolean[] {true, false, false, true},
                0.5009133519795343,
                -0.006249961347500195,
                0.006224933528370271,
                0.006237015293429483,
                -0.0062496044143326955);
        checkKto(
                new PreferTask(Loss.KTO, 0.3, 0, 1.5, 0.5),
                ktoReference(-6.0, -9.5, -5.0, -8.0),
                new boolean[] {true, false, false, true},
                0.5589537755962469,
                -0.02656346701450223,
                0.009344223667206822,
                0.008115352208649097,
                -0.026762829610661988);
        checkKto(
                new PreferTask(Loss.KTO, 0.1, 0),
                ktoReference(-6.0, -9.5, -5.0, -8.0),
                new boolean[] {true, true, true, true},
                0.5376103565718768,
                -0.006210123299778086,
                -0.00624771582646288,
                -0.006148479846759099,
                -0.006215366671989953);
    }

    /// TRL has no accuracy, and another KL term for each batch; here all rows are in one.
    @Test
    void metricsOfKtoAreThoseOfTrl() {
        PreferTask task = new PreferTask(Loss.KTO, 0.3, 0, 1.5, 0.5);
        Evaluation e = ktoMetrics(task, true, false, false, true);
        assertThat(e.rows()).isEqualTo(4);
        assertThat(e.loss()).isCloseTo(0.5589537755962469, within(1e-12));
        assertThat(e.metric("kl")).isCloseTo(1.6506797405071985, within(1e-12));
        assertThat(e.metric("reward_chosen")).isCloseTo(0.031328257721973424, within(1e-12));
        assertThat(e.metric("reward_rejected")).isCloseTo(0.053407977629650605, within(1e-12));
        assertThat(e.metric("reward_margin")).isCloseTo(-0.02207971990767718, within(1e-12));
        // Of the log-ratios 0.05, 1.27, -0.91 and 0.16, all below the KL term, those of undesirable answers.
        assertThat(e.headlineValue()).isEqualTo(0.5);
        assertThat(ktoMetrics(task, true, true, true, true).metrics())
                .containsOnlyKeys("reward_accuracy", "reward_chosen", "kl");
    }

    private static Evaluation ktoMetrics(PreferTask task, boolean... good) {
        Examples rows = Examples.of(
                task,
                List.of(new Judgement("red", "buy", true), new Judgement("run", "buy", false)),
                TinyTokenizers.wordPiece(),
                Examples.Options.of(16),
                null);
        Meter meter = task.meter(rows);
        List<Target> targets = List.of(
                new Target.Ints(new int[0], 0),
                new Target.Floats(new float[8], 8),
                new Target.Floats(floats(ktoReference(-6.0, -9.5, -5.0, -8.0)), 4, 2),
                new Target.Floats(floats(judgements(task, good)), 4, 2));
        meter.add(
                new Batch(new int[0], new int[0], new int[0], targets, new int[] {0, 1, 2, 3}, 8, 0, 0, 4), KTO_LOGPS);
        return meter.evaluation();
    }

    private static float[] floats(double[] values) {
        float[] narrow = new float[values.length];
        for (int i = 0; i < narrow.length; i++) {
            narrow[i] = (float) values[i];
        }
        return narrow;
    }

    @Test
    void metricsAreThoseOfTrl() {
        Examples rows = Examples.of(
                new PreferTask(),
                List.of(new Preference("red", "buy", "run")),
                TinyTokenizers.wordPiece(),
                Examples.Options.of(16),
                null);
        Meter meter = new PreferTask().meter(rows);
        float[] reference = {-5.25f, -3.75f, -6.5f, -4.0f};
        Target counts = new Target.Floats(new float[] {3, 2, 4, 2}, 4);
        meter.add(
                new Batch(
                        new int[0],
                        new int[0],
                        new int[0],
                        List.of(new Target.Ints(new int[0], 0), counts, new Target.Floats(reference, 2, 2)),
                        new int[] {0, 1},
                        4,
                        0,
                        0,
                        2),
                LOGPS);
        Evaluation e = meter.evaluation();
        assertThat(e.loss()).isCloseTo(0.7223579378845761, within(1e-12));
        assertThat(e.metric("reward_accuracy")).isEqualTo(0.5);
        assertThat(e.metric("reward_margin")).isCloseTo(-0.05238692886008023, within(1e-12));
        assertThat(e.metric("reward_chosen")).isCloseTo(-0.10225730136697328, within(1e-12));
        assertThat(e.metric("reward_rejected")).isCloseTo(-0.04987037250689306, within(1e-12));
    }

    // ---- chats

    /// Written by transformers: `apply_chat_template(prompt, add_generation_prompt=True)`, and what follows that in
    /// `apply_chat_template(prompt + answer)`, as TRL takes them, here without the line break after the end token.
    private static final int[] PROMPT = {
        1, 85, 299, 284, 201, 279, 313, 16, 2, 201, 1, 298, 201, 314, 310, 272, 308, 276, 33, 2, 201, 1, 259, 315, 86,
        201
    };

    private static final int[] BLUE = {
        30, 86, 74, 75, 80, 77, 32, 201, 201, 30, 17, 86, 74, 75, 80, 77, 32, 201, 201, 281, 276, 272, 320, 16, 2
    };
    private static final int[] CAT = {
        30, 86, 74, 75, 80, 77, 32, 201, 201, 30, 17, 86, 74, 75, 80, 77, 32, 201, 201, 35, 275, 16, 2
    };

    private static final String ASKED =
            "{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"What colour is the sky?\"}";

    private static String said(String text) {
        return "{\"role\":\"assistant\",\"content\":\"" + text + "\"}";
    }

    private static Tokenizer chats() {
        return Tokenizer.load(
                Path.of(URI.create(Objects.requireNonNull(PreferTaskTest.class.getResource("/fixtures/chat"))
                        .toString())));
    }

    private static Examples read(PreferTask task, int maxLength, String... rows) {
        byte[] bytes = String.join("\n", rows).getBytes(StandardCharsets.UTF_8);
        try (Tokenizer tokenizer = chats()) {
            return Examples.read(
                    RowSource.stream(new ByteArrayInputStream(bytes), "rows"),
                    task,
                    tokenizer,
                    Examples.Options.of(maxLength),
                    null);
        }
    }

    private static int[] behind(int[] prompt, int[] answer) {
        return IntStream.concat(Arrays.stream(prompt), Arrays.stream(answer)).toArray();
    }

    private static void assertAsked(Examples rows, int row, int[] first, int[] second) {
        assertThat(rows.row(row).texts().get(0).ids()).containsExactly(behind(PROMPT, first));
        assertThat(rows.row(row).texts().get(1).ids()).containsExactly(behind(PROMPT, second));
        assertThat(rows.target(row)[0]).isEqualTo(PROMPT.length);
    }

    @Test
    void chatsBecomeTheIdsOfTransformersWhereverThePromptIs() {
        Examples rows = read(
                new PreferTask(),
                512,
                "{\"prompt\":[%s],\"chosen\":[%s],\"rejected\":[%s]}"
                        .formatted(ASKED, said("The sky is blue."), said("A cat.")),
                "{\"chosen\":[%1$s,%2$s],\"rejected\":[%1$s,%3$s]}"
                        .formatted(ASKED, said("The sky is blue."), said("A cat.")),
                "{\"prompt\":\"What colour is the sky?\",\"chosen\":[%1$s,%2$s],\"rejected\":[%1$s,%2$s]}"
                        .formatted(ASKED, said("A cat.")));
        assertAsked(rows, 0, BLUE, CAT);
        assertAsked(rows, 1, BLUE, CAT);
        assertAsked(rows, 2, CAT, CAT);
        assertThat(rows.answerRoom()).isZero();
        try (Tokenizer tokenizer = chats()) {
            TaskCard card = new PreferTask().card(rows, tokenizer, 512);
            assertThat(new PreferTask().with(card.task().settings())).isEqualTo(card.task());
            assertThat(card.chat()).isNotNull();
            Examples prompt = Examples.of(
                    Objects.requireNonNull(card.task().prompts()),
                    List.of(new Row.Unlabelled("A cat", null)),
                    tokenizer,
                    Examples.Options.of(512),
                    null);
            assertThat(prompt.ids(0))
                    .containsExactly(tokenizer.body(ChatTask.format(tokenizer).prompt(Chat.of("A cat"))));
        }
    }

    @Test
    void judgedChatsMeetAnswersToOtherPrompts() {
        Examples rows = read(
                new PreferTask(Loss.KTO, 0.1, 0),
                512,
                "{\"prompt\":[%s],\"completion\":[%s],\"label\":true}".formatted(ASKED, said("The sky is blue.")),
                "{\"prompt\":[%s],\"completion\":[%s],\"label\":false}"
                        .formatted(ASKED.replace("Be brief.", "Be long."), said("A cat.")));
        assertAsked(rows, 0, BLUE, CAT);
        assertThat(rows.target(0)[1]).isEqualTo(1);
        assertThat(rows.target(1)[1]).isZero();
    }

    @Test
    void longAnswersAreCutAndLongPromptsLeftOut() {
        String row = "{\"prompt\":[%s],\"chosen\":[%s],\"rejected\":[%s]}";
        Examples rows = read(
                new PreferTask(),
                30,
                row.formatted(ASKED, said("The sky is blue."), said("A cat.")),
                row.formatted(ASKED.replace("brief", "brief and brief"), said("The sky is blue."), said("A cat.")));
        assertThat(rows.size()).isEqualTo(1);
        assertThat(rows.ids(0)).hasSize(30);
        assertThat(rows.notices(null))
                .contains(
                        "rows: 1 chats are longer than 30 tokens: the ends of their answers were cut",
                        "rows: 1 of 2 rows were left out: their answers begin after 30 tokens");
    }

    @Test
    void badChatsAreNamed() {
        String blue = said("Blue.");
        badChat(
                "{\"prompt\":[],\"chosen\":[%s],\"rejected\":[%s]}".formatted(blue, blue),
                "field \"prompt\" must be a list of messages");
        badChat(
                "{\"prompt\":[%s],\"chosen\":\"Blue.\",\"rejected\":[%s]}".formatted(ASKED, blue),
                "field \"chosen\" must be a list of messages");
        badChat(
                "{\"prompt\":[%s],\"chosen\":[%s],\"rejected\":[{\"role\":\"assistant\"}]}".formatted(ASKED, blue),
                "message 1 of \"rejected\" has no \"content\"");
        badChat(
                "{\"prompt\":[%1$s],\"chosen\":[%2$s,%2$s],\"rejected\":[%2$s]}".formatted(ASKED, blue),
                "field \"chosen\" must end with one message after the prompt, the assistant's, found 2");
        badChat(
                "{\"prompt\":[%s],\"chosen\":[%s],\"rejected\":[{\"role\":\"user\",\"content\":\"Why?\"}]}"
                        .formatted(ASKED, blue),
                "field \"rejected\" must end with one message after the prompt, the assistant's, found 1 of \"user\"");
        badChat(
                "{\"chosen\":[%s],\"rejected\":[%s]}".formatted(blue, said("Red.")),
                "\"chosen\" and \"rejected\" begin with different messages; put those before the answers into both, or"
                        + " into \"prompt\"");
        badChat(
                "{\"prompt\":\"Why?\",\"chosen\":[%1$s,%2$s],\"rejected\":[%1$s,%3$s]}"
                        .formatted(ASKED, blue, said("Red.")),
                "field \"prompt\" is a text, and not that of the message before the answers; leave it out, or give the"
                        + " messages before the answers as a list");
        badChat(
                "{\"prompt\":\"Why?\",\"chosen\":\"a\",\"rejected\":\"b\"}",
                "some prompts are texts and others lists of messages; put them into files of their own");
    }

    /// As the second row.
    private static void badChat(String row, String message) {
        String good =
                "{\"prompt\":[%s],\"chosen\":[%s],\"rejected\":[%s]}".formatted(ASKED, said("Blue."), said("Red."));
        assertThatThrownBy(() -> read(new PreferTask(), 512, good, row))
                .isInstanceOf(InputException.class)
                .hasMessage("rows:2: " + message);
    }

    @Test
    void settingsAreKeptAndChecked() {
        PreferTask task = new PreferTask(Loss.IPO, 0.5, 0);
        assertThat(new PreferTask().with(task.settings())).isEqualTo(task);
        assertThat(TaskCard.of(task, 8).toJson().path("settings").path("beta").asText())
                .isEqualTo("0.5");
        refused(Map.of("beta", "0"), "beta 0.0 must be positive");
        refused(Map.of("beta", "much"), "beta \"much\" is not a number");
        PreferTask kto = new PreferTask(Loss.KTO, 0.1, 0, 1.5, 1);
        assertThat(new PreferTask().with(kto.settings())).isEqualTo(kto);
        assertThat(new PreferTask().with(Map.of("loss", "kto"))).isEqualTo(new PreferTask(Loss.KTO, 0.1, 0));
        refused(Map.of("loss", "orpo"), "loss \"orpo\" is not known; choose dpo, ipo or kto");
        refused(
                Map.of("desirable_weight", "2"),
                "desirable and undesirable weights are for the loss kto; leave them out for dpo");
        refused(
                Map.of("loss", "kto", "undesirable_weight", "0"),
                "desirable weight 1.0 and undesirable weight 0.0 must be positive");
        refused(
                Map.of("loss", "kto", "label_smoothing", "0.1"),
                "label smoothing is for the loss dpo; leave it out for kto");
        refused(Map.of("label_smoothing", "0.5"), "label smoothing 0.5 must be from 0 to below 0.5");
        refused(Map.of("gamma", "1"), "task prefer has no gamma; leave it out");
        assertThatThrownBy(() -> new LmTask().with(Map.of("beta", "1")))
                .isInstanceOf(InputException.class)
                .hasMessage("task lm has no beta; leave it out");
    }

    private static void refused(Map<String, String> settings, String message) {
        assertThatThrownBy(() -> new PreferTask().with(settings))
                .isInstanceOf(InputException.class)
                .hasMessage(message);
    }
}
