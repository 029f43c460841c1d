package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.nn.Linear;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Batch;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.Targets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The use of option maps, from the first configuration to a saved adapter, on the small SEO transformer: every method
/// by name, its defaults, its parameter counts, a training loop, evaluation that keeps the best model, a sweep.
class SeedsTest {
    private static final List<String> PROJECTIONS = List.of("w_q", "w_k", "w_v", "w_o");
    private static final Map<String, Object> OPTIMIZER =
            Map.of("lr", 1e-2, "weight_decay", 0.01, "betas", List.of(0.9, 0.999));

    @TempDir
    Path folder;

    private static SeoTransformer small(Backend backend) {
        return SeoTransformer.random(new TransformerConfig(16, 2, 2, 40).withMaxPositions(48), backend, DType.F32, 1);
    }

    private static SeoTransformer full(Backend backend) {
        return SeoTransformer.random(new TransformerConfig(512, 6, 8, 10000), backend, DType.F32, 1);
    }

    /// Texts that count up, which can be learned in a few steps.
    private static List<Batch> batches(int count) {
        SplittableRandom random = new SplittableRandom(4);
        List<Batch> all = new ArrayList<>();
        for (int b = 0; b < count; b++) {
            int[] ids = new int[4 * 10];
            for (int row = 0; row < 4; row++) {
                int from = random.nextInt(40);
                for (int t = 0; t < 10; t++) {
                    ids[row * 10 + t] = (from + t) % 40;
                }
            }
            int[] ones = new int[ids.length];
            Arrays.fill(ones, 1);
            all.add(new Batch(ids, ones, ids.clone(), new int[] {0, 1, 2, 3}, 4, 10, 40, 36));
        }
        return all;
    }

    @Test
    void loraByName() {
        PeftConfig config = Peft.createPeftConfig(
                "LORA", Map.of("r", 16, "lora_alpha", 32, "lora_dropout", 0.1, "target_modules", PROJECTIONS));
        assertThat(config)
                .isEqualTo(
                        LoraConfig.defaults().withRank(16, 32).withDropout(0.1).withTargets(Targets.of(PROJECTIONS)));
        try (SeoTransformer model = small(new ReferenceBackend());
                EfficientFineTuningManager manager = Peft.applyPeftToModel(model, config)) {
            assertThat(manager.trainableParameters()).hasSize(2 * 2 * 4);
        }
    }

    @Test
    void pTuningByName() {
        PeftConfig config = Peft.createPeftConfig(
                "P_TUNING",
                Map.of(
                        "num_virtual_tokens",
                        20,
                        "encoder_hidden_size",
                        128,
                        "encoder_num_layers",
                        2,
                        "encoder_dropout",
                        0.1));
        assertThat(config)
                .isEqualTo(
                        PromptEncoderConfig.of(20).withEncoder(PromptEncoderConfig.Encoder.TRANSFORMER, 128, 2, 0.1));
    }

    @Test
    void adaLoraByName() {
        PeftConfig config = Peft.createPeftConfig(
                "ADALORA",
                Map.of(
                        "target_modules",
                        PROJECTIONS,
                        "init_r",
                        12,
                        "target_r",
                        8,
                        "beta1",
                        0.85,
                        "beta2",
                        0.85,
                        "tinit",
                        200,
                        "tfinal",
                        1000,
                        "deltaT",
                        10,
                        "orth_reg_weight",
                        0.5));
        assertThat(config).isInstanceOfSatisfying(AdaLoraConfig.class, a -> {
            assertThat(a.initR()).isEqualTo(12);
            assertThat(a.targetR()).isEqualTo(8);
            assertThat(a.tinit()).isEqualTo(200);
            assertThat(a.tfinal()).isEqualTo(1000);
            assertThat(a.deltaT()).isEqualTo(10);
            assertThat(a.orthRegWeight()).isEqualTo(0.5);
            assertThat(a.lora().targetModules()).isEqualTo(Targets.of(PROJECTIONS));
        });
    }

    @Test
    void prefixTuningByName() {
        assertThat(Peft.createPeftConfig("PREFIX_TUNING", Map.of("num_prefix_tokens", 20, "prefix_projection", false)))
                .isEqualTo(PrefixTuningConfig.of(20));
    }

    @Test
    void defaultsAreThoseOfTheSeeds() {
        assertThat(Peft.createPeftConfig("LORA", Map.of())).isInstanceOfSatisfying(LoraConfig.class, l -> {
            assertThat(l.r()).isEqualTo(16);
            assertThat(l.loraAlpha()).isEqualTo(32);
            assertThat(l.loraDropout()).isEqualTo(0.1);
            assertThat(l.bias()).isEqualTo(LoraConfig.Bias.NONE);
            assertThat(l.targetModules().isModelDefault()).isTrue();
            assertThat(l.fanInFanOut()).isFalse();
            assertThat(l.layersToTransform()).isNull();
        });
        assertThat(Peft.createPeftConfig("P_TUNING", Map.of()))
                .isInstanceOfSatisfying(
                        PromptEncoderConfig.class,
                        p -> assertThat(p.numVirtualTokens()).isEqualTo(20));
        assertThat(Peft.createPeftConfig("PREFIX_TUNING", Map.of()))
                .isInstanceOfSatisfying(
                        PrefixTuningConfig.class,
                        p -> assertThat(p.prefixProjection()).isFalse());
    }

    @Test
    void statisticsAtFullSize() {
        try (SeoTransformer model = full(new ReferenceBackend());
                EfficientFineTuningManager manager = Peft.applyPeftToModel(
                        model, "LORA", Map.of("r", 16, "lora_alpha", 32, "target_modules", PROJECTIONS))) {
            Map<String, Number> count = manager.getParameterCount();
            long base = model.parameterCount() - 0L;
            assertThat(count.get("trainable_parameters")).isEqualTo(393_216L);
            assertThat(count.get("total_parameters")).isEqualTo(baseOf(manager) + 393_216L);
            assertThat(Objects.requireNonNull(count.get("trainable_percentage")).doubleValue())
                    .isCloseTo(100.0 * 393_216 / (baseOf(manager) + 393_216), within(1e-9));
            // The model itself has about 24 million.
            assertThat(base - 393_216L).isBetween(23_000_000L, 25_000_000L);
        }
    }

    private static long baseOf(EfficientFineTuningManager manager) {
        return manager.peftModel().model().namedParameters().entrySet().stream()
                .filter(e -> !e.getKey().contains("lora_"))
                .mapToLong(e -> e.getValue().shape().size())
                .sum();
    }

    @Test
    void trainingLoop() {
        try (Backend backend = Backends.best();
                SeoTransformer model = small(backend);
                PeftTrainer trainer = new PeftTrainer(
                        model,
                        Peft.createPeftConfig(
                                "LORA", Map.of("r", 4, "target_modules", PROJECTIONS, "lora_dropout", 0.0)),
                        OPTIMIZER)) {
            List<Double> losses = new ArrayList<>();
            for (Batch batch : batches(40)) {
                Map<String, Double> metrics = trainer.trainStep(batch);
                losses.add(metrics.get("loss"));
                assertThat(metrics.get("lr")).isEqualTo(1e-2);
            }
            assertThat(mean(losses.subList(30, 40))).isLessThan(0.99 * mean(losses.subList(0, 5)));
        }
    }

    private static double mean(List<Double> values) {
        return values.stream().mapToDouble(Double::doubleValue).average().orElseThrow();
    }

    @Test
    void namesThatExistOnlyPartly() {
        Map<String, Object> options = Map.of(
                "r",
                8,
                "lora_alpha",
                64,
                "lora_dropout",
                0.1,
                "bias",
                "lora_only",
                "target_modules",
                List.of("w_q", "w_k", "v_proj", "out_proj"));
        try (SeoTransformer model = small(new ReferenceBackend())) {
            assertThatThrownBy(() -> Peft.applyPeftToModel(model, "LORA", options))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("target_modules [out_proj, v_proj] match no module; did you mean")
                    .hasMessageContaining("w_v");
            Map<String, Object> told = new java.util.HashMap<>(options);
            told.put("partial_targets", true);
            try (EfficientFineTuningManager manager = Peft.applyPeftToModel(model, "LORA", told)) {
                assertThat(manager.trainableParameters().keySet())
                        .anyMatch(n -> n.endsWith("w_q.base_layer.bias"))
                        .noneMatch(n -> n.contains("w_v"));
            }
        }
    }

    @Test
    void customEncodersAndAggressivePruning() {
        PeftConfig encoder = Peft.createPeftConfig(
                "P_TUNING",
                Map.of(
                        "num_virtual_tokens",
                        30,
                        "encoder_hidden_size",
                        256,
                        "encoder_num_layers",
                        3,
                        "encoder_dropout",
                        0.2));
        PeftConfig pruning = Peft.createPeftConfig(
                "ADALORA",
                Map.of(
                        "target_modules",
                        PROJECTIONS,
                        "init_r",
                        16,
                        "target_r",
                        4,
                        "beta1",
                        0.9,
                        "beta2",
                        0.9,
                        "tinit",
                        100,
                        "tfinal",
                        500,
                        "deltaT",
                        5,
                        "orth_reg_weight",
                        1.0));
        for (PeftConfig config : List.of(encoder, pruning)) {
            try (SeoTransformer model = small(new ReferenceBackend());
                    EfficientFineTuningManager manager = Peft.applyPeftToModel(model, config)) {
                assertThat(Objects.requireNonNull(manager.getParameterCount().get("trainable_parameters"))
                                .longValue())
                        .isPositive();
            }
        }
    }

    @Test
    void saveAndLoad() {
        ReferenceBackend backend = new ReferenceBackend();
        PeftConfig config = Peft.createPeftConfig("LORA", Map.of("r", 4, "target_modules", PROJECTIONS));
        double[] trained;
        try (SeoTransformer model = small(backend);
                PeftTrainer trainer = new PeftTrainer(model, config, OPTIMIZER)) {
            batches(3).forEach(trainer::trainStep);
            trainer.manager().savePretrained(folder);
            model.train(false);
            trained = answer(model);
        }
        try (SeoTransformer model = small(backend);
                EfficientFineTuningManager manager = new EfficientFineTuningManager(model, config)) {
            assertThat(answer(model)).isNotEqualTo(trained);
            manager.loadPretrained(folder);
            assertThat(answer(model)).containsExactly(trained);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static double[] answer(SeoTransformer model) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return model.logits(Tensor.ofInts(model.backend(), new int[] {3, 4, 5}, 1, 3), null)
                    .toDoubles();
        }
    }

    @Test
    void evaluationKeepsTheBest() {
        try (Backend backend = Backends.best();
                SeoTransformer model = small(backend);
                PeftTrainer trainer = new PeftTrainer(
                        model,
                        Peft.createPeftConfig("LORA", Map.of("r", 4, "target_modules", PROJECTIONS)),
                        OPTIMIZER)) {
            double best = Double.POSITIVE_INFINITY;
            double first = Double.NaN;
            List<Batch> all = batches(30);
            Batch held = all.getLast();
            for (int step = 0; step < 29; step++) {
                trainer.trainStep(all.get(step));
                if (step % 7 == 0) {
                    model.train(false);
                    double loss = evaluate(model, held);
                    model.train(true);
                    first = step == 0 ? loss : first;
                    if (loss < best) {
                        best = loss;
                        trainer.manager().savePretrained(folder);
                    }
                }
            }
            assertThat(best).isLessThan(first);
            trainer.manager().loadPretrained(folder);
            model.train(false);
            assertThat(evaluate(model, held)).isCloseTo(best, within(1e-6));
        }
    }

    private static double evaluate(SeoTransformer model, Batch batch) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Backend be = model.backend();
            return model.loss(
                            Tensor.ofInts(be, batch.inputIds(), 4, 10),
                            Tensor.ofInts(be, batch.attentionMask(), 4, 10),
                            Tensor.ofInts(be, batch.labels(), 4, 10))
                    .item();
        }
    }

    @Test
    void gradientCheckpointingIsAFieldOfTheModel() {
        TransformerConfig config =
                new TransformerConfig(16, 2, 2, 40).withMaxPositions(48).withGradientCheckpointing(true);
        try (SeoTransformer model = SeoTransformer.random(config, new ReferenceBackend(), DType.F32, 1)) {
            assertThat(model.gradientCheckpointing()).isTrue();
        }
    }

    @Test
    void sweepsOfRanksAndTokens() {
        try (SeoTransformer model = small(new ReferenceBackend())) {
            for (int r : new int[] {8, 16, 32, 64}) {
                try (EfficientFineTuningManager m = Peft.applyPeftToModel(
                        model, "LORA", Map.of("r", r, "lora_alpha", r * 2, "target_modules", PROJECTIONS))) {
                    assertThat(m.getParameterCount().get("trainable_parameters"))
                            .isEqualTo(2L * 4 * r * (16 + 16));
                }
            }
            for (int tokens : new int[] {10, 20, 30, 40}) {
                try (EfficientFineTuningManager m =
                        Peft.applyPeftToModel(model, "PROMPT_TUNING", Map.of("num_virtual_tokens", tokens))) {
                    assertThat(m.getParameterCount().get("trainable_parameters"))
                            .isEqualTo(16L * tokens);
                }
            }
        }
    }

    @Test
    void debuggingByModuleNames() {
        try (SeoTransformer model = small(new ReferenceBackend())) {
            List<String> targets = Peft.targetModules(model, PROJECTIONS);
            assertThat(targets).hasSize(8).contains("layers.0.attention.w_q", "layers.1.attention.w_o");
        }
    }

    @Test
    void theNotebooksCounts() {
        // LoRA at 512 with rank 16: two matrices of 16 x 512.
        try (SeoTransformer model = full(new ReferenceBackend())) {
            try (PeftModel peft = new PeftModel(model, 1)) {
                peft.addAdapter(
                        "default",
                        LoraConfig.defaults().withRank(16, 16).withTargets(Targets.of("layers.0.attention.w_q")));
                assertThat(peft.parameterCount().trainableParameters()).isEqualTo(16_384);
                assertThat(model.namedModules().get("layers.0.attention.w_q")).isInstanceOf(Linear.class);
            }
            try (PeftModel peft = new PeftModel(model, 1)) {
                peft.addAdapter(
                        "default",
                        BottleneckConfig.houlsby().withSize(64).withNonLinearity(BottleneckConfig.NonLinearity.RELU));
                // 66,112 for each of the two adapters of each of the six layers.
                assertThat(peft.parameterCount().trainableParameters()).isEqualTo(66_112L * 12);
            }
        }
        // A prefix of 10 tokens at 12 layers of 512.
        try (SeoTransformer model = SeoTransformer.random(
                        new TransformerConfig(512, 12, 8, 50), new ReferenceBackend(), DType.F32, 1);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.addAdapter("default", PrefixTuningConfig.of(10));
            assertThat(peft.parameterCount().trainableParameters()).isEqualTo(122_880);
        }
    }
}
