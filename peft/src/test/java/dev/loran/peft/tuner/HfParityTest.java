package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.GradClip;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/// Every case folder of Hugging Face values (`fixtures/hf/README.md`; another folder of the same layout with
/// `-Dloran.fixtures=DIR`, on the CPU stand-in for CUDA with `-Dloran.test.standin=true`): logits, loss, all gradients,
/// ten optimizer steps, the final tensors and the files.
class HfParityTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static final Path STAND_IN = Path.of("..", "kernels", "target", "standin");

    @TempDir
    Path temporary;

    @TestFactory
    Stream<DynamicTest> cases() throws IOException, URISyntaxException {
        String property = System.getProperty("loran.fixtures", "");
        Path root = property.isEmpty()
                ? Path.of(Objects.requireNonNull(HfParityTest.class.getResource("/fixtures/hf"))
                        .toURI())
                : Path.of(property);
        List<Path> folders = new ArrayList<>();
        try (Stream<Path> files = Files.walk(root)) {
            files.filter(f -> f.endsWith("case.json"))
                    .map(Path::getParent)
                    .sorted()
                    .forEach(folders::add);
        }
        assertThat(folders).as("case folders under " + root).isNotEmpty();
        if (Boolean.getBoolean("loran.test.standin")) {
            return folders.stream()
                    .map(f -> DynamicTest.dynamicTest(
                            title(f) + " on the CPU stand-in for CUDA",
                            () -> run(f, CudaBackend.standIn(STAND_IN, DType.F32))));
        }
        return folders.stream()
                .flatMap(f -> Stream.of(
                        DynamicTest.dynamicTest(title(f) + " on the reference", () -> run(f, new ReferenceBackend())),
                        DynamicTest.dynamicTest(title(f) + " on the best backend", () -> run(f, Backends.best()))));
    }

    private static String method(Path folder) {
        return Objects.requireNonNull(folder.getFileName()).toString();
    }

    private static String title(Path folder) {
        return Objects.requireNonNull(folder.getParent()).getFileName() + "/" + method(folder);
    }

    private void run(Path folder, Backend backend) throws IOException {
        try (backend) {
            Path base = Objects.requireNonNull(folder.getParent()).resolve("base");
            try (Model model = HfModels.load(base, backend);
                    PeftModel peft = new PeftModel(model, 7)) {
                new Case(folder, peft).check(temporary.resolve(title(folder).replace('/', '-') + backend.name()));
            }
            // What peft saved after training gives peft's outputs as soon as it is loaded.
            try (Model model = HfModels.load(base, backend);
                    PeftModel peft = new PeftModel(model, 7)) {
                new Case(folder, peft).checkFinalFile();
            }
        }
    }

    /// Cases whose loss falls by a factor of hundreds in ten steps: what is left is known less exactly, as small
    /// elements of tensors are.
    private static final Set<String> VANISHING =
            Set.of("bert_regression/lora", "modernbert/lora", "modernbert/lora_all_linear");

    /// Cases whose steps magnify rounding: in phi3's, torch's own norms in F32 are up to 1e-4 from those in F64.
    private static final Set<String> ROUNDED = Set.of("gemma3/lora", "phi3/lora_all_linear");

    /// Compares one folder's values with one model.
    private static final class Case {
        private final Path folder;
        private final PeftModel peft;
        private final Backend backend;
        private final JsonNode optimizer;
        private final JsonNode steps;

        Case(Path folder, PeftModel peft) throws IOException {
            this.folder = folder;
            this.peft = peft;
            this.backend = peft.model().backend();
            this.optimizer = JSON.readTree(folder.resolve("case.json").toFile()).get("optimizer");
            this.steps = JSON.readTree(folder.resolve("steps.json").toFile());
        }

        void checkFinalFile() {
            try (SafeTensors io = SafeTensors.open(folder.resolve("io.safetensors"));
                    SafeTensors end = SafeTensors.open(folder.resolve("final.safetensors"));
                    Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                peft.loadAdapter("default", folder.resolve("adapter_final"));
                close("logits_after of the saved adapter", logits(io), end, "logits_after", 5e-5 * rounding());
            }
        }

        void check(Path out) throws IOException {
            Tuner tuner = load(folder.resolve("adapter_init"));
            try (SafeTensors io = SafeTensors.open(folder.resolve("io.safetensors"));
                    SafeTensors end = SafeTensors.open(folder.resolve("final.safetensors"))) {
                start(tuner, io);
                gradients(tuner, io);
                train(tuner, io);
                try (Scope scope = Scope.open();
                        Autograd.Mode mode = Autograd.noGrad()) {
                    close("logits_after", logits(io), end, "logits_after", 5e-5 * rounding());
                }
                tuner.parameters().forEach((name, t) -> close("final " + name, t, end, name, 1e-3));
                files(tuner, out);
            }
        }

        /// As [PeftModel#loadAdapter], but AdaLoRA uses peft's arithmetic.
        private Tuner load(Path adapter) {
            if (AdapterFiles.config(adapter) instanceof AdaLoraConfig config) {
                Tuner tuner = peft.addAdapter("default", config.withShrink(false), true);
                AdapterFiles.load(tuner, adapter, true);
                return tuner;
            }
            return peft.loadAdapter("default", adapter);
        }

        private Tensor logits(SafeTensors io) {
            return peft.logits(input(io, "input_ids"), input(io, "attention_mask"));
        }

        private Tensor input(SafeTensors io, String name) {
            return io.tensor(backend, name, DType.I32);
        }

        /// Ids of classes, or numbers.
        private Tensor labels(SafeTensors io) {
            DType type = io.entry("labels").dtype().name().equals("F32") ? DType.F32 : DType.I32;
            return io.tensor(backend, "labels", type);
        }

        /// Logits from the file alone, then the trainable tensors by name: the file must have supplied them already,
        /// except the encoders of prompt methods, which no file of peft holds.
        private void start(Tuner tuner, SafeTensors io) {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                close("logits", logits(io), io, "logits", 1e-5);
                Set<String> wanted = new HashSet<>();
                io.names().stream().filter(n -> n.startsWith("init.")).forEach(n -> wanted.add(n.substring(5)));
                assertThat(tuner.parameters().keySet()).isEqualTo(wanted);
                tuner.parameters().forEach((name, t) -> {
                    Tensor init = io.copy(backend, "init." + name, t.dtype());
                    if (!name.startsWith("prompt_encoder.")) {
                        assertThat(t.toFloats()).as(name).isEqualTo(init.toFloats());
                    }
                    t.copyFrom(init);
                });
            }
        }

        private Tensor lossWithPenalty(Tuner tuner, SafeTensors io) {
            Tensor loss = peft.loss(input(io, "input_ids"), input(io, "attention_mask"), labels(io));
            return Tuner.trainingLoss(loss, tuner.penalty());
        }

        private void gradients(Tuner tuner, SafeTensors io) {
            try (Scope scope = Scope.open()) {
                Tensor loss = lossWithPenalty(tuner, io);
                close("loss", loss, io, "loss", 1e-5);
                loss.backward();
                tuner.parameters()
                        .forEach((name, t) -> close(
                                "gradient " + name, Objects.requireNonNull(t.grad(), name), io, "grad." + name, 2e-5));
            }
            tuner.parameters().values().forEach(Tensor::zeroGrad);
        }

        private void train(Tuner tuner, SafeTensors io) {
            JsonNode betas = optimizer.get("betas");
            AdamW.Config config = new AdamW.Config(
                    betas.get(0).doubleValue(),
                    betas.get(1).doubleValue(),
                    optimizer.get("eps").doubleValue(),
                    optimizer.get("weight_decay").doubleValue(),
                    List.of());
            try (AdamW adamW = new AdamW(backend, DType.F32, config);
                    GradClip clip = new GradClip(
                            backend, DType.F32, optimizer.get("clip_grad_norm").doubleValue())) {
                JsonNode losses = steps.get("losses");
                tuner.beginTraining(losses.size());
                for (int i = 0; i < losses.size(); i++) {
                    try (Scope scope = Scope.open()) {
                        Tensor loss = lossWithPenalty(tuner, io);
                        closeTo("loss at step " + i, loss.item(), losses, i, 1e-5);
                        loss.backward();
                    }
                    Map<String, Tensor> parameters = tuner.parameters();
                    double norm = clip.norm(parameters.values()).item();
                    closeTo("norm at step " + i, norm, steps.get("grad_norms_before_clip"), i, 5e-5 * rounding());
                    adamW.advance(optimizer.get("lr").doubleValue());
                    adamW.step(parameters, clip.scale());
                    tuner.afterStep(i + 1, clip.scale(), adamW);
                    adamW.zeroGrad(parameters);
                }
            }
        }

        /// The written files equal peft's: the configuration without nulls, the tensors by value.
        private void files(Tuner tuner, Path out) throws IOException {
            peft.savePretrained(out);
            ObjectNode ours = config(out);
            ObjectNode theirs = config(folder.resolve("adapter_final"));
            assertThat(new TreeMap<>(canonical(ours))).isEqualTo(new TreeMap<>(canonical(theirs)));
            Path weights = Path.of(AdapterFiles.WEIGHTS);
            try (SafeTensors a = SafeTensors.open(out.resolve(weights));
                    SafeTensors b =
                            SafeTensors.open(folder.resolve("adapter_final").resolve(weights));
                    Scope scope = Scope.open()) {
                assertThat(a.names()).isEqualTo(b.names());
                for (String name : a.names()) {
                    close("saved " + name, a.copy(backend, name, DType.F32), b, name, 1e-3);
                }
            }
            assertThat(tuner.config().peftType())
                    .isEqualTo(theirs.get("peft_type").textValue());
        }

        private static ObjectNode config(Path folder) throws IOException {
            return (ObjectNode)
                    JSON.readTree(folder.resolve(AdapterFiles.CONFIG).toFile());
        }

        private static Map<String, Object> canonical(ObjectNode config) {
            Map<String, Object> map = new TreeMap<>();
            // The path of the base when the adapter was made.
            config.remove("base_model_name_or_path");
            config.properties().forEach(e -> {
                JsonNode v = e.getValue();
                if (v.isArray()) {
                    Set<String> set = new HashSet<>();
                    v.forEach(x -> set.add(x.asText()));
                    map.put(e.getKey(), set);
                } else if (!v.isNull()) {
                    map.put(e.getKey(), v.isNumber() ? (Object) v.doubleValue() : v.toString());
                }
            });
            return map;
        }

        private double rounding() {
            return ROUNDED.contains(title(folder)) ? 6 : 1;
        }

        /// The sums of the stand-in's kernels round in other places.
        private double slack() {
            return backend instanceof CudaBackend ? 3 : 1;
        }

        private void closeTo(String what, double actual, JsonNode expected, int at, double relative) {
            double size = Math.abs(expected.get(at).doubleValue());
            if (VANISHING.contains(title(folder))) {
                for (JsonNode e : expected) {
                    size = Math.max(size, Math.abs(e.doubleValue()));
                }
            }
            assertThat(actual).as(what).isCloseTo(expected.get(at).doubleValue(), within(slack() * relative * size));
        }

        /// Equal up to `relative` times the largest magnitude of the reference tensor.
        private void close(String what, Tensor actual, SafeTensors reference, String name, double relative) {
            double[] a = actual.toDoubles();
            try (Tensor r = reference.copy(backend, name, DType.F32)) {
                double[] e = r.detachFromScope().toDoubles();
                assertThat(a.length).as(what).isEqualTo(e.length);
                double max = Arrays.stream(e).map(Math::abs).max().orElse(0);
                for (int i = 0; i < a.length; i++) {
                    if (!isRandomWalk(name, i, a.length)) {
                        assertThat(a[i]).as(what + " at " + i).isCloseTo(e[i], within(slack() * relative * max));
                    }
                }
            }
        }

        /// The key third of GPT-2's fused bias: its gradient is zero up to rounding, so Adam performs a random walk
        /// there.
        private static boolean isRandomWalk(String name, int i, int size) {
            return name.endsWith("c_attn.base_layer.bias") && i >= size / 3 && i < 2 * size / 3;
        }
    }
}
