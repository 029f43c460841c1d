package dev.loran.peft.cli;

import static dev.loran.peft.cli.CommandLineTest.assertRefused;
import static dev.loran.peft.cli.CommandLineTest.loran;
import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.Scope;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.cli.CommandLineTest.Result;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class MergeCommandTest {
    @TempDir
    Path folder;

    private Path base = Path.of("");
    private Path run = Path.of("");
    private Path merged = Path.of("");

    @BeforeEach
    void model() throws IOException {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model bert = Tiny.encoder(backend, DType.F32)) {
            base = Tiny.save(bert, folder.resolve("base"));
        }
        Files.writeString(base.resolve("vocab.txt"), "red\n");
        run = folder.resolve("run");
        merged = folder.resolve("merged");
    }

    private void train(String method) {
        Path rows = Tiny.write(folder.resolve("rows.jsonl"), Tiny.rows(32, 1));
        Result result = loran(
                "train",
                "--model",
                base,
                "--task",
                "classify",
                "--method",
                method,
                "--train",
                rows,
                "--out",
                run,
                "--steps",
                8,
                "--lr",
                3e-2,
                "--batch-size",
                8,
                "--threads",
                1,
                "--max-length",
                20,
                "--virtual-tokens",
                3);
        assertThat(result.code()).as(result.err()).isZero();
    }

    private Result merge(Object dtype) {
        return loran("merge", "--model", base, "--adapter", run, "--out", merged, "--dtype", dtype, "--json");
    }

    private static double[] logits(TaskModel model) {
        Batch batch = new DataLoader(Tiny.examples(12, 5), DataLoader.Options.evaluation(12))
                .epoch(0)
                .getFirst();
        model.train(false);
        try (Scope scope = Scope.open()) {
            return model.logits(batch).toDoubles();
        }
    }

    private double[] withAdapter() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = HfModels.load(base, backend);
                PeftModel peft = new PeftModel(model, 1);
                TaskModel learner = TaskModel.load(peft, run.resolve("last"))) {
            return logits(learner);
        }
    }

    private double[] of(Path plain) {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = HfModels.load(plain, backend);
                PeftModel none = new PeftModel(model, 1);
                TaskModel learner = TaskModel.of(none, TaskCard.read(run.resolve("last")), 1)) {
            learner.loadHead(run.resolve("last"));
            return logits(learner);
        }
    }

    private static double largest(double[] a, double[] b) {
        double largest = 0;
        for (int i = 0; i < a.length; i++) {
            largest = Math.max(largest, Math.abs(a[i] - b[i]));
        }
        return largest;
    }

    @ParameterizedTest
    @ValueSource(strings = {"lora", "dora", "adalora", "ia3", "ln-tuning", "bitfit"})
    void theMergedFolderAnswersAsTheAdapterDoes(String method) throws IOException {
        train(method);
        Result result = merge("f32");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("changed").intValue()).isPositive();
        assertThat(result.json().get("lost").doubleValue()).isLessThan(1e-5);
        assertThat(largest(of(merged), withAdapter())).isLessThan(1e-5);
        assertThat(largest(of(base), withAdapter())).isGreaterThan(1e-3);
        for (String file : new String[] {"tokenizer.json", "vocab.txt"}) {
            assertThat(merged.resolve(file)).hasSameBinaryContentAs(base.resolve(file));
        }
        // The head is included: the folder can be evaluated as it is.
        Path rows = folder.resolve("rows.jsonl");
        Result whole = loran("eval", "--adapter", merged, "--data", rows, "--threads", 1, "--json");
        Result two = loran("eval", "--model", base, "--adapter", run, "--data", rows, "--threads", 1, "--json");
        assertThat(whole.json().get("accuracy")).isEqualTo(two.json().get("accuracy"));
        assertThat(result.err()).contains("the head is beside the model, in head.safetensors: Loran reads it,");
        Result alone = loran("eval", "--model", merged, "--data", rows, "--threads", 1, "--json");
        assertThat(alone.json().get("accuracy")).isEqualTo(two.json().get("accuracy"));
    }

    private void causal() throws IOException {
        base = folder.resolve("causal");
        try (ReferenceBackend backend = new ReferenceBackend();
                Model seo = Tiny.causal(backend, DType.F32)) {
            Tiny.save(seo, base);
        }
    }

    @Test
    void aMergedClassifierHasItsHeadAndItsLabels() throws IOException {
        causal();
        train("lora");
        Path rows = folder.resolve("rows.jsonl");
        Result adapted = loran("eval", "--model", base, "--adapter", run, "--data", rows, "--threads", 1, "--json");
        Path tokenizer = folder.resolve("tokenizer.json");
        Files.move(base.resolve("tokenizer.json"), tokenizer);
        Result result = merge("f32");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(merged.resolve("head.safetensors")).doesNotExist();
        assertThat(Files.readString(merged.resolve("config.json")))
                .contains("SeoForSequenceClassification", "\"1\" : \"sport\"", "\"purchase\" : 0")
                .doesNotContain("LABEL_");
        Files.move(tokenizer, merged.resolve("tokenizer.json"));
        Result whole = loran("eval", "--model", merged, "--data", rows, "--threads", 1, "--json");
        assertThat(whole.code()).as(whole.err()).isZero();
        assertThat(whole.json().get("accuracy")).isEqualTo(adapted.json().get("accuracy"));
        // Only the config names the classes.
        Files.delete(merged.resolve("loran.json"));
        Path answers = folder.resolve("answers.jsonl");
        Result predicted =
                loran("predict", "--model", merged, "--data", rows, "--out", answers, "--embeddings", "--threads", 1);
        assertThat(predicted.code()).as(predicted.err()).isZero();
        assertThat(Files.readString(answers)).contains("\"purchase\"", "\"sport\"", "\"embedding\":[");
    }

    @Test
    void headsForOtherClassesAreNotCombined() throws IOException {
        train("lora");
        Path other = folder.resolve("other-run");
        Files.move(run, other);
        retold(other);
        train("lora");
        Result beside = loran("merge", "--model", base, "--adapters", run + "," + other, "--out", merged, "--json");
        assertThat(beside.code()).as(beside.err()).isZero();
        assertThat(beside.json().get("head").booleanValue()).isFalse();
        assertThat(beside.err()).contains("the adapters tell different classes apart, so that their heads are not");
        assertThat(merged.resolve("head.safetensors")).doesNotExist();
        Files.move(run, folder.resolve("second"));
        causal();
        train("lora");
        Files.move(run, folder.resolve("third"));
        retold(folder.resolve("third"));
        train("lora");
        String two = run + "," + folder.resolve("third");
        assertRefused(
                loran("merge", "--model", base, "--adapters", two, "--out", folder.resolve("none")),
                "loran: merge: [" + two.replace(",", ", ")
                        + "] tell different classes apart, and no head can tell both;"
                        + " combine adapters of one task");
    }

    /// Changes a run so that it was trained for other classes.
    private static void retold(Path run) throws IOException {
        Path card = run.resolve("last/loran.json");
        Files.writeString(card, Files.readString(card).replace("sport", "music"));
        Files.delete(run.resolve("last/SHA256SUMS"));
    }

    @Test
    void narrowWeightsLoseWhatIsSaid() throws IOException {
        train("lora");
        Result result = merge("bf16");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err())
                .contains("merged into BF16: rounding loses ")
                .contains("encoder.layer.1.attention.self.value.weight");
        assertThat(result.json().get("changed").intValue()).isEqualTo(4);
        assertThat(result.json().get("lost").doubleValue()).isBetween(1e-3, 0.9);
        assertThat(result.json().get("most_lost").doubleValue())
                .isGreaterThanOrEqualTo(result.json().get("lost").doubleValue());
        assertThat(Files.readString(merged.resolve("config.json"))).contains("\"dtype\" : \"bfloat16\"");
        assertThat(Files.size(merged.resolve("model.safetensors")))
                .isLessThan(Files.size(base.resolve("model.safetensors")) * 6 / 10);
        assertThat(largest(of(merged), withAdapter())).isBetween(1e-6, 0.1);
    }

    @ParameterizedTest
    @ValueSource(strings = {"p-tuning", "prompt", "prefix", "adapter"})
    void whatIsNoChangeOfAWeightIsRefused(String method) {
        train(method);
        Result result = merge("f32");
        assertThat(result.code()).isEqualTo(2);
        assertThat(result.err())
                .hasLineCount(1)
                .startsWith("loran: merge: adapter default (")
                .contains(") cannot be merged: ")
                .contains("; save the adapter beside the model");
        assertThat(merged).doesNotExist();
    }

    @Test
    void whatDoesNotFitIsRefused() throws IOException {
        train("lora");
        assertRefused(merge("int8"), "loran: --dtype int8 is not known; choose f32, bf16 or f16");
        assertRefused(
                loran("merge", "--model", base, "--adapter", run, "--out", folder),
                "loran: " + folder + ": holds files already; choose a new or empty folder for the merged model");
        assertRefused(
                loran("merge", "--model", base, "--adapter", base, "--out", merged),
                "loran: " + base + ": is a whole model and no adapter; there is nothing to merge");
        try (ReferenceBackend backend = new ReferenceBackend();
                Model other = Tiny.encoder(backend, DType.F32)) {
            backend.fill(other.tokenEmbedding().weight().buffer(), 0.5);
            Tiny.save(other, folder.resolve("other"));
        }
        Result otherBase = loran("merge", "--model", folder.resolve("other"), "--adapter", run, "--out", merged);
        assertThat(otherBase.code()).isEqualTo(2);
        assertThat(otherBase.err())
                .hasLineCount(1)
                .startsWith("loran: " + run.resolve("last") + ": the adapter was trained on " + base + " (SHA-256 ")
                .contains("not on " + folder.resolve("other"));
    }

    @Test
    void severalAdaptersBecomeOne() throws IOException {
        train("lora");
        Path other = folder.resolve("other-run");
        Files.move(run, other);
        train("lora");
        String both = run + "," + other;
        Path one = folder.resolve("one");
        Result exact = loran(
                "merge",
                "--model",
                base,
                "--adapters",
                both,
                "--weights",
                "0.7,0.3",
                "--combination",
                "cat",
                "--out",
                one,
                "--json");
        assertThat(exact.code()).as(exact.err()).isZero();
        assertThat(exact.json().get("layers").intValue()).isEqualTo(4);
        assertThat(exact.json().get("largest_error").doubleValue()).isZero();
        // Both runs are the same: with weights that sum to 1, their sum equals each of them, including the head.
        assertThat(exact.json().get("head").booleanValue()).isTrue();
        assertThat(exact.err() + exact.out()).contains("encoder.layer.1.attention.self.value", "0.0000");
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = HfModels.load(base, backend);
                PeftModel peft = new PeftModel(model, 1);
                TaskModel learner = TaskModel.load(peft, one)) {
            assertThat(largest(logits(learner), withAdapter())).isLessThan(1e-5);
        }
        Result factors = loran(
                "merge",
                "--model",
                base,
                "--adapters",
                both,
                "--weights",
                "1,-0.5",
                "--combination",
                "dare_linear",
                "--out",
                merged,
                "--json");
        assertThat(factors.code()).as(factors.err()).isZero();
        assertThat(factors.json().get("largest_error").doubleValue())
                .isGreaterThanOrEqualTo(factors.json().get("mean_error").doubleValue())
                .isGreaterThan(0.1);
    }

    @Test
    void severalAdaptersThatDoNotFitAreRefused() {
        train("lora");
        assertRefused(
                loran("merge", "--model", base, "--out", merged),
                "loran: merge takes either --adapter, to make it part of the model, or --adapters, to make one of them");
        assertRefused(
                loran("merge", "--model", base, "--adapters", run + "," + run, "--weights", "1", "--out", merged),
                "loran: addWeightedAdapter: adapters are [adapter 1, adapter 2] but weights are [1.0]; needs one weight an"
                        + " adapter, and at least one");
        assertRefused(
                loran("merge", "--model", base, "--adapters", run + "," + run, "--combination", "sum", "--out", merged),
                "loran: Combination: sum is none; known are linear, cat, svd, and ties, dare_linear, dare_ties,"
                        + " magnitude_prune with or without _svd");
        assertThat(merged).doesNotExist();
    }
}
