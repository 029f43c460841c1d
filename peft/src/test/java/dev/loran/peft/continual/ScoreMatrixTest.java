package dev.loran.peft.continual;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.peft.task.Metric;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.w3c.dom.Document;

/// The numbers were computed by hand from the papers' definitions.
class ScoreMatrixTest {
    private static final List<String> TASKS = List.of("a", "b", "c");
    private static final Metric ACCURACY = new Metric("accuracy", true);
    private static final double NONE = Double.NaN;

    private static final ScoreMatrix FULL =
            new ScoreMatrix(TASKS, ACCURACY, new double[] {0.1, 0.25, 0.3}, new double[][] {
                {0.9, 0.3, 0.2}, {0.95, 0.8, 0.4}, {0.7, 0.85, 0.9}
            });

    private static final ScoreMatrix DISJOINT =
            new ScoreMatrix(TASKS, ACCURACY, new double[] {0.5, NONE, NONE}, new double[][] {
                {0.9, NONE, NONE}, {0.7, 0.8, NONE}, {0.5, 0.6, 0.95}
            });

    @Test
    void allScoresThere() {
        // (0.7 + 0.85 + 0.9) / 3
        assertThat(FULL.average()).isCloseTo(0.816666666666667, within(1e-12));
        // a: 0.95 - 0.7, b: 0.8 - 0.85
        assertThat(FULL.forgetting()).isCloseTo(0.1, within(1e-12));
        // a: 0.7 - 0.9, b: 0.85 - 0.8
        assertThat(FULL.backwardTransfer()).isCloseTo(-0.075, within(1e-12));
        // b: 0.3 - 0.25, c: 0.4 - 0.3
        assertThat(FULL.forwardTransfer()).isCloseTo(0.075, within(1e-12));
    }

    @Test
    void nothingIsKnownOfLaterTasks() {
        assertThat(DISJOINT.average()).isCloseTo(0.683333333333333, within(1e-12));
        assertThat(DISJOINT.forgetting()).isCloseTo(0.3, within(1e-12));
        assertThat(DISJOINT.backwardTransfer()).isCloseTo(-0.3, within(1e-12));
        assertThat(DISJOINT.forwardTransfer()).isNaN();
        assertThat(DISJOINT.toJson().toString())
                .startsWith("{\"initial\":[0.5,null,null],\"matrix\":[[0.9,null,null],[0.7,0.8,null],[0.5,0.6,0.95]],")
                .endsWith("\"forward_transfer\":null}");
        assertThat(DISJOINT.table())
                .containsExactly(
                        List.of("after", "1", "2", "3", "task"),
                        List.of("1", "0.900", "-", "-", "a"),
                        List.of("2", "0.700", "0.800", "-", "b"),
                        List.of("3", "0.500", "0.600", "0.950", "c"));
    }

    @Test
    void aMetricOfWhichLessIsBetterCountsTheOtherWay() {
        ScoreMatrix perplexity = new ScoreMatrix(
                List.of("a", "b"), new Metric("perplexity", false), new double[] {50, 40}, new double[][] {
                    {10, 30}, {14, 8}
                });
        assertThat(perplexity.average()).isEqualTo(11);
        assertThat(perplexity.forgetting()).isEqualTo(4);
        assertThat(perplexity.backwardTransfer()).isEqualTo(-4);
        assertThat(perplexity.forwardTransfer()).isEqualTo(10);
    }

    @Test
    void theHeatMapIsOneWellFormedFile() throws Exception {
        ScoreMatrix named =
                new ScoreMatrix(List.of("a&b", "<c>", "d\u0001"), ACCURACY, DISJOINT.initial(), DISJOINT.scores());
        Document svg = DocumentBuilderFactory.newInstance()
                .newDocumentBuilder()
                .parse(new ByteArrayInputStream(named.toSvg("scores < 1").getBytes(StandardCharsets.UTF_8)));
        assertThat(svg.getElementsByTagName("rect").getLength()).isEqualTo(1 + 9);
        assertThat(svg.getElementsByTagName("text").getLength()).isEqualTo(1 + 6 + 9);
        assertThat(svg.getDocumentElement().getTextContent()).contains("0.950", "scores < 1", "a&b");
    }

    @Test
    void scoresThatDoNotFitTheTasks() {
        assertThatThrownBy(() -> new ScoreMatrix(TASKS, ACCURACY, new double[3], new double[2][3]))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("ScoreMatrix: the scores do not fit 3 tasks");
    }
}
