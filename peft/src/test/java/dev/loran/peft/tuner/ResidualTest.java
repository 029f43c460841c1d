package dev.loran.peft.tuner;

import static dev.loran.peft.tuner.LoraFamilyTest.assertClose;
import static dev.loran.peft.tuner.LoraFamilyTest.distance;
import static dev.loran.peft.tuner.LoraFamilyTest.move;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// PiSSA and OLoRA, which are initialized by cutting a part out of the base.
class ResidualTest {
    private static final LoraConfig LORA = LoraConfig.defaults().withRank(3, 6);

    @TempDir
    Path folder;

    static Stream<Arguments> cuts() {
        List<Arguments> all = new ArrayList<>();
        for (String family : MethodsTest.FAMILIES) {
            for (LoraInit init : List.of(LoraInit.PISSA, LoraInit.pissa(3), LoraInit.OLORA)) {
                all.add(Arguments.of(family, init));
            }
        }
        return all.stream();
    }

    /// All linear layers; in GPT-2 these include square and non-square transposed ones.
    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("cuts")
    void whatIsCutOutOfTheBaseLeavesTheAnswersAndComesBackBitForBit(String family, LoraInit init) {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model(family, backend, DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            double[] bare = model.logits(text.ids(), text.mask()).toDoubles();
            Tuner tuner = peft.addAdapter("default", LORA.withInit(init).withTargets(Targets.allLinear()));
            assertClose(peft.logits(text.ids(), text.mask()).toDoubles(), bare, 1e-11);
            tuner.parameters().forEach((name, t) -> {
                double largest = java.util.Arrays.stream(t.toDoubles())
                        .map(Math::abs)
                        .max()
                        .orElse(0);
                assertThat(largest).as(name).isGreaterThan(0.01);
                t.copyFrom(t.scale(0.5));
            });
            assertThat(distance(peft.logits(text.ids(), text.mask()).toDoubles(), bare))
                    .isGreaterThan(1e-3);
            PeftModel.Disabled disabled = peft.disableAdapter();
            assertThat(model.logits(text.ids(), text.mask()).toDoubles()).containsExactly(bare);
            disabled.close();
            peft.deleteAdapter("default");
            assertThat(model.logits(text.ids(), text.mask()).toDoubles()).containsExactly(bare);
        }
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }

    /// peft 0.21.0: W as below in an `nn.Linear(3, 4)`, `get_peft_model(…, LoraConfig(r=2, lora_alpha=3,
    /// init_lora_weights=init))`, then `base_layer.weight`; the signs of A and B are arbitrary, the remainder is not.
    @Test
    void whatIsLeftIsWhatPeftLeaves() {
        double[] w = {.5, -1.2, .3, .8, .4, -.6, -.9, .1, 1.1, .2, -.7, .65};
        double[] pissa = {
            -0.040788, -0.030686, -0.040588, 0.197121, 0.148299, 0.196153, 0.105558, 0.079413, 0.105039, 0.125257,
            0.094233, 0.124641
        };
        double[] olora = {-0.25, 0.6, -0.235209, -0.4, -0.2, 0.851976, 0.45, -0.05, 0.013756, -0.1, 0.35, 0.217025};
        try (Scope scope = Scope.open()) {
            Tensor weight = Tensor.of(new ReferenceBackend(), DType.F64, w, 4, 3);
            Map.of(LoraInit.PISSA, pissa, LoraInit.pissa(1), pissa, LoraInit.OLORA, olora)
                    .forEach((init, left) -> {
                        try (Residual r = new Residual(weight, "l", init, 2, 1.5, new SplittableRandom(1))) {
                            Tensor rest = r.weight(weight);
                            rest.restore();
                            assertClose(rest.toDoubles(), left, 2e-6);
                        }
                    });
        }
    }

    @Test
    void aConvertedAdapterStandsOnTheUntouchedBase() throws IOException {
        LoraConfig config = LORA.withInit(LoraInit.pissa(2))
                .withRslora(true)
                .withPatterns(Map.of("1.attn.c_attn", 2), Map.of("0.mlp.c_fc", 4.0))
                .withTargets(Targets.of("c_attn", "c_fc", "wte"));
        try (Model model = Subjects.model("gpt2", new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            double[] before;
            try (PeftModel peft = new PeftModel(model, 11)) {
                move(peft.addAdapter("default", config));
                before = peft.logits(text.ids(), text.mask()).toDoubles();
                peft.saveConverted(folder);
            }
            assertThat(folder.resolve(AdapterFiles.TRAINING)).doesNotExist();
            try (PeftModel peft = new PeftModel(model, 12)) {
                LoraConfig read =
                        (LoraConfig) peft.loadAdapter("default", folder).config();
                assertThat(read.initLoraWeights()).isEqualTo(LoraInit.TRUE);
                assertThat(read.r()).isEqualTo(6);
                assertClose(peft.logits(text.ids(), text.mask()).toDoubles(), before, 1e-5);
            }
        }
    }

    @Test
    void aRandomCutWithoutItsFileIsRefusedWhereItIsUsed() throws IOException {
        try (Model model = Subjects.model("llama", new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            try (PeftModel peft = new PeftModel(model, 11)) {
                peft.addAdapter("default", LORA.withInit(LoraInit.pissa(2)));
                peft.savePretrained(folder);
            }
            Files.delete(folder.resolve(AdapterFiles.TRAINING));
            try (PeftModel peft = new PeftModel(model, 12)) {
                peft.loadAdapter("default", folder);
                assertThatThrownBy(() -> peft.logits(text.ids(), text.mask()))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("what was cut out of model.layers.0.self_attn.q_proj was found at random")
                        .hasMessageContaining("path_initial_model_for_weight_conversion");
            }
        }
    }
}
