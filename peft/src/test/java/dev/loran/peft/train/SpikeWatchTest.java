package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SpikeWatchTest {
    /// Losses of 1 ± 0.1 and norms of 2 ± 0.2, but for those given.
    private static @Nullable Spike after(int steps, double loss, double norm) {
        SpikeWatch watch = new SpikeWatch();
        Random random = new Random(7);
        for (int i = 0; i < steps; i++) {
            assertThat(watch.next(1 + 0.1 * random.nextGaussian(), 2 + 0.2 * random.nextGaussian()))
                    .isNull();
        }
        return watch.next(loss, norm);
    }

    @Test
    void whatIsFarAboveTheStepsBeforeIsASpike() {
        Spike spike = Objects.requireNonNull(after(500, 5, 2));
        assertThat(spike.of()).isEqualTo(Spike.Of.LOSS);
        assertThat(spike.value()).isEqualTo(5);
        assertThat(spike.median()).isBetween(0.9, 1.1);
        // Ten standard deviations of 0.1 over the median, as the median distance from the median estimates them.
        assertThat(spike.limit()).isBetween(1.7, 2.3);
        assertThat(spike)
                .hasToString("the loss jumped to 5.00, where its median had been %.3g".formatted(spike.median()));
        assertThat(Objects.requireNonNull(after(500, 1, 20)).of()).isEqualTo(Spike.Of.GRAD_NORM);
        assertThat(after(500, 1.5, 3)).isNull();
        assertThat(after(500, Double.NaN, 3)).isNull();
        assertThat(after(500, 0.1, 0.1)).isNull();
    }

    @Test
    void theFirstStepsAreNotJudged() {
        assertThat(after(19, 50, 50)).isNull();
        assertThat(after(20, 50, 50)).isNotNull();
    }

    /// Where all rows are learned, the loss of a single hard one is far above the others'.
    @Test
    void aHardRowAmongLearnedOnesIsNone() {
        SpikeWatch watch = new SpikeWatch();
        for (int i = 0; i < 300; i++) {
            assertThat(watch.next(2 * Math.exp(-i / 50.0), 1)).isNull();
        }
        assertThat(watch.next(0.5, 1)).isNull();
        assertThat(watch.next(1.5, 1)).isNotNull();
    }

    /// Spikes do not raise the limit for those that follow.
    @Test
    void spikesThatFollowEachOtherAreAllFound() {
        SpikeWatch watch = new SpikeWatch();
        for (int i = 0; i < 100; i++) {
            watch.next(1, 1);
        }
        for (int i = 0; i < 20; i++) {
            assertThat(watch.next(10, 1)).isNotNull();
        }
    }

    // ---- in training

    /// Its loss is 40 times as high at step 31; it may fail at another.
    private static final class Jumping extends Around {
        private final int failing;
        private int number;

        Jumping(TaskModel model, int failing) {
            super(model);
            this.failing = failing;
        }

        @Override
        public void microStep(int next) {
            if (next + 1 == failing) {
                throw new IllegalStateException("killed");
            }
            number = next;
            super.microStep(next);
        }

        @Override
        public Tensor loss(Batch batch) {
            Tensor loss = super.loss(batch);
            return number + 1 == 31 ? loss.mul(Tensor.full(backend(), dtype(), 40)) : loss;
        }
    }

    private static final Examples ROWS = Tiny.examples(24, 1);

    /// Trains for 40 steps, or until the step that fails, and returns what was reported.
    private static List<String> train(RunFolder folder, int keep, int failing) {
        List<String> lines = new ArrayList<>();
        TrainerConfig config = TrainerConfig.defaults()
                .withSteps(40)
                .withBatch(4, 1)
                .withSpikesToKeep(keep)
                .withCheckpoints(new TrainerConfig.Checkpoints(10, 1));
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
            TaskCard card = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
            try (TaskModel model = TaskModel.of(peft, card, 11);
                    Trainer trainer = new Trainer(new Jumping(model, failing), config)) {
                trainer.train(ROWS, null, folder, new TrainingListener() {
                    @Override
                    public void step(StepResult result, int totalSteps, double seconds) {
                        if (result.spike() != null) {
                            lines.add(result.step() + ": " + result.spike());
                        }
                    }
                });
            } catch (IllegalStateException e) {
                lines.add(String.valueOf(e.getMessage()));
            }
        }
        return lines;
    }

    @Test
    void theRowsOfASpikeAreKept(@TempDir Path out) throws IOException {
        RunFolder run = RunFolder.create(out.resolve("run"));
        List<String> lines = train(run, 3, 0);
        assertThat(lines).hasSize(1);
        assertThat(lines.getFirst()).startsWith("31: the loss jumped to ");
        assertThat(run.spikes()).isDirectoryContaining("glob:**/step-31.json");
        JsonNode kept =
                new ObjectMapper().readTree(run.spikes().resolve("step-31.json").toFile());
        assertThat(kept.get("of").asText()).isEqualTo("loss");
        assertThat(kept.get("loss").doubleValue())
                .isGreaterThan(kept.get("limit").doubleValue());
        assertThat(kept.get("rows")).hasSize(4);
        for (JsonNode entry : kept.get("rows")) {
            int row = entry.get("row").intValue() - 1;
            assertThat(entry.get("ids")
                            .get(0)
                            .valueStream()
                            .mapToInt(JsonNode::intValue)
                            .toArray())
                    .isEqualTo(ROWS.ids(row));
            assertThat(entry.get("texts").get(0).asText())
                    .isEqualTo(ROWS.texts(row).getFirst())
                    .isNotEmpty();
            assertThat(entry.get("target").get(0).intValue()).isEqualTo(ROWS.target(row)[0]);
        }
        JsonNode line = run.metrics().get(30);
        assertThat(line.get("spike").asText()).isEqualTo(lines.getFirst().substring("31: ".length()));
        assertThat(run.metrics().get(29).has("spike")).isFalse();
    }

    @Test
    void aResumedRunJudgesByTheStepsBeforeIt(@TempDir Path out) {
        RunFolder run = RunFolder.create(out.resolve("run"));
        assertThat(train(run, 3, 35)).hasSize(2).last().isEqualTo("killed");
        // It goes on after step 30.
        assertThat(train(RunFolder.resume(run.path()), 3, 0))
                .singleElement()
                .asString()
                .startsWith("31: ");
        assertThat(Objects.requireNonNull(run.spikes().toFile().list())).containsExactly("step-31.json");
    }

    @Test
    void theWatchCanBeTurnedOff(@TempDir Path out) {
        RunFolder run = RunFolder.create(out.resolve("run"));
        assertThat(train(run, 0, 0)).isEmpty();
        assertThat(Files.exists(run.spikes())).isFalse();
    }
}
