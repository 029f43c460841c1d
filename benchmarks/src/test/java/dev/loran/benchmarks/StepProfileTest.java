package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.benchmarks.StepProfile.Frame;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

class StepProfileTest {
    private static final String KERNELS = "dev.loran.kernels.";
    private static final String ENGINE = "dev.loran.engine.";

    /// Makes a stack, innermost frame first, of `type.method`.
    private static List<Frame> stack(String... frames) {
        return Arrays.stream(frames)
                .map(f -> new Frame(f.substring(0, f.lastIndexOf('.')), f.substring(f.lastIndexOf('.') + 1)))
                .toList();
    }

    @Test
    void callingThreadTellsTheOperation() {
        List<Frame> backward = stack(
                "jdk.incubator.vector.FloatVector.fma",
                KERNELS + "Vectors.load",
                KERNELS + "GemmTiles.tile",
                KERNELS + "GemmSimd.lambda$multiply$0",
                KERNELS + "Parallel.parallelFor",
                KERNELS + "LoraLinearSimd.backward",
                KERNELS + "SimdBackend.loraLinearBackward",
                ENGINE + "functional.LoraLinearOp.backward",
                ENGINE + "Autograd.backward",
                ENGINE + "CheckpointOp.backward",
                "dev.loran.benchmarks.TrainingStep.run");
        assertThat(StepProfile.operation(backward)).isEqualTo("LoraLinearOp backward loraLinearBackward");
        assertThat(StepProfile.kernel(backward)).isEqualTo("GemmTiles");
        Frame lambda = new Frame(KERNELS + "GemmBf16$$Lambda.0x000000003815f870", "run");
        assertThat(StepProfile.kernel(List.of(lambda))).isEqualTo("GemmBf16");
        assertThat(StepProfile.operation(stack(
                        KERNELS + "SimdBackend.gemm",
                        ENGINE + "backend.Backend.loraLinear",
                        ENGINE + "functional.LoraLinearOp.lambda$forward$3",
                        ENGINE + "functional.Functional.loraLinear")))
                .isEqualTo("LoraLinearOp forward loraLinear");
        assertThat(StepProfile.operation(stack(
                        KERNELS + "SimdBackend.rope",
                        ENGINE + "functional.RopeOp.turned",
                        ENGINE + "functional.RopeOp.backward",
                        ENGINE + "Autograd.step")))
                .isEqualTo("RopeOp backward rope");
        assertThat(StepProfile.operation(stack(
                        KERNELS + "OptimizerSimd.adamW",
                        KERNELS + "SimdBackend.adamW",
                        ENGINE + "optim.AdamW.update",
                        ENGINE + "optim.Optimizer.step")))
                .isEqualTo("AdamW update adamW");
        assertThat(StepProfile.operation(stack("java.util.ArrayList.add", "dev.loran.peft.tuner.PeftModel.loss")))
                .isEqualTo("other");
    }

    @Test
    void workersTellTheKernel() {
        assertThat(StepProfile.kernel(stack(
                        KERNELS + "VectorMath.expOfNegative",
                        KERNELS + "SoftmaxSimd.expInto",
                        KERNELS + "SoftmaxSimd$$Lambda.accept",
                        KERNELS + "Parallel.runTasks",
                        KERNELS + "Parallel$Worker.run")))
                .isEqualTo("SoftmaxSimd");
        assertThat(StepProfile.kernel(stack(
                        "java.lang.Thread.onSpinWait", KERNELS + "Parallel$Worker.run", "java.lang.Thread.runWith")))
                .isEqualTo("waiting");
        // A caller with no tasks left waits inside a kernel, but does not run it.
        assertThat(StepProfile.kernel(stack(
                        KERNELS + "Parallel.awaitOthers",
                        KERNELS + "GemmSimd.multiply",
                        ENGINE + "functional.LinearOp.forward")))
                .isEqualTo("waiting");
        assertThat(StepProfile.kernel(stack(ENGINE + "Autograd.step", ENGINE + "Autograd.backward")))
                .isEqualTo("engine");
    }

    @Test
    void stepsOfASmallModelAreWatched() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        PrintStream before = System.out;
        int exit;
        System.setOut(new PrintStream(bytes, true, StandardCharsets.UTF_8));
        try {
            exit = new CommandLine(new Main())
                    .execute(
                            ("step --profile --json --threads 2 --hidden 64 --layers 2 --heads 4 --mlp 256 --vocab 1000 "
                                            + "--batch 4 --seq 64 --steps 60")
                                    .split(" "));
        } finally {
            System.setOut(before);
        }
        String out = bytes.toString(StandardCharsets.UTF_8);
        assertThat(exit).as(out).isEqualTo(0);
        assertThat(out).contains("operation, on the calling thread").contains("kernel, on all threads");
        String json = out.strip().lines().reduce((first, last) -> last).orElseThrow();
        assertThat(json).startsWith("{\"median_ms\":").endsWith("]}}");
        double median = Double.parseDouble(json.substring(json.indexOf(':') + 1, json.indexOf(',')));
        for (String table : List.of("operations", "kernels")) {
            String rows = json.substring(json.indexOf("\"" + table + "\":[")).replaceFirst("\\].*", "");
            assertThat(sum(rows, "share")).isBetween(0.99, 1.01);
            assertThat(sum(rows, "ms")).isBetween(0.98 * median, 1.02 * median);
            // One every 10 ms; far more than these are expected.
            assertThat(sum(rows, "samples")).isGreaterThan(5);
        }
        assertThat(json)
                .containsPattern("\"name\":\"\\w+Op forward \\w+\"")
                .containsPattern("\"name\":\"\\w+Op backward \\w+\"")
                .containsPattern("\"name\":\"(Gemm|LoraLinear|Attention)\\w+\"");
    }

    private static double sum(String rows, String field) {
        return Pattern.compile("\"" + field + "\":([0-9.]+)")
                .matcher(rows)
                .results()
                .map((MatchResult m) -> m.group(1))
                .mapToDouble(Double::parseDouble)
                .sum();
    }
}
