package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.GradCheck;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// Every method on every family that it supports, in a complete two-layer model in double precision.
class MethodsTest {
    static final List<String> FAMILIES = List.of("llama", "gpt2", "bert-head", "seo");

    @TempDir
    Path folder;

    static Map<String, PeftConfig> methods() {
        Map<String, PeftConfig> all = new LinkedHashMap<>();
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6).withInit(LoraInit.FALSE);
        all.put("lora", lora);
        all.put("lora with dropout and rsLoRA", lora.withDropout(0.3).withRslora(true));
        all.put("lora on all linear layers", lora.withTargets(Targets.allLinear()));
        all.put("lora with a bias on B", lora.withLoraBias(true));
        all.put(
                "lora on tables and the head",
                lora.withTargets(Targets.regex(".*(embed_tokens|wte|word_embeddings|token_embedding|lm_head)")));
        all.put("trainable tokens", lora.withTrainableTokens(List.of(7, 2)));
        all.put("pissa", lora.withInit(LoraInit.PISSA));
        all.put("pissa by random projection", lora.withInit(LoraInit.pissa(2)));
        all.put("olora on all linear layers", lora.withInit(LoraInit.OLORA).withTargets(Targets.allLinear()));
        all.put("dora", lora.withDora(true));
        all.put(
                "dora with dropout and pissa",
                lora.withDora(true).withDropout(0.3).withInit(LoraInit.PISSA));
        all.put("adalora", AdaLoraConfig.defaults().withRanks(3, 2));
        all.put(
                "p-tuning by a perceptron",
                PromptEncoderConfig.of(3).withEncoder(PromptEncoderConfig.Encoder.MLP, 7, 2, 0));
        all.put(
                "p-tuning by an LSTM",
                PromptEncoderConfig.of(3).withEncoder(PromptEncoderConfig.Encoder.LSTM, 5, 2, 0.2));
        all.put(
                "p-tuning by a transformer",
                PromptEncoderConfig.of(3).withEncoder(PromptEncoderConfig.Encoder.TRANSFORMER, 8, 2, 0.2));
        all.put("prompt", PromptTuningConfig.of(3));
        all.put("prompt from the vocabulary", PromptTuningConfig.of(3).fromVocabulary());
        all.put("prefix", PrefixTuningConfig.of(3).withInit(new PrefixTuningConfig.Init.Random(0.5)));
        all.put("prefix from zero", PrefixTuningConfig.of(3).withInit(new PrefixTuningConfig.Init.Zero()));
        all.put(
                "prefix from a text",
                PrefixTuningConfig.of(3).withInit(new PrefixTuningConfig.Init.Activations(List.of(4, 9))));
        all.put("prefix with projection", PrefixTuningConfig.of(3).withProjection(5));
        BottleneckConfig.NonLinearity gelu = BottleneckConfig.NonLinearity.GELU;
        all.put("Houlsby", BottleneckConfig.houlsby().withSize(4).withInitStd(0.5));
        all.put(
                "Pfeiffer",
                BottleneckConfig.pfeiffer().withSize(4).withNonLinearity(gelu).withDropout(0.3));
        all.put("parallel", BottleneckConfig.parallel().withSize(4).withNonLinearity(gelu));
        all.put("ia3", Ia3Config.defaults());
        all.put("ln-tuning", LnTuningConfig.defaults());
        all.put("bitfit", BitFitConfig.defaults());
        return all;
    }

    static Stream<Arguments> cases() {
        List<Arguments> cases = new ArrayList<>();
        methods()
                .forEach((name, config) ->
                        FAMILIES.stream().forEach(family -> cases.add(Arguments.of(family, name, config))));
        for (String name : List.of("lora on all linear layers", "p-tuning by a perceptron", "prefix", "Houlsby")) {
            Subjects.CONFIGURED.forEach(family -> cases.add(
                    Arguments.of(family, name, Objects.requireNonNull(methods().get(name)))));
        }
        return cases.stream();
    }

    /// DoRA's norm carries no gradient, so finite differences do not match its backward pass: [LoraFamilyTest] has its
    /// oracle.
    static Stream<Arguments> differentiableCases() {
        return cases().filter(c -> !c.get()[1].toString().startsWith("dora"));
    }

    /// Two rows of seven tokens, the second padded by two, with labels for the model's task.
    record Text(Tensor ids, Tensor mask, Tensor labels) {
        static Text of(Model model) {
            Backend be = model.backend();
            SplittableRandom random = new SplittableRandom(3);
            int[] ids = random.ints(14, 0, Subjects.VOCAB).toArray();
            int[] mask = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0};
            boolean classify = model.task() == TaskType.SEQ_CLS;
            int[] labels = classify ? new int[] {1, 3} : ids.clone();
            if (!classify) {
                labels[12] = -100;
                labels[13] = -100;
            }
            return new Text(
                    Tensor.ofInts(be, ids, 2, 7),
                    Tensor.ofInts(be, mask, 2, 7),
                    classify ? Tensor.ofInts(be, labels, 2) : Tensor.ofInts(be, labels, 2, 7));
        }
    }

    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("differentiableCases")
    void gradientsAgreeWithFiniteDifferences(String family, String method, PeftConfig config) {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model(family, backend, DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open()) {
            Tuner tuner = peft.addAdapter("default", config);
            Text text = Text.of(model);
            model.train(true);
            peft.microStep(5);
            GradCheck.check(family + " " + method, tuner.parameters(), () -> {
                Tensor loss = peft.loss(text.ids, text.mask, text.labels);
                return Tuner.trainingLoss(loss, tuner.penalty());
            });
        }
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }

    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("cases")
    void checkpointingBlocksGivesTheSameGradients(String family, String method, PeftConfig config) {
        try (Model model = Subjects.model(family, new ReferenceBackend(), DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open()) {
            Tuner tuner = peft.addAdapter("default", config);
            Text text = Text.of(model);
            model.train(true);
            peft.microStep(5);
            Map<String, double[]> plain = gradients(peft, tuner, text);
            model.gradientCheckpointing(true);
            Map<String, double[]> again = gradients(peft, tuner, text);
            assertThat(again.keySet()).isEqualTo(plain.keySet());
            // Equal up to the order in which the gradients of a block's input are summed.
            plain.forEach((name, g) -> assertThat(Subjects.distance(Objects.requireNonNull(again.get(name)), g))
                    .as(name)
                    .isLessThan(1e-12));
            // A single parameter may have no gradient, such as a norm's bias before a softmax over keys, but a method
            // without any gradient would train nothing.
            assertThat(plain.values().stream()
                            .flatMapToDouble(java.util.Arrays::stream)
                            .map(Math::abs)
                            .sum())
                    .isPositive();
        }
    }

    private static Map<String, double[]> gradients(PeftModel peft, Tuner tuner, Text text) {
        try (Scope scope = Scope.open()) {
            peft.loss(text.ids, text.mask, text.labels).backward();
        }
        Map<String, double[]> all = new LinkedHashMap<>();
        tuner.parameters().forEach((name, t) -> {
            Tensor grad = t.grad();
            if (grad != null) {
                all.put(name, grad.toDoubles());
                t.zeroGrad();
            }
        });
        return all;
    }

    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("cases")
    void savedAdaptersAnswerAsBefore(String family, String method, PeftConfig config) {
        try (Model model = Subjects.model(family, new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Text text = Text.of(model);
            double[] bare = model.logits(text.ids, text.mask).toDoubles();
            double[] before;
            try (PeftModel peft = new PeftModel(model, 11)) {
                Tuner tuner = peft.addAdapter("default", config);
                SplittableRandom random = new SplittableRandom(9);
                tuner.parameters()
                        .forEach((name, t) -> t.copyFrom(t.add(Tensor.uniform(
                                t.backend(), t.dtype(), random, 0.2, t.shape().dims()))));
                before = peft.logits(text.ids, text.mask).toDoubles();
                peft.savePretrained(folder);
            }
            assertThat(model.logits(text.ids, text.mask).toDoubles())
                    .as("the base afterwards")
                    .containsExactly(bare);
            try (PeftModel peft = new PeftModel(model, 12)) {
                Tuner tuner = peft.loadAdapter("default", folder);
                double[] after = peft.logits(text.ids, text.mask).toDoubles();
                assertThat(tuner.config().peftType()).isEqualTo(config.peftType());
                assertThat(after.length).isEqualTo(before.length);
                for (int i = 0; i < after.length; i++) {
                    // Files are F32.
                    assertThat(after[i]).isCloseTo(before[i], within(1e-5));
                }
                try (PeftModel.Disabled off = peft.disableAdapter()) {
                    assertThat(model.logits(text.ids, text.mask).toDoubles()).containsExactly(bare);
                }
                assertThat(peft.logits(text.ids, text.mask).toDoubles()).containsExactly(after);
            }
        }
    }

    @Test
    void aPromptWithoutItsEncoderAnswersButDoesNotTrain() {
        try (Model model = Subjects.model("gpt2", new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open()) {
            Text text = Text.of(model);
            try (PeftModel peft = new PeftModel(model, 11)) {
                peft.addAdapter("default", PromptEncoderConfig.of(3));
                peft.savePretrained(folder);
            }
            java.io.File beside = folder.resolve(AdapterFiles.TRAINING).toFile();
            assertThat(beside).exists();
            try (PeftModel peft = new PeftModel(model, 12)) {
                peft.loadAdapter("default", folder);
                model.train(true);
                assertThat(peft.loss(text.ids, text.mask, text.labels).requiresGrad())
                        .as("with the encoder")
                        .isTrue();
            }
            assertThat(beside.delete()).isTrue();
            try (PeftModel peft = new PeftModel(model, 12)) {
                peft.loadAdapter("default", folder);
                assertThatThrownBy(() -> peft.loss(text.ids, text.mask, text.labels))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("can answer but not be trained further");
            }
        }
    }
}
