package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.RerankTask.Passage;
import dev.loran.peft.task.RerankTask.Ranked;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

class RerankTaskTest {
    private static final List<String> WORDS = List.of("buy", "cheap", "shoes", "online", "red");

    private static Examples examples(RowSource rows) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.read(rows, new RerankTask(), tokenizer, Examples.Options.of(12), null);
        }
    }

    /// A passage a label, of one query.
    private static List<Row> rows(String query, double... labels) {
        return IntStream.range(0, labels.length)
                .<Row>mapToObj(i -> new Passage(query, WORDS.get(i % 5) + " " + WORDS.get(i / 5), labels[i]))
                .toList();
    }

    private static Evaluation evaluation(List<? extends Row> rows, double... logits) {
        Examples examples = examples(RowSource.of(rows));
        Meter meter = new RerankTask().meter(examples);
        meter.add(
                new DataLoader(examples, new DataLoader.Options(logits.length, false, 0, false, false, 1))
                        .epoch(0)
                        .getFirst(),
                logits);
        return meter.evaluation();
    }

    /// The figures are those of scikit-learn 1.9.1 (`ndcg_score` with k = 10, the mean over the queries) and of torch's
    /// `BCEWithLogitsLoss`.
    @Test
    void metricsAreThoseOfTheOracles() {
        double[] third = new double[13];
        third[0] = 1;
        third[2] = 1;
        List<Row> rows = new ArrayList<>(rows("red", 1, 0, 0, 0));
        rows.addAll(rows("running", 0.5, 1, 0, 0.25, 0));
        rows.addAll(rows("shoes", third));
        double[] logits = DoubleStream.concat(
                        DoubleStream.of(0.3, 1.2, -0.5, 0.1, 2, 0.5, 1, -1, 0, -1, 3, -2),
                        IntStream.range(0, 10).mapToDouble(i -> 2.5 - 0.25 * i))
                .toArray();
        Evaluation e = evaluation(rows, logits);
        assertThat(e.headlineValue())
                .isCloseTo(0.4640967842785573, within(1e-7))
                .isEqualTo(e.metric("ndcg@10"));
        // Ranks 2 and 1 (the label 0.5 is relevant), and beyond 10.
        assertThat(e.metric("mrr@10")).isCloseTo((0.5 + 1 + 0) / 3, within(1e-12));
        assertThat(e.loss()).isCloseTo(1.3779683576693271, within(1e-12));
        assertThat(e.rows()).isEqualTo(22);
    }

    @Test
    void aModelThatDoesNotTellPassagesApartGainsNothing() {
        Evaluation e = evaluation(rows("red", 1, 0, 0), 0.7, 0.7, 0.7);
        assertThat(e.metric("mrr@10")).isCloseTo(1 / 3.0, within(1e-12));
        assertThat(e.headlineValue()).isCloseTo(0.5, within(1e-12));
    }

    /// A query without a relevant passage counts in the loss only.
    @Test
    void aQueryWithoutAnAnswerIsLeftOut() {
        List<Row> rows = new ArrayList<>(rows("red", 1, 0));
        rows.addAll(rows("buy", 0, 0));
        assertThat(evaluation(rows, 1, 0, 1, 0).metrics())
                .containsEntry("ndcg@10", 1.0)
                .containsEntry("mrr@10", 1.0);
        assertThat(evaluation(rows("buy", 0, 0), 1, 0).headlineValue()).isZero();
    }

    @Test
    void aQueryWithListsIsARowForEachPassage() {
        Examples rows = examples(RowSource.of(List.of(
                new Ranked("red", List.of("red shoes"), List.of("buy", "online")), new Passage("red", "cheap", 0.25))));
        assertThat(rows.size()).isEqualTo(4);
        List<Float> labels = new ArrayList<>();
        for (int row = 0; row < 4; row++) {
            labels.add(Float.intBitsToFloat(rows.target(row)[0]));
            assertThat(rows.target(row)[1]).as("the query").isZero();
        }
        assertThat(labels).containsExactly(1f, 0f, 0f, 0.25f);
        // Both texts are one input, and the model can tell them apart.
        assertThat(rows.texts(0)).hasSize(1);
        assertThat(Arrays.stream(rows.tokenTypes(0)).max()).hasValue(1);
    }

    @Test
    void rowsOfAQueryAreHeldOutTogether() {
        List<Row> all = new ArrayList<>();
        for (int q = 0; q < 20; q++) {
            all.addAll(rows("query " + q, 1, 0, 0, 0));
        }
        Collections.rotate(all, 3);
        RowSource source = RowSource.of(all);
        List<Row> held = source.heldOut(0.2, 1).toList(new RerankTask());
        List<Row> rest = source.besides(0.2, 1).toList(new RerankTask());
        assertThat(held).hasSize(16);
        assertThat(rest).hasSize(64);
        assertThat(Stream.concat(held.stream(), rest.stream())).containsExactlyInAnyOrderElementsOf(all);
        assertThat(held.stream().map(Row::group).distinct()).hasSize(4);
        assertThat(rest.stream().map(Row::group))
                .doesNotContainAnyElementsOf(held.stream().map(Row::group).toList());
    }

    private static void refused(String line, String why) {
        byte[] bytes = line.getBytes(StandardCharsets.UTF_8);
        assertThatThrownBy(() -> examples(RowSource.stream(new ByteArrayInputStream(bytes), "rows.jsonl")))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith("rows.jsonl:1: " + why);
    }

    @Test
    void badRowsAreRefused() {
        refused(
                "{\"query\":\"red\",\"passage\":\"shoes\",\"label\":3}",
                "field \"label\" is 3.0, which is not from 0 to 1; divide grades by the highest");
        refused(
                "{\"query\":\"red\",\"passage\":\"shoes\"}",
                "field \"label\" is missing, found \"query\", \"passage\"");
        refused("{\"query\":\"red\",\"text\":\"shoes\"}", "field \"passage\" is missing, found \"query\", \"text\"");
        refused(
                "{\"query\":\"red\",\"positives\":[],\"negatives\":[]}",
                "\"positives\" and \"negatives\" are empty; a query needs a passage");
        refused(
                "{\"query\":\"red\",\"positives\":\"shoes\"}",
                "field \"positives\" must be a list of strings, none of them empty, found string");
        assertThat(examples(RowSource.stream(
                                new ByteArrayInputStream(
                                        "query,passage,score\nred,red shoes,0.5\n".getBytes(StandardCharsets.UTF_8)),
                                "rows.csv"))
                        .size())
                .isEqualTo(1);
    }
}
