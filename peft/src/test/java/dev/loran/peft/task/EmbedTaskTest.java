package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.GradCheck;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Row.Classify;
import dev.loran.peft.data.Row.Scored;
import dev.loran.peft.data.RowForm.Targets;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.EmbedTask.Pair;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class EmbedTaskTest {
    private static final int WIDTH = 5;

    private static final List<Pair> PAIRS = List.of(
            new Pair("red", "red shoes", null),
            new Pair("buy", "buy online", null),
            new Pair("cheap", "cheap shoes", null),
            new Pair("running", "running shoes", null));

    private static final List<Pair> TRIPLETS = PAIRS.stream()
            .map(pair -> new Pair(pair.anchor(), pair.positive(), "query " + pair.anchor()))
            .toList();

    private static final List<Scored> SCORED = List.of(
            new Scored("red", "red shoes", 0.9),
            new Scored("buy", "online", 0.1),
            new Scored("cheap", "shoes", 0.5),
            new Scored("running", "shoes", 0.5));

    private static final List<Classify> LABELLED = List.of(
            new Classify("red", "color"),
            new Classify("shoes", "thing"),
            new Classify("cheap", "color"),
            new Classify("running", "none other"),
            new Classify("online", "thing"),
            new Classify("buy", "color"));

    static Examples examples(List<? extends Row> rows) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(new EmbedTask(), rows, tokenizer, Examples.Options.of(24), null);
        }
    }

    private static Batch batch(Examples rows) {
        return new DataLoader(rows, new DataLoader.Options(rows.size(), false, 0, false, false, 1))
                .epoch(0)
                .getFirst();
    }

    /// Vectors of (anchor, positive[, negative]) of each row, as the oracle's script made them.
    private static double[] vectors(int rows, int texts) {
        double[] x = new double[rows * texts * WIDTH];
        for (int row = 0; row < rows; row++) {
            for (int t = 0; t < texts; t++) {
                int i = rows * t + row;
                for (int c = 0; c < WIDTH; c++) {
                    x[(row * texts + t) * WIDTH + c] = Math.sin(0.7 * i * i + 1.3 * c + 0.5 * i * c);
                }
            }
        }
        return x;
    }

    private static Tensor target(Backend backend, Target target) {
        return switch (target) {
            case Target.Ints(int[] values, int[] dims) -> Tensor.ofInts(backend, values, dims);
            case Target.Floats(float[] values, int[] dims) -> {
                double[] wide = new double[values.length];
                for (int i = 0; i < wide.length; i++) {
                    wide[i] = values[i];
                }
                yield Tensor.of(backend, DType.F64, wide, dims);
            }
        };
    }

    /// @param oracle what `MultipleNegativesRankingLoss` and `CoSENTLoss` of sentence-transformers 6.0.1 give in F64;
    ///     for labels, equation 2 of Khosla et al. (2020) in a script of its own
    record Case(List<? extends Row> rows, int texts, double oracle) {}

    static Stream<Case> cases() {
        return Stream.of(
                new Case(PAIRS, 2, 8.024712010044656),
                new Case(TRIPLETS, 3, 8.837713608079657),
                new Case(SCORED, 2, 13.368712737930137),
                new Case(LABELLED, 1, 8.599142837344553));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void theLossesAreThoseOfSentenceTransformers(Case c) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Batch batch = batch(examples(c.rows));
            Tensor x = Tensor.of(backend, DType.F64, vectors(c.rows.size(), c.texts), c.rows.size() * c.texts, WIDTH);
            x.requiresGrad(true);
            Tensor first = target(backend, batch.targets().get(0));
            Tensor second = target(backend, batch.targets().get(1));
            // The factors of the labels' loss are F32.
            double near = c.texts == 1 ? 1e-6 : 1e-9;
            assertThat(new EmbedTask().loss(x, first, second).item()).isCloseTo(c.oracle, within(near));
            GradCheck.check("embed", Map.of("vectors", x), () -> new EmbedTask().loss(x, first, second));

            // The loss of an evaluation, whose code is another.
            Meter meter = new EmbedTask().meter(examples(c.rows));
            meter.add(batch, x.toDoubles());
            assertThat(meter.evaluation().loss()).isCloseTo(c.oracle, within(1e-9));
        }
    }

    /// A row alone has nothing to be compared with.
    @ParameterizedTest
    @MethodSource("cases")
    void oneRowIsABatch(Case c) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Batch batch = batch(examples(List.of((Row) c.rows.getFirst())));
            Tensor x = Tensor.of(backend, DType.F64, vectors(1, c.texts), c.texts, WIDTH);
            double loss = new EmbedTask()
                    .loss(
                            x,
                            target(backend, batch.targets().get(0)),
                            target(backend, batch.targets().get(1)))
                    .item();
            assertThat(loss > 0).isEqualTo(c.texts == 3);
            assertThat(loss).isFinite();
        }
    }

    @Test
    void whatMayBelongToAnAnchorIsNoNegative() {
        Examples rows = examples(List.of(
                new Pair("red", "red shoes", "cheap"),
                new Pair("buy", "red shoes", "query"), // the same positive
                new Pair("red", "shoes", "red shoes"), // the same anchor
                new Pair("cheap", "red", "online"))); // the anchor itself
        Targets targets = new EmbedTask().targets(rows, new int[] {0, 1, 2, 3}, 24);
        float[] mask = ((Target.Floats) targets.values().get(1)).values();
        String[] compared = {"", "", "", ""};
        for (int i = 0; i < mask.length; i++) {
            compared[i / 8] += mask[i] == 0 ? "1" : "0";
        }
        // Positives of the rows 0 to 3, then their negatives.
        assertThat(compared).containsExactly("10001101", "01111101", "00101101", "11110111");
        assertThat(targets.lossTerms()).isEqualTo(4);
    }

    // ---- metrics

    private static Evaluation evaluation(List<? extends Row> rows, double[] vectors) {
        Examples examples = examples(rows);
        Meter meter = new EmbedTask().meter(examples);
        meter.add(batch(examples), vectors);
        return meter.evaluation();
    }

    private static double[] at(double... degrees) {
        double[] x = new double[2 * degrees.length];
        for (int i = 0; i < degrees.length; i++) {
            x[2 * i] = 3 * Math.cos(Math.toRadians(degrees[i]));
            x[2 * i + 1] = 3 * Math.sin(Math.toRadians(degrees[i]));
        }
        return x;
    }

    @Test
    void ranksAreCountedAmongAllPositives() {
        // Positives at 0, 40, 80 and 120 degrees; anchors nearest to the 1st, the 1st, the 2nd and the 4th.
        Evaluation e = evaluation(PAIRS, at(1, 0, 15, 40, 30, 80, 125, 120));
        // Ranks 1, 2, 3, 1.
        assertThat(e.metric("recall@1")).isEqualTo(0.5);
        assertThat(e.metric("recall@10")).isEqualTo(1);
        assertThat(e.metric("mrr@10")).isCloseTo((1 + 1 / 2.0 + 1 / 3.0 + 1) / 4, within(1e-12));
        assertThat(e.headlineValue())
                .isCloseTo((1 + Math.log(2) / Math.log(3) + 1 / 2.0 + 1) / 4, within(1e-12))
                .isEqualTo(e.metric("ndcg@10"));
        assertThat(e.rows()).isEqualTo(4);
    }

    @Test
    void anAnchorMayHaveSeveralPositives() {
        List<Pair> rows = List.of(
                new Pair("red", "red shoes", null),
                new Pair("red", "shoes", null),
                new Pair("buy", "online", null),
                new Pair("cheap", "online", null));
        // Different positives at 0, 60 and 30 degrees. The first anchor finds its two at the ranks 1 and 3.
        Evaluation e = evaluation(rows, at(5, 0, 5, 60, 29, 30, 58, 30));
        assertThat(e.metric("recall@1")).isCloseTo((0.5 + 1 + 0) / 3, within(1e-12));
        assertThat(e.metric("mrr@10")).isCloseTo((1 + 1 + 0.5) / 3, within(1e-12));
        double two = 1 + Math.log(2) / Math.log(3);
        assertThat(e.headlineValue()).isCloseTo((1.5 / two + 1 + two - 1) / 3, within(1e-12));
    }

    @Test
    void aTextSearchesThoseWithItsLabel() {
        List<Classify> rows = List.of(
                new Classify("red", "a"),
                new Classify("shoes", "a"),
                new Classify("cheap", "b"),
                new Classify("online", "b"),
                new Classify("buy", "c"));
        Evaluation e = evaluation(rows, at(0, 10, 12, 50, 100));
        // Ranks 1, 2, 3, 1; nobody has the label of the last.
        assertThat(e.metric("recall@1")).isEqualTo(0.5);
        assertThat(e.metric("mrr@10")).isCloseTo((1 + 1 / 2.0 + 1 / 3.0 + 1) / 4, within(1e-12));
        assertThat(e.headlineValue()).isCloseTo((1 + Math.log(2) / Math.log(3) + 1 / 2.0 + 1) / 4, within(1e-12));
        assertThat(e.rows()).isEqualTo(5);
    }

    @Test
    void vectorsThatAreAllTheSameFindNothing() {
        assertThat(evaluation(PAIRS, at(7, 7, 7, 7, 7, 7, 7, 7)).metrics())
                .containsEntry("recall@1", 0.0)
                .containsEntry("mrr@10", 0.25)
                .containsEntry("recall@10", 1.0);
    }

    /// More rows than are compared at once.
    @Test
    void manyRowsAreComparedBlockByBlock() {
        int n = 300;
        List<String> words = List.of("buy", "cheap", "shoes", "online", "red");
        List<Pair> rows = IntStream.range(0, n)
                .mapToObj(i -> IntStream.iterate(i, rest -> rest / 5)
                        .limit(4)
                        .mapToObj(rest -> words.get(rest % 5))
                        .collect(Collectors.joining(" ")))
                .map(text -> new Pair(text, "query " + text, null))
                .toList();
        double[] x = new Random(5).doubles(2L * n * WIDTH, -1, 1).toArray();
        int first = 0;
        int ten = 0;
        for (int i = 0; i < n; i++) {
            int before = 0;
            for (int j = 0; j < n; j++) {
                before += cosine(x, 2 * i, 2 * j + 1) > cosine(x, 2 * i, 2 * i + 1) ? 1 : 0;
            }
            first += before < 1 ? 1 : 0;
            ten += before < 10 ? 1 : 0;
        }
        assertThat(ten).isBetween(5, 100);
        Evaluation e = evaluation(rows, x);
        assertThat(e.metric("recall@1")).isEqualTo((double) first / n);
        assertThat(e.metric("recall@10")).isEqualTo((double) ten / n);
    }

    private static double cosine(double[] x, int a, int b) {
        double ab = 0;
        double aa = 0;
        double bb = 0;
        for (int c = 0; c < WIDTH; c++) {
            ab += x[a * WIDTH + c] * x[b * WIDTH + c];
            aa += x[a * WIDTH + c] * x[a * WIDTH + c];
            bb += x[b * WIDTH + c] * x[b * WIDTH + c];
        }
        return ab / Math.sqrt(aa * bb);
    }

    @Test
    void correlationsAreThoseOfTheFormulas() {
        // Cosines cos(0), cos(90), cos(60), cos(30); scores 0.9, 0.1, 0.5, 0.5 (ranks 4, 1, 2.5, 2.5).
        Evaluation e = evaluation(SCORED, at(0, 0, 0, 90, 0, 60, 0, 30));
        assertThat(e.headline().name()).isEqualTo("spearman");
        // Ranks of cosines 4, 1, 2, 3: covariance 4.5 of the variances 5 and 4.5.
        assertThat(e.headlineValue()).isCloseTo(4.5 / Math.sqrt(5 * 4.5), within(1e-12));
        double[] x = {1, 0, 0.5, Math.sqrt(0.75)};
        double mean = (1.5 + x[3]) / 4;
        double xy = 0;
        double xx = 0;
        double[] s = {0.4, -0.4, 0, 0};
        for (int i = 0; i < 4; i++) {
            xy += (x[i] - mean) * s[i];
            xx += (x[i] - mean) * (x[i] - mean);
        }
        assertThat(e.metric("pearson")).isCloseTo(xy / Math.sqrt(xx * 0.32), within(1e-6));
        assertThat(evaluation(SCORED, at(0, 5, 0, 5, 0, 5, 0, 5)).headlineValue())
                .isZero();
        assertThat(RegressTask.ranks(new double[] {3, Double.NaN, 1})).contains(1, 2, 3);
    }

    // ---- rows

    @Test
    void queriesAndPassagesHaveTheirPrefixes() {
        Task task = new EmbedTask().with(Map.of("query_prefix", "query ", "passage_prefix", "online "));
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Examples.Options reading = Examples.Options.of(24).withTextPrefix("cheap ");
            assertThat(Examples.of(task, List.of(new Pair("red", "buy", "run")), tokenizer, reading, null)
                            .texts(0))
                    .containsExactly("query red", "online buy", "online run");
            assertThat(Examples.of(task, List.of(new Row.Scored("red", "buy", 1)), tokenizer, reading, null)
                            .texts(0))
                    .containsExactly("query red", "query buy");
            assertThat(Examples.of(new EmbedTask(), List.of(new Pair("red", "buy", null)), tokenizer, reading, null)
                            .texts(0))
                    .containsExactly("cheap red", "cheap buy");
        }
        assertThat(new EmbedTask().with(task.settings())).isEqualTo(task);
        assertThatThrownBy(() -> new EmbedTask().with(Map.of("prefix", "a")))
                .hasMessage("task embed has no prefix; leave it out");
    }

    @Test
    void aRowOfAnotherFormIsRefusedWithItsLine() {
        assertThatThrownBy(() -> examples(List.of(PAIRS.get(0), TRIPLETS.get(1))))
                .isInstanceOf(InputException.class)
                .hasMessage("rows:2: the rows are pairs of anchor and positive, but this one is one of the triplets"
                        + " with a negative; put them into files of their own");
        assertThatThrownBy(() -> examples(List.of(new Row.Text("red"))))
                .isInstanceOf(InputException.class)
                .hasMessage("rows:1: a row of another form, Text, among rows of task embed");
    }
}
