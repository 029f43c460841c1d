package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.FileDType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensors.Part;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Folders found in practice: sharded, in other types, with other names, damaged; and the folders that are written.
class HfModelsTest {
    private static final String QUERY = "model.layers.1.self_attn.q_proj.weight";

    private final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    private Path temp;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    private Map<String, float[]> parameters(Path folder) {
        try (Model model = HfModels.load(folder, backend)) {
            return values(model);
        }
    }

    private static Map<String, float[]> values(Model model) {
        Map<String, float[]> values = new LinkedHashMap<>();
        model.namedParameters().forEach((name, tensor) -> values.put(name, tensor.toFloats()));
        return values;
    }

    private static void assertSame(Map<String, float[]> actual, Map<String, float[]> expected) {
        assertThat(actual.keySet()).isEqualTo(expected.keySet());
        expected.forEach((name, e) -> assertThat(actual.get(name)).as(name).isEqualTo(e));
    }

    // ---- reading

    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen3", "gpt2", "bert"})
    void parametersAreFrozenAndNamedAsInTheFile(String family) {
        try (SafeTensors file = SafeTensors.openModel(Fixtures.base(family));
                Model model = HfModels.load(Fixtures.base(family), backend)) {
            assertThat(model.namedParameters().keySet()).containsExactlyInAnyOrderElementsOf(file.names());
            assertThat(model.namedParameters().values()).noneMatch(Tensor::requiresGrad);
            assertThat(model.facts().modelType()).isEqualTo(family);
        }
    }

    @Test
    void aTransposedLayerIsKeptAsOutByIn() {
        try (SafeTensors file = SafeTensors.openModel(Fixtures.base("gpt2"));
                Model model = HfModels.load(Fixtures.base("gpt2"), backend);
                Tensor stored = file.tensor(backend, "transformer.h.0.mlp.c_fc.weight", DType.F32)) {
            Linear fc = (Linear) Small.layer(model, "transformer.h.0.mlp.c_fc");
            assertThat(fc.fanInFanOut()).isTrue();
            assertThat(fc.weight().shape().dims()).containsExactly(128, 32);
            float[] kept = fc.weight().toFloats();
            float[] in = stored.toFloats();
            assertThat(kept[7 * 32 + 5]).isEqualTo(in[5 * 128 + 7]);
            assertThat(kept[127 * 32 + 31]).isEqualTo(in[31 * 128 + 127]);
        }
    }

    @Test
    void aShardedFolderIsTheSameModel() throws IOException {
        Path folder = Fixtures.changed(temp, "llama", c -> {});
        Files.delete(folder.resolve("model.safetensors"));
        Map<String, String> index = new LinkedHashMap<>();
        for (int shard = 0; shard < 2; shard++) {
            int part = shard;
            Fixtures.write(folder.resolve("shard-" + shard + ".safetensors"), Fixtures.base("llama"), all -> {
                Map<String, Tensor> half = new LinkedHashMap<>();
                all.forEach((name, tensor) -> {
                    if ((name.hashCode() & 1) == part) {
                        half.put(name, tensor);
                        index.put(name, "shard-" + part + ".safetensors");
                    }
                });
                return half;
            });
        }
        assertThat(index.values()).contains("shard-0.safetensors", "shard-1.safetensors");
        Files.writeString(
                folder.resolve("model.safetensors.index.json"),
                new ObjectMapper().writeValueAsString(Map.of("metadata", Map.of(), "weight_map", index)));
        assertSame(parameters(folder), parameters(Fixtures.base("llama")));
    }

    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"BF16", "F16", "F64"})
    void otherTypesAreConverted(DType stored) throws IOException {
        Path folder = Fixtures.changed(temp, "gpt2", c -> {});
        Path file = folder.resolve("model.safetensors");
        try (SafeTensors files = SafeTensors.openModel(Fixtures.base("gpt2"))) {
            ReferenceBackend other = new ReferenceBackend();
            Map<String, Part> parts = files.names().stream()
                    .collect(Collectors.toMap(n -> n, n -> Part.of(files.tensor(other, n, DType.F32), stored)));
            SafeTensors.writeParts(file, parts, Map.of());
        }
        try (SafeTensors written = SafeTensors.open(file)) {
            assertThat(written.entry("transformer.wte.weight").dtype()).isEqualTo(FileDType.valueOf(stored.name()));
        }
        Map<String, float[]> plain = parameters(Fixtures.base("gpt2"));
        Map<String, float[]> converted = parameters(folder);
        assertThat(converted.keySet()).isEqualTo(plain.keySet());
        plain.forEach((name, p) -> {
            float[] c = Objects.requireNonNull(converted.get(name));
            for (int i = 0; i < p.length; i++) {
                float rounded = switch (stored) {
                    case BF16 -> Float.intBitsToFloat(HostBuffer.toBf16(p[i]) << 16);
                    case F16 -> Float.float16ToFloat(Float.floatToFloat16(p[i]));
                    default -> p[i];
                };
                assertThat(c[i]).as(name).isEqualTo(rounded);
            }
        });
    }

    @ParameterizedTest
    @CsvSource({"llama, model.", "qwen3, model.", "gpt2, transformer.", "bert, bert."})
    void thePrefixMayBeMissing(String family, String prefix) throws IOException {
        Path folder = Fixtures.retold(
                temp, family, all -> renamed(all, n -> n.startsWith(prefix) ? n.substring(prefix.length()) : n));
        assertSame(parameters(folder), parameters(Fixtures.base(family)));
    }

    @Test
    void anEncodersPrefixMayBeThere() throws IOException {
        Path bare = Fixtures.encoder(temp);
        Path prefixed = Files.createDirectory(temp.resolve("prefixed"));
        Files.copy(bare.resolve("config.json"), prefixed.resolve("config.json"));
        Fixtures.write(prefixed.resolve("model.safetensors"), bare, all -> {
            Map<String, Tensor> names = renamed(all, n -> "bert." + n);
            names.put("cls.predictions.bias", Tensor.zeros(new ReferenceBackend(), DType.F32, 96));
            return names;
        });
        assertSame(parameters(prefixed), parameters(bare));
    }

    @Test
    void theFirstBertFilesCallNormsGammaAndBeta() throws IOException {
        Path folder = Fixtures.retold(
                temp,
                "bert",
                all -> renamed(
                        all,
                        n -> n.replace("LayerNorm.weight", "LayerNorm.gamma")
                                .replace("LayerNorm.bias", "LayerNorm.beta")));
        assertSame(parameters(folder), parameters(Fixtures.base("bert")));
    }

    @Test
    void buffersInFilesAreNoParameters() throws IOException {
        ReferenceBackend other = new ReferenceBackend();
        Path gpt2 = Fixtures.retold(temp, "gpt2", all -> {
            all.put("transformer.h.1.attn.bias", Tensor.zeros(other, DType.F32, 1, 1, 64, 64));
            all.put("transformer.h.1.attn.masked_bias", Tensor.zeros(other, DType.F32));
            return all;
        });
        Path bert = Fixtures.retold(temp, "bert", all -> {
            all.put("bert.embeddings.position_ids", Tensor.zeros(other, DType.I32, 1, 64));
            return all;
        });
        Path llama = Fixtures.retold(temp, "llama", all -> {
            all.put("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor.zeros(other, DType.F32, 4));
            return all;
        });
        assertSame(parameters(gpt2), parameters(Fixtures.base("gpt2")));
        assertSame(parameters(bert), parameters(Fixtures.base("bert")));
        assertSame(parameters(llama), parameters(Fixtures.base("llama")));
    }

    @Test
    void aTiedHeadMayBeWrittenOutIfItIsTheTable() throws IOException {
        Path same = Fixtures.retold(temp, "gpt2", all -> {
            all.put("lm_head.weight", Objects.requireNonNull(all.get("transformer.wte.weight")));
            return all;
        });
        assertSame(parameters(same), parameters(Fixtures.base("gpt2")));
        Path other = Fixtures.retold(temp, "gpt2", all -> {
            all.put("lm_head.weight", Tensor.zeros(new ReferenceBackend(), DType.F32, 96, 32));
            return all;
        });
        assertThatThrownBy(() -> HfModels.load(other, backend))
                .isInstanceOf(InputException.class)
                .hasMessage(other + ": holds 1 tensors that the model of config.json does not have: lm_head.weight"
                        + " (96, 32)");
    }

    private static Map<String, Tensor> renamed(Map<String, Tensor> all, UnaryOperator<String> name) {
        Map<String, Tensor> renamed = new LinkedHashMap<>();
        all.forEach((n, tensor) -> renamed.put(name.apply(n), tensor));
        return renamed;
    }

    // ---- refusing

    @Test
    void aMissingTensorIsNamed() throws IOException {
        Path folder = Fixtures.retold(temp, "llama", all -> {
            all.remove(QUERY);
            return all;
        });
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessage(folder + ": tensor " + QUERY + " (32, 32) is missing");
    }

    @Test
    void aWrongShapeIsSaidWithTheRightOne() throws IOException {
        Path folder = Fixtures.retold(temp, "llama", all -> {
            all.put(QUERY, Tensor.zeros(new ReferenceBackend(), DType.F32, 16, 32));
            return all;
        });
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessage(folder + ": tensor " + QUERY + " is (16, 32) but config.json asks for (32, 32)");
    }

    @Test
    void tensorsThatBelongNowhereAreNamed() throws IOException {
        Path folder = Fixtures.retold(temp, "bert", all -> {
            all.put("bert.extra.weight", Tensor.zeros(new ReferenceBackend(), DType.F32, 3));
            return all;
        });
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessage(folder
                        + ": holds 1 tensors that the model of config.json does not have: bert.extra.weight (3)");
    }

    @Test
    void damagedFilesAreInputErrors() throws IOException {
        Path folder = Fixtures.changed(temp, "bert", c -> {});
        Files.write(folder.resolve("model.safetensors"), new byte[] {1, 2, 3});
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("model.safetensors");
        Files.delete(folder.resolve("model.safetensors"));
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("holds neither model.safetensors nor");
        Files.writeString(folder.resolve("config.json"), "{");
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("config.json: is no JSON");
        Files.writeString(folder.resolve("config.json"), "[]");
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("config.json") + ": is no JSON object");
        Files.delete(folder.resolve("config.json"));
        assertThatThrownBy(() -> HfModels.load(folder, backend))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("config.json: no such file");
    }

    // ---- writing

    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen3", "gpt2", "bert"})
    void whatIsSavedIsWhatWasLoaded(String family) throws IOException {
        Path base = Fixtures.base(family);
        Path folder = temp.resolve("new/folder");
        try (Model model = HfModels.load(base, backend)) {
            HfModels.save(model, folder);
        }
        assertThat(Files.mismatch(folder.resolve("model.safetensors"), base.resolve("model.safetensors")))
                .isEqualTo(-1);
        ObjectMapper mapper = new ObjectMapper();
        JsonNode written = mapper.readTree(Files.readString(folder.resolve("config.json")));
        JsonNode read = mapper.readTree(Files.readString(base.resolve("config.json")));
        read.fieldNames()
                .forEachRemaining(key -> assertThat(written.get(key)).as(key).isEqualTo(read.get(key)));
        try (var files = Files.list(folder)) {
            assertThat(files.map(f -> f.getFileName().toString()))
                    .containsExactlyInAnyOrder("config.json", "model.safetensors");
        }
        assertSame(parameters(folder), parameters(base));
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen3", "gpt2", "bert", "bert-head", "seo"})
    void aModelMadeFromSizesIsLoadedAsItWas(String family) {
        Path folder = temp.resolve(family);
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F32)) {
            HfModels.save(model, folder);
            try (Model loaded = HfModels.load(folder, backend)) {
                assertSame(values(loaded), values(model));
                assertThat(loaded.facts()).isEqualTo(model.facts());
                assertThat(loaded.task()).isEqualTo(model.task());
                model.sizes()
                        .properties()
                        .forEach(size -> assertThat(loaded.sizes().get(size.getKey()))
                                .as(size.getKey())
                                .isEqualTo(size.getValue()));
                Tensor ids = Small.ids(backend, model, 2, 5);
                assertThat(loaded.logits(ids, null).toFloats())
                        .isEqualTo(model.logits(ids, null).toFloats());
            }
        }
    }

    @Test
    void aModelWithAnAdapterIsNotSaved() {
        try (Model model = Small.seo(backend, DType.F32)) {
            Linear w = (Linear) Small.layer(model, "layers.0.attention.w_q");
            w.adapter(new Adapter<Linear>() {
                @Override
                public Tensor forward(Linear base, Tensor x) {
                    return base.base(x);
                }

                @Override
                public void collect(BiConsumer<String, Tensor> visitor) {}

                @Override
                public void close() {}
            });
            assertThatThrownBy(() -> HfModels.save(model, temp.resolve("no")))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("save: layer layers.0.attention.w_q carries an adapter; merge it first, or save the"
                            + " adapter");
            assertThat(temp.resolve("no")).doesNotExist();
        }
    }

    // ---- memory

    /// A backend that computes directly in the mapped file.
    private static final class InPlace extends ReferenceBackend {
        @Override
        public Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
            return new HostBuffer(this, dtype, memory, freed -> onFree.run());
        }
    }

    @Test
    void matricesStayInTheFileUntilTheyMustBeWritable() {
        try (InPlace inPlace = new InPlace();
                Model model = HfModels.load(Fixtures.base("llama"), inPlace)) {
            Map<String, float[]> before = values(model);
            Tensor matrix = Objects.requireNonNull(model.namedParameters().get(QUERY));
            Tensor vector = Objects.requireNonNull(model.namedParameters().get("model.norm.weight"));
            assertThat(HostBuffer.segment(matrix.buffer()).isReadOnly()).isTrue();
            assertThat(HostBuffer.segment(vector.buffer()).isReadOnly()).isFalse();
            model.makeWritable();
            assertThat(model.namedParameters().values())
                    .noneMatch(p -> HostBuffer.segment(p.buffer()).isReadOnly());
            assertSame(values(model), before);
        }
    }
}
