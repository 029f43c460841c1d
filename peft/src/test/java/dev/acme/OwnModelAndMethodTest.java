package dev.acme;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.optim.AdamW;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.KvCache;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.Methods;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import dev.loran.peft.tuner.Targets;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// A model and a method written outside the library are adapted, trained, saved and loaded like the shipped ones.
class OwnModelAndMethodTest {
    private static final AcmeModel.Sizes SIZES = new AcmeModel.Sizes(19, 12, 2, 3, 24);
    private static final Methods METHODS = Methods.shipped().with(ScaleConfig.TYPE, ScaleConfig::read);

    @TempDir
    Path temporary;

    private final Backend backend = new ReferenceBackend();

    private Tensor ids() {
        return Tensor.ofInts(backend, new int[] {1, 5, 3, 8, 2, 11, 18, 4, 4, 0}, 2, 5);
    }

    private double[] logits(Model model) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return model.logits(ids(), null).toDoubles();
        }
    }

    private double[] train(PeftModel peft, int steps) {
        double[] losses = new double[steps];
        peft.model().train(true);
        try (AdamW adamW = new AdamW(backend, DType.F32, new AdamW.Config(0.9, 0.999, 1e-8, 0, List.of()))) {
            for (int step = 0; step < steps; step++) {
                peft.microStep(step);
                try (Scope scope = Scope.open()) {
                    Tensor loss = peft.loss(ids(), null, ids());
                    losses[step] = loss.item();
                    loss.backward();
                }
                adamW.advance(0.05);
                adamW.step(peft.trainableParameters(), null);
                adamW.zeroGrad(peft.trainableParameters());
            }
        }
        peft.model().train(false);
        return losses;
    }

    @Test
    void anOwnModelIsSavedAndLoaded() {
        double[] expected;
        try (Model model = AcmeModel.random(SIZES, backend, 3)) {
            expected = logits(model);
            HfModels.save(model, temporary);
        }
        try (Model model = HfModels.load(temporary, backend, DType.F32, AcmeModel.FAMILY)) {
            assertThat(logits(model)).isEqualTo(expected);
            assertThat(model.className()).isEqualTo("AcmeForCausalLM");
        }
        assertThatThrownBy(() -> HfModels.load(temporary, backend))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("model_type = \"acme\"");
    }

    @Test
    void anOwnModelIsAdaptedByWhatItsFamilySays() {
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.addAdapter("default", LoraConfig.defaults());
            assertThat(peft.trainableParameters().keySet())
                    .contains("base_model.model.body.layers.1.read.lora_A.default.weight")
                    .hasSize(4);
            double[] losses = train(peft, 8);
            assertThat(losses[7]).isLessThan(losses[0]);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"lora", "prefix", "prompt", "bottleneck", "scale"})
    void whatWasTrainedOnAnOwnModelIsLoadedAgain(String method) {
        PeftConfig config = switch (method) {
            case "lora" -> LoraConfig.defaults().withTargets(Targets.allLinear());
            case "prefix" -> PrefixTuningConfig.of(3);
            case "prompt" -> PromptTuningConfig.of(3);
            case "bottleneck" -> BottleneckConfig.houlsby().withSize(4);
            default -> ScaleConfig.defaults();
        };
        double[] trained;
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1, METHODS)) {
            peft.addAdapter("default", config);
            double[] losses = train(peft, 6);
            assertThat(losses[5]).isLessThan(losses[0]);
            trained = logits(model);
            peft.savePretrained(temporary);
        }
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 2, METHODS)) {
            peft.loadAdapter("default", temporary);
            assertThat(logits(model)).isEqualTo(trained);
        }
    }

    @Test
    void anOwnModelGoesOnFromAText() {
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                KvCache cache = new KvCache(model);
                Scope scope = Scope.open()) {
            cache.append(new int[][] {{1, 5, 3, 8}});
            double[] last = cache.append(new int[][] {{2}}).toDoubles();
            double[] all = logits(model);
            for (int i = 0; i < last.length; i++) {
                assertThat(last[i]).isCloseTo(all[4 * last.length + i], within(1e-5));
            }
        }
    }

    @Test
    void anOwnMethodTrainsWholeModulesBesideAndIsMerged() {
        double[] trained;
        double[] head;
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1, METHODS)) {
            peft.addAdapter("default", new ScaleConfig(Targets.of("read", "write"), 0, List.of("lm_head"), null));
            assertThat(peft.trainableParameters().keySet())
                    .contains("base_model.model.lm_head.modules_to_save.default.weight")
                    .contains("base_model.model.body.layers.0.write.scale.default");
            train(peft, 6);
            trained = logits(model);
            peft.savePretrained(temporary);
        }
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1, METHODS)) {
            peft.loadAdapter("default", temporary);
            assertThat(logits(model)).isEqualTo(trained);
            peft.mergeAndUnload();
            head = logits(model);
        }
        for (int i = 0; i < head.length; i++) {
            assertThat(head[i]).isCloseTo(trained[i], within(1e-5));
        }
    }

    @Test
    void anOwnMethodDrops() {
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1, METHODS)) {
            double plain = loss(peft);
            peft.addAdapter("default", new ScaleConfig(Targets.of("read"), 0.5, List.of(), null));
            assertThat(loss(peft)).isEqualTo(plain);
            model.train(true);
            peft.microStep(0);
            double first = loss(peft);
            assertThat(first).isNotEqualTo(plain).isEqualTo(loss(peft));
            peft.microStep(1);
            assertThat(loss(peft)).isNotEqualTo(first);
        }
    }

    private double loss(PeftModel peft) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return peft.loss(ids(), null, ids()).item();
        }
    }

    @Test
    void aWrongTargetOfAnOwnMethodIsToldWithTheNearestName() {
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1)) {
            PeftConfig wrong = new ScaleConfig(Targets.of("raed"), 0, List.of(), null);
            assertThatThrownBy(() -> peft.addAdapter("default", wrong))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("target_modules [raed] match no module; did you mean read?");
        }
    }

    @Test
    void aMethodThatNobodyRegisteredIsRefused() {
        try (Model model = AcmeModel.random(SIZES, backend, 3);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.addAdapter("default", ScaleConfig.defaults());
            peft.savePretrained(temporary);
            assertThatThrownBy(() -> peft.loadAdapter("again", temporary))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("peft_type SCALE is not supported; known are LORA");
        }
        assertThatThrownBy(() -> METHODS.with("LORA", ScaleConfig::read))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("LORA");
    }
}
