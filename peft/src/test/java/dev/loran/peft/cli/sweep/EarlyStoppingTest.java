package dev.loran.peft.cli.sweep;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Task;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TrainingListener;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class EarlyStoppingTest {
    private static final Task TASK = new ClassifyTask();

    @TempDir
    Path folder;

    private static void evaluate(TrainingListener run, int step, double accuracy) {
        run.evaluated(step, new Evaluation(10, 1, Map.of("accuracy", accuracy), TASK.headline()), true);
    }

    @Test
    void halvingPausesRunsAtTheirShareAndKeepsTheBest() {
        EarlyStopping stopping = new EarlyStopping(2, false, TASK, 5);
        assertThat(stopping.cuts()).isEqualTo(2);
        Map<String, TrainingListener> runs = new LinkedHashMap<>();
        for (String name : List.of("a", "b", "c", "d", "e")) {
            TrainingListener run = stopping.of(name);
            run.begun(0, 80);
            assertThat(run.wantsStop()).isFalse();
            runs.put(name, run);
        }
        double accuracy = 0.5;
        for (TrainingListener run : runs.values()) {
            evaluate(run, 15, accuracy);
            assertThat(run.wantsStop()).as("a quarter of 80 steps is not done").isFalse();
            evaluate(run, 20, accuracy += 0.05);
            assertThat(run.wantsStop()).isTrue();
        }
        assertThat(stopping.cut(List.copyOf(runs.keySet()), 5)).containsOnlyKeys("a", "b", "c");
        stopping.begin(1);
        TrainingListener last = stopping.of("e");
        last.begun(20, 80);
        assertThat(last.wantsStop()).isFalse();
        evaluate(last, 40, 0.1);
        assertThat(last.wantsStop()).isTrue();
        // What counts is the best that a run has reached.
        assertThat(stopping.cut(List.of("d", "e"), 2))
                .containsExactly(Map.entry("d", "number 2 of 2 at cut 2 of the halving; the best 1 went on"));
        stopping.begin(2);
        assertThat(last.wantsStop()).isFalse();
    }

    @Test
    void theMedianOfTheOthersMeansStopsARunWhoseBestIsWorse() throws Exception {
        EarlyStopping stopping = new EarlyStopping(null, true, TASK, 4);
        // By step 20, the means of the others are 0.5, 0.6 and 0.8: their median is 0.6.
        Files.writeString(folder.resolve("metrics.jsonl"), """
                {"step":10,"loss":1.0}
                {"step":10,"eval_loss":1.0,"eval_accuracy":0.4}
                {"step":20,"eval_loss":1.0,"eval_accuracy":0.6}
                {"step":30,"eval_loss":1.0,"eval_accuracy":0.99}
                {"step":40,"eval_lo""");
        stopping.read("a", new RunFolder(folder).metrics());
        for (String name : List.of("b", "c")) {
            TrainingListener run = stopping.of(name);
            evaluate(run, 10, name.equals("b") ? 0.6 : 0.8);
            evaluate(run, 20, name.equals("b") ? 0.6 : 0.8);
        }
        TrainingListener run = stopping.of("d");
        run.begun(0, 80);
        evaluate(run, 10, 0.61);
        evaluate(run, 20, 0.5);
        assertThat(run.wantsStop()).isFalse();
        TrainingListener worse = stopping.of("e");
        worse.begun(0, 80);
        evaluate(worse, 20, 0.55);
        assertThat(worse.wantsStop())
                .as("the others may still evaluate at this step")
                .isFalse();
        worse.begun(21, 80);
        assertThat(worse.wantsStop()).isTrue();
        assertThat(stopping.stopped("e"))
                .isEqualTo("its best accuracy by step 20, 0.5500, is worse than the median of 4 others, 0.5775");
        run.begun(21, 80);
        assertThat(run.wantsStop()).isFalse();
        assertThat(stopping.stopped("d")).isNull();
    }

    /// Several labels have both metrics.
    @Test
    void whatDecidesIsTheMainMetricOfTheRows() throws Exception {
        EarlyStopping stopping = new EarlyStopping(2, false, TASK, 2);
        Files.writeString(folder.resolve("metrics.jsonl"), """
                {"step":10,"eval_loss":1.0,"eval_micro_f1":0.9,"eval_accuracy":0.1}
                """);
        stopping.read("a", new RunFolder(folder).metrics());
        Files.writeString(folder.resolve("metrics.jsonl"), """
                {"step":10,"eval_loss":1.0,"eval_micro_f1":0.8,"eval_accuracy":0.2}
                """);
        stopping.read("b", new RunFolder(folder).metrics());
        assertThat(stopping.cut(List.of("a", "b"), 2)).containsOnlyKeys("b");
    }

    @Test
    void anEtaBelowTwoIsRefused() {
        assertThatThrownBy(() -> new EarlyStopping(1, false, TASK, 5))
                .isInstanceOf(InputException.class)
                .hasMessage("--halving 1 must be at least 2: the best 1/1 would go on");
    }
}
