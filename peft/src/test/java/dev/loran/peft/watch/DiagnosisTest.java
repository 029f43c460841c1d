package dev.loran.peft.watch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.IntToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Each finding on files of a run that has the fault, and its absence on files of one that has not.
class DiagnosisTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Diagnosis.UsualRates USUAL = new Diagnosis.UsualRates(1e-4, 5e-4);
    private static final int STEPS = 200;

    @TempDir
    Path folder;

    /// The files of a run in which nothing is wrong, to be spoiled.
    private final class MadeUp {
        final ObjectNode options = JSON.createObjectNode()
                .put("method", "lora")
                .put("lr", 5e-4)
                .put("rank", 8)
                .put("max-length", 128)
                .put("max-grad-norm", 1.0)
                .put("batch-size", 16);
        final ObjectNode facts = JSON.createObjectNode()
                .put("device", "cpu")
                .put("memory_mib", 8000)
                .put("planned_tensor_mib", 500)
                .put("max_positions", 512);
        final ObjectNode train = facts.putObject("train")
                .put("rows", 1000)
                .put("truncated", 10)
                .put("unknown_share", 0.001)
                .put("majority", 300);
        final ObjectNode held = facts.putObject("held_out").put("rows", 100).put("majority", 30);
        final ObjectNode result = JSON.createObjectNode().put("peak_memory_mib", 900);
        final double[][] evaluations = {{100, 0.5, 0.8}, {200, 0.4, 0.85}};
        /// Falls from 2 to 0.3 within the first half, and stays there but for noise.
        IntToDoubleFunction loss = step -> 0.3 + 1.7 * Math.exp(-step / 20.0) + 0.02 * Math.sin(step * 37.0);

        IntToDoubleFunction norm = step -> 0.7 + 0.2 * Math.sin(step * 11.0);
        IntToDoubleFunction seconds = step -> 0.1;
        double dataSeconds = 0.001;

        Diagnosis diagnosis() throws IOException {
            StringBuilder lines = new StringBuilder();
            double time = 0;
            for (int step = 1; step <= STEPS; step++) {
                time += seconds.applyAsDouble(step);
                lines.append(JSON.createObjectNode()
                                .put("step", step)
                                .put("loss", loss.applyAsDouble(step))
                                .put("lr", 5e-4)
                                .put("grad_norm", norm.applyAsDouble(step))
                                .put("tokens", 500)
                                .put("data_seconds", dataSeconds)
                                .put("seconds", time))
                        .append('\n');
                for (double[] e : evaluations) {
                    if (e[0] == step) {
                        lines.append(JSON.createObjectNode()
                                        .put("step", step)
                                        .put("eval_loss", e[1])
                                        .put("eval_accuracy", e[2]))
                                .append('\n');
                    }
                }
            }
            Files.writeString(folder.resolve("metrics.jsonl"), lines);
            for (Map.Entry<String, ObjectNode> e :
                    Map.of("run", options, "facts", facts, "result", result).entrySet()) {
                Files.writeString(
                        folder.resolve(e.getKey() + ".json"), e.getValue().toString());
            }
            return Diagnosis.of(new RunFolder(folder), USUAL);
        }
    }

    private List<String> names(Consumer<MadeUp> spoil) throws IOException {
        return findings(spoil).stream().map(Finding::name).toList();
    }

    private List<Finding> findings(Consumer<MadeUp> spoil) throws IOException {
        MadeUp run = new MadeUp();
        spoil.accept(run);
        return run.diagnosis().findings();
    }

    private Finding only(Consumer<MadeUp> spoil) throws IOException {
        List<Finding> findings = findings(spoil);
        assertThat(findings).hasSize(1);
        return findings.getFirst();
    }

    @Test
    void nothingIsFoundInAGoodRun() throws IOException {
        Diagnosis good = new MadeUp().diagnosis();
        assertThat(good.findings()).isEmpty();
        assertThat(good.notChecked()).isEmpty();
    }

    @Test
    void aRateThatIsTooHighShowsInALossThatRisesOrJumps() throws IOException {
        Finding rising = only(run -> {
            run.options.put("lr", 0.1);
            run.loss = step -> 1 + step / 100.0;
        });
        assertThat(rising.name()).isEqualTo("rate_too_high");
        assertThat(rising.serious()).isTrue();
        assertThat(rising.evidence()).isEqualTo("the loss rose from 1.11 to 2.91");
        assertThat(rising.advice()).startsWith("--lr 5e-4 (it was 0.1; usual are 1e-4 to 5e-4)");

        Finding hill = only(run -> run.loss = step -> step < 6 ? 1 : step < 80 ? 4 : 0.9);
        assertThat(hill.name()).isEqualTo("rate_too_high");
        assertThat(hill.evidence()).isEqualTo("the loss rose from 1.00 to 4.00 before it fell to 0.900");

        Finding jumping = only(run -> {
            IntToDoubleFunction calm = run.loss;
            run.loss = step -> step % 40 == 39 ? 9 : calm.applyAsDouble(step);
        });
        assertThat(jumping.name()).isEqualTo("rate_too_high");
        assertThat(jumping.evidence())
                .startsWith("5 of 200 steps jumped (39, 79, 119, 159, 199; first at step 39: the loss jumped to 9.00");
        assertThat(jumping.advice()).startsWith("--lr 1.7e-4 ");
    }

    @Test
    void aFewSpikesAreAHint() throws IOException {
        Finding spike = only(run -> {
            IntToDoubleFunction calm = run.norm;
            run.norm = step -> step == 120 ? 50 : calm.applyAsDouble(step);
        });
        assertThat(spike.name()).isEqualTo("spikes");
        assertThat(spike.serious()).isFalse();
        assertThat(spike.evidence()).contains("1 of 200 steps", "step 120: the norm of the gradients jumped to 50.0");
    }

    @Test
    void clippingOfMostSteps() throws IOException {
        Finding clipped = only(run -> run.norm = step -> 4 + 0.5 * Math.sin(step * 11.0));
        assertThat(clipped.name()).isEqualTo("always_clipped");
        assertThat(clipped.evidence()).startsWith("100 % of the steps after the warm-up were clipped");
        assertThat(clipped.advice()).startsWith("--max-grad-norm 8");
        assertThat(names(run -> run.norm = step -> step % 2 == 0 ? 1.3 : 0.8)).isEmpty();
    }

    @Test
    void aRateThatIsTooLow() throws IOException {
        Finding low = only(run -> {
            run.options.put("lr", 1e-6);
            run.loss = step -> 2 - step / 2000.0;
        });
        assertThat(low.name()).isEqualTo("rate_too_low");
        assertThat(low.advice()).startsWith("--lr 5e-4: ");
        assertThat(names(run -> run.options.put("lr", 1e-6))).isEmpty();
    }

    @Test
    void aLossThatStaysHighNeedsMoreParameters() throws IOException {
        Consumer<MadeUp> flat = run -> run.loss = step -> 1.5 + 0.5 * Math.exp(-step / 20.0);
        Finding few = only(flat);
        assertThat(few.name()).isEqualTo("too_few_parameters");
        assertThat(few.advice()).isEqualTo("--rank 16, or --targets all-linear");
        assertThat(only(flat.andThen(run -> run.options.put("method", "prefix").put("virtual-tokens", 20)))
                        .advice())
                .startsWith("--virtual-tokens 40");
    }

    @Test
    void aLossThatStillFallsIsNotDone() throws IOException {
        Finding early = only(run -> run.loss = step -> 2 - step / 120.0);
        assertThat(early.name()).isEqualTo("not_done");
        assertThat(early.advice()).contains("--epochs");
    }

    @Test
    void overfitting() throws IOException {
        Finding over = only(run -> {
            run.evaluations[1][1] = 0.7;
            run.loss = step -> 0.3 + 1.7 * Math.exp(-step / 40.0);
        });
        assertThat(over.name()).isEqualTo("overfitting");
        assertThat(over.evidence()).contains("lowest after step 100 (0.500) and rose to 0.700");
        // Both rise: the rate is the reason.
        assertThat(names(run -> {
                    run.evaluations[1][1] = 0.7;
                    run.loss = step -> 1 + step / 100.0;
                }))
                .containsExactly("rate_too_high");
    }

    @Test
    void nothingLearntOverTheMajorityClass() throws IOException {
        Finding majority = only(run -> {
            run.held.put("majority", 80);
            run.evaluations[1][2] = 0.82;
        });
        assertThat(majority.name()).isEqualTo("majority_class");
        assertThat(majority.evidence()).contains("0.820", "0.800 ± 0.080 of the 100 held-out rows");
        assertThat(names(run -> run.held.put("majority", 50))).isEmpty();
        assertThat(names(run -> run.train.put("majority", 930))).containsExactly("unbalanced");
    }

    @Test
    void targetsWithoutGradient() throws IOException {
        Finding without = only(run -> run.result.putArray("without_gradient").add("pooler.dense.lora_A"));
        assertThat(without.name()).isEqualTo("without_gradient");
        assertThat(without.evidence()).contains("pooler.dense.lora_A");
    }

    @Test
    void truncationAndUnknownTokens() throws IOException {
        Finding most = only(run -> run.train.put("truncated", 700));
        assertThat(most.name()).isEqualTo("truncated");
        assertThat(most.serious()).isTrue();
        assertThat(most.evidence()).isEqualTo("70 % of the texts are longer than the 128 tokens that were read");
        assertThat(most.advice()).startsWith("--max-length 256 ");
        assertThat(only(run -> run.train.put("truncated", 200)).serious()).isFalse();
        Finding unknown = only(run -> run.train.put("unknown_share", 0.3));
        assertThat(unknown.name()).isEqualTo("unknown_tokens");
        assertThat(unknown.serious()).isTrue();
        assertThat(only(run -> run.train.put("unknown_share", 0.05)).serious()).isFalse();
    }

    @Test
    void memoryNearItsLimit() throws IOException {
        Finding full = only(run -> run.result.put("peak_memory_mib", 7500));
        assertThat(full.name()).isEqualTo("memory_nearly_full");
        assertThat(full.evidence()).isEqualTo("the run needed 7,500 of 8,000 MiB");
        assertThat(full.advice()).startsWith("--batch-size 8 with --accumulation 2; ");
        // A run that was killed has no result, but a plan.
        Finding killed = only(run -> {
            run.result.removeAll();
            run.facts.put("planned_tensor_mib", 7900);
        });
        assertThat(killed.evidence()).isEqualTo("the run was planned to need 7,900 of 8,000 MiB");
        assertThat(names(run -> run.facts.put("device", "cuda"))).isEmpty();
        assertThat(names(run -> {
                    run.facts.put("device", "cuda");
                    run.result.put("peak_tensor_mib", 7500);
                }))
                .containsExactly("memory_nearly_full");
    }

    @Test
    void slowDataAndStepsThatSlowDown() throws IOException {
        Finding data = only(run -> run.dataSeconds = 0.05);
        assertThat(data.name()).isEqualTo("slow_data");
        assertThat(data.evidence()).isEqualTo("reading rows took 10.0 of 20.0 seconds");
        Finding slowing = only(run -> run.seconds = step -> step > 100 ? 0.2 : 0.1);
        assertThat(slowing.name()).isEqualTo("slowing_down");
        assertThat(slowing.evidence()).startsWith("5000 tokens/s in the first half of the steps, 2500 in the later");
    }

    @Test
    void whatWasNotRecordedIsSaid() throws IOException {
        new MadeUp().diagnosis();
        Files.delete(folder.resolve("facts.json"));
        Files.delete(folder.resolve("result.json"));
        String lines = IntStream.rangeClosed(1, 10)
                .mapToObj(step -> "{\"step\":%d,\"loss\":1.0,\"tokens\":5,\"seconds\":1}%n".formatted(step))
                .collect(Collectors.joining());
        Files.writeString(folder.resolve("metrics.jsonl"), lines);
        Diagnosis little = Diagnosis.of(new RunFolder(folder), USUAL);
        assertThat(little.findings()).isEmpty();
        assertThat(little.notChecked())
                .containsExactly(
                        "overfitting: no rows were held out (--eval)",
                        "the course of the loss: 10 steps are too few, 40 are enough",
                        "classes, truncation and unknown tokens: the run has no facts.json",
                        "memory: the run did not record how much there is",
                        "the time for reading rows: not all steps recorded it");
        Files.writeString(folder.resolve("metrics.jsonl"), "{\"step\":1}\n");
        assertThatThrownBy(() -> Diagnosis.of(new RunFolder(folder), USUAL))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("metrics.jsonl:1: is no line of a run's metrics");
    }
}
