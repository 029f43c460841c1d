package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Small;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BitFitConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.Ia3Config;
import dev.loran.peft.tuner.LnTuningConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.LoraInit;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

class MemoryPlanTest {
    private static final int POSITIONS = 48;
    private static final int STEPS = 7;
    private static final int VOCAB = TinyTokenizers.WORDS.size();
    private static final TrainerConfig TRAINER =
            TrainerConfig.defaults().withSteps(STEPS).withBatch(7, 1).withEvaluation(4, 0);

    /// A run: everything that determines how much memory it takes.
    private record Subject(String family, @Nullable PeftConfig method, boolean checkpointing) {
        Model model(Backend backend) {
            Model model = switch (family) {
                case "llama" ->
                    LlamaModel.random(LlamaModel.Config.of(VOCAB, 16, 36, 3, 2, POSITIONS), backend, DType.F32, 1);
                case "gpt2" -> Gpt2Model.random(Gpt2Model.Config.of(VOCAB, POSITIONS, 16, 3, 2), backend, DType.F32, 1);
                case "bert" ->
                    BertModel.random(BertModel.Config.of(VOCAB, 16, 3, 2, POSITIONS, 0), backend, DType.F32, 1);
                case "gemma2", "gpt_neox" -> HfModels.random(config(family), backend, DType.F32, 1);
                case "seo" ->
                    SeoTransformer.random(
                            new TransformerConfig(16, 3, 2, VOCAB).withMaxPositions(POSITIONS), backend, DType.F32, 1);
                default -> Small.encoder(family, backend, DType.F32);
            };
            model.gradientCheckpointing(checkpointing);
            return model;
        }

        /// Windows shorter than the texts and soft caps, or a parallel block.
        private static ObjectNode config(String family) {
            ObjectNode c = JsonNodeFactory.instance.objectNode().put("model_type", family);
            c.put("vocab_size", VOCAB).put("hidden_size", 16).put("intermediate_size", 36);
            c.put("num_hidden_layers", 3).put("num_attention_heads", 2).put("max_position_embeddings", POSITIONS);
            return c.put("head_dim", 8).put("num_key_value_heads", 1).put("sliding_window", 4);
        }

        TaskCard card() {
            return List.of("llama", "seo", "gemma2", "gpt_neox").contains(family)
                    ? TaskCard.of(new LmTask(), 20)
                    : TaskCard.classify(Tiny.LABELS, 20)
                            .withPooling(family.equals("gpt2") ? Pooling.LAST : Pooling.MEAN);
        }

        Examples examples(List<String> texts) {
            try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
                List<? extends Row> rows = card().labels() != null
                        ? texts.stream()
                                .map(t ->
                                        new Row.Classify(t, Tiny.LABELS.names().get(t.length() % 2)))
                                .toList()
                        : texts.stream().map(Row.Text::new).toList();
                return Examples.of(card().task(), rows, tokenizer, Examples.Options.of(20), card().labels());
            }
        }

        MemoryPlan plan(Backend backend, Examples rows, Examples heldOut, TrainerConfig config) {
            return Objects.requireNonNull(MemoryPlan.of(
                    backend,
                    this::model,
                    method,
                    card(),
                    config,
                    STEPS,
                    Largest.of(rows, config.batchSize()),
                    Largest.of(heldOut, config.batchSize())));
        }

        /// The backend's peak in a real run.
        long peak(Backend backend, Examples rows, Examples heldOut, TrainerConfig config) {
            try (Model model = model(backend)) {
                if (method == null) {
                    try (TaskModel learner = TaskModel.full(model, card(), 3)) {
                        return peak(learner, rows, heldOut, config);
                    }
                }
                try (PeftModel peft = new PeftModel(model, 3)) {
                    peft.addAdapter("default", method);
                    try (TaskModel learner = TaskModel.of(peft, card(), 3)) {
                        return peak(learner, rows, heldOut, config);
                    }
                }
            }
        }

        private static long peak(TaskModel learner, Examples rows, Examples heldOut, TrainerConfig config) {
            try (Trainer trainer = new Trainer(learner, config)) {
                trainer.train(rows, heldOut, null, new TrainingListener() {});
            }
            return learner.backend().peakBytes();
        }
    }

    private static Map<String, @Nullable PeftConfig> methods() {
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6).withDropout(0.1);
        Map<String, @Nullable PeftConfig> all = new LinkedHashMap<>();
        all.put("full", null);
        all.put("lora", lora);
        all.put("dora", lora.withDora(true));
        all.put("olora", lora.withInit(LoraInit.OLORA));
        all.put(
                "adalora",
                AdaLoraConfig.defaults().withRanks(4, 2).withSchedule(2, 3, 1).withLora(lora));
        all.put("p-tuning", PromptEncoderConfig.of(5).withEncoder(PromptEncoderConfig.Encoder.LSTM, 9, 2, 0));
        all.put("prompt", PromptTuningConfig.of(5));
        all.put("prefix", PrefixTuningConfig.of(5).withProjection(7));
        all.put("adapter", BottleneckConfig.houlsby().withSize(4).withDropout(0.1));
        all.put("ia3", Ia3Config.defaults());
        all.put("ln-tuning", LnTuningConfig.defaults());
        all.put("bitfit", BitFitConfig.defaults());
        return all;
    }

    @TestFactory
    Stream<DynamicTest> equalsTheBackendsPeakWhereAllBatchesAreAlike() {
        List<DynamicTest> tests = new ArrayList<>();
        List<String> texts = Collections.nCopies(21, "buy red shoes online cheap query running");
        for (String family : List.of("llama", "gpt2", "bert", "seo", "gemma2", "gpt_neox")) {
            methods().forEach((name, method) -> {
                // BERT and GPT-2 classify, with one of Loran's own heads; Llama and Gemma have no biases, and
                // peft names no norms of GPT-NeoX.
                if (List.of("llama", "gemma2").contains(family) && name.equals("bitfit")
                        || family.equals("gpt_neox") && name.equals("ln-tuning")) {
                    return;
                }
                for (boolean checkpointing : new boolean[] {false, true}) {
                    for (DType dtype : List.of(DType.F32, DType.BF16)) {
                        Subject subject = new Subject(family, method, checkpointing);
                        String title =
                                "%s, %s, %s%s".formatted(name, family, dtype, checkpointing ? ", checkpoints" : "");
                        tests.add(DynamicTest.dynamicTest(title, () -> {
                            Examples rows = subject.examples(texts);
                            try (Backend backend = new SimdBackend(2, dtype)) {
                                MemoryPlan plan = subject.plan(backend, rows, rows, TRAINER);
                                assertThat(backend.liveBytes()).isZero();
                                assertThat(plan.total()).isEqualTo(subject.peak(backend, rows, rows, TRAINER));
                            }
                        }));
                    }
                }
            });
        }
        return tests.stream();
    }

    /// Every method, with the family's own head: for DeBERTa one beside the model.
    @TestFactory
    Stream<DynamicTest> equalsTheBackendsPeakWithOtherEncoders() {
        List<DynamicTest> tests = new ArrayList<>();
        List<String> texts = Collections.nCopies(21, "buy red shoes online cheap query running");
        for (String family : List.of("roberta", "distilbert", "electra", "mpnet", "modernbert", "deberta-v2")) {
            methods().forEach((name, method) -> {
                // ELECTRA's tables are narrower than its blocks, ModernBERT has no biases.
                boolean fits = switch (name) {
                    case "prompt", "p-tuning" -> !family.equals("electra");
                    case "bitfit" -> !family.equals("modernbert");
                    default -> true;
                };
                Subject subject = new Subject(family, method, name.length() % 2 == 0);
                if (fits) {
                    tests.add(DynamicTest.dynamicTest(name + ", " + family, () -> {
                        Examples rows = subject.examples(texts);
                        try (Backend backend = new SimdBackend(2)) {
                            MemoryPlan plan = subject.plan(backend, rows, rows, TRAINER);
                            assertThat(plan.total()).isEqualTo(subject.peak(backend, rows, rows, TRAINER));
                        }
                    }));
                }
            });
        }
        return tests.stream();
    }

    @Test
    void isAnUpperBoundWhereRowsDiffer() {
        List<String> texts = Tiny.rows(33, 5).stream().map(Row.Classify::text).toList();
        List<String> longer = List.of(String.join(" ", Collections.nCopies(6, "buy red shoes")), "buy");
        for (String family : List.of("llama", "bert")) {
            Subject subject = new Subject(family, LoraConfig.defaults(), false);
            try (Backend backend = new SimdBackend(1)) {
                Examples rows = subject.examples(texts);
                long bound = subject.plan(backend, rows, rows, TRAINER).total();
                assertThat(subject.peak(backend, rows, rows, TRAINER)).isBetween(bound * 9 / 10, bound);
            }
            try (Backend backend = new SimdBackend(1)) {
                // The evaluated rows may be longer than the training rows.
                Examples rows = subject.examples(List.of("buy", "buy"));
                Examples heldOut = subject.examples(longer);
                long bound = subject.plan(backend, rows, heldOut, TRAINER).total();
                assertThat(subject.peak(backend, rows, heldOut, TRAINER)).isBetween(bound * 9 / 10, bound);
            }
        }
    }

    @Test
    void pairsOfTextsHaveTypesBeside() {
        for (PeftConfig method : new PeftConfig[] {null, LoraConfig.defaults(), PromptTuningConfig.of(5)}) {
            Subject subject = new Subject("bert", method, false);
            try (Backend backend = new SimdBackend(2);
                    Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
                Row.Classify row = new Row.Classify(
                        "buy red shoes", "running", Tiny.LABELS.names().getFirst());
                Examples rows = Examples.of(
                        subject.card().task(),
                        Collections.nCopies(21, row),
                        tokenizer,
                        Examples.Options.of(20),
                        subject.card().labels());
                assertThat(Largest.of(rows, 7)).isEqualTo(new Largest(7, 8, false, true, false));
                assertThat(subject.plan(backend, rows, rows, TRAINER).total())
                        .isEqualTo(subject.peak(backend, rows, rows, TRAINER));
            }
        }
    }

    @Test
    void countsTheGradientsThatWaitForAnotherMicroBatch() {
        Subject subject = new Subject("seo", null, false);
        List<String> texts = Collections.nCopies(21, "buy red shoes");
        TrainerConfig config = TRAINER.withBatch(7, 3);
        try (Backend backend = new SimdBackend(2)) {
            Examples rows = subject.examples(texts);
            MemoryPlan one = subject.plan(backend, rows, rows, TRAINER);
            MemoryPlan three = subject.plan(backend, rows, rows, config);
            assertThat(three.total()).isGreaterThan(one.total());
            assertThat(three.total()).isEqualTo(subject.peak(backend, rows, rows, config));
        }
    }

    @Test
    void saysWhatTakesTheMemory() {
        List<String> texts = Collections.nCopies(21, "buy red shoes");
        try (Backend backend = new SimdBackend(1)) {
            Subject lora = new Subject("seo", LoraConfig.defaults().withRank(2, 4), false);
            Examples rows = lora.examples(texts);
            MemoryPlan plan = lora.plan(backend, rows, rows, TRAINER);
            // Four matrices of 16 x 16 in each of 3 blocks, of which query and value get A and B; gradients and two
            // moments.
            int trained = 3 * 2 * 2 * (2 * 16) * Float.BYTES;
            assertThat(plan.training()).isBetween(3L * trained, 3L * trained + 64);
            assertThat(plan.toString())
                    .matches("weights 0\\.\\d MiB, activations 0\\.\\d MiB, gradients and optimizer 0\\.\\d MiB");
            MemoryPlan checkpoints =
                    new Subject("seo", LoraConfig.defaults().withRank(2, 4), true).plan(backend, rows, rows, TRAINER);
            assertThat(checkpoints.activations()).isLessThan(plan.activations());
            assertThat(checkpoints.weights()).isEqualTo(plan.weights());
            long full = new Subject("seo", null, false)
                    .plan(backend, rows, rows, TRAINER)
                    .training();
            assertThat(full).isGreaterThan(10 * plan.training());
        }
    }

    @Test
    void touchesNoMemoryOfTheModelsSize() {
        // 5 billion parameters: more than fit here, or on most machines that run this test.
        LlamaModel.Config config = LlamaModel.Config.of(32_000, 4096, 14_336, 24, 32, 2048);
        TaskCard card = TaskCard.of(new LmTask(), 2048);
        try (Backend backend = new SimdBackend(1, DType.BF16)) {
            MemoryPlan plan = Objects.requireNonNull(MemoryPlan.of(
                    backend,
                    b -> LlamaModel.random(config, b, DType.F32, 1),
                    LoraConfig.defaults(),
                    card,
                    TRAINER,
                    STEPS,
                    new Largest(8, 2048, true),
                    null));
            assertThat(plan.weights()).isGreaterThan(10L << 30);
            assertThat(plan.total()).isGreaterThan(plan.weights());
            assertThat(backend.peakBytes()).isZero();
        }
    }

    @Test
    void isNotKnownForABackendWithoutAHollowTwin() {
        Subject subject = new Subject("seo", null, false);
        try (Backend backend = new ReferenceBackend()) {
            assertThat(MemoryPlan.of(
                            backend,
                            subject::model,
                            null,
                            subject.card(),
                            TRAINER,
                            STEPS,
                            new Largest(1, 3, false),
                            null))
                    .isNull();
        }
    }
}
