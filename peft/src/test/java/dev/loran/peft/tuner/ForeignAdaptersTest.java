package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Adapters that peft made on another model of a family than the one they are attached to, or with their own tables
/// (`fixtures/adapters/README.md`): their outputs are peft's, and they are saved under their original names.
class ForeignAdaptersTest extends NothingLeft {
    /// The family's fixture without its head, in its own folder, as saved by its bare class.
    private Path bare(String family, String architecture, String prefix) throws IOException {
        Path bare = Files.createDirectories(folder.resolve(family));
        ObjectNode config = JsonFile.read(Fixtures.base(family).resolve("config.json"));
        config.putArray("architectures").add(architecture);
        config.put("tie_word_embeddings", false);
        Files.writeString(bare.resolve("config.json"), config.toString());
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        try (SafeTensors files = SafeTensors.openModel(Fixtures.base(family))) {
            for (String name : files.names()) {
                if (name.startsWith(prefix)) {
                    tensors.put(name.substring(prefix.length()), files.copy(backend, name, DType.F32));
                }
            }
        }
        SafeTensors.write(bare.resolve("model.safetensors"), tensors);
        tensors.values().forEach(Tensor::close);
        return bare;
    }

    private void assertAnswers(Model model, String name, Path expected) {
        try (SafeTensors file = SafeTensors.open(expected.resolve("expected.safetensors"));
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad();
                Tensor theirs = file.copy(backend, name, DType.F32);
                Tensor ids = file.tensor(backend, "input_ids", DType.I32);
                Tensor mask = file.tensor(backend, "attention_mask", DType.I32)) {
            Tensor ours = name.equals("hidden") ? model.hidden(ids, mask) : model.logits(ids, mask);
            assertThat(Subjects.distance(ours.toDoubles(), theirs.toDoubles()))
                    .as(name)
                    .isLessThan(1e-5);
        }
    }

    private void assertSavedAsItCame(PeftModel peft, Path adapter) {
        Path saved = folder.resolve("saved");
        peft.savePretrained(saved);
        try (SafeTensors ours = SafeTensors.open(saved.resolve(AdapterFiles.WEIGHTS));
                SafeTensors theirs = SafeTensors.open(adapter.resolve(AdapterFiles.WEIGHTS))) {
            assertThat(ours.names()).isEqualTo(theirs.names());
            for (String name : theirs.names()) {
                try (Tensor a = ours.copy(backend, name, DType.F32);
                        Tensor b = theirs.copy(backend, name, DType.F32)) {
                    assertThat(a.shape()).isEqualTo(b.shape());
                    assertThat(a.toFloats()).as(name).isEqualTo(b.toFloats());
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "llama-bare, llama, hidden",
        "gpt2-bare, gpt2, hidden",
        "bert-bare, bert, hidden",
        "gpt2-transposed, gpt2, logits"
    })
    void onAModelWithAHead(String name, String family, String answer) {
        Path adapter = Fixtures.root("adapters/" + name);
        try (Model model = HfModels.load(Fixtures.base(family), backend)) {
            PeftModel peft = new PeftModel(model, 1);
            peft.loadAdapter("default", adapter);
            assertAnswers(model, answer, adapter);
            assertSavedAsItCame(peft, adapter);
            peft.mergeAndUnload();
            assertAnswers(model, answer, adapter);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "llama-bare, llama, LlamaModel, model.",
        "gpt2-bare, gpt2, GPT2Model, transformer.",
        "bert-bare, bert, BertModel, bert.",
        "bert-masked, bert, BertModel, bert."
    })
    void onABareModel(String name, String family, String architecture, String prefix) throws IOException {
        Path adapter = Fixtures.root("adapters/" + name);
        try (Model model = HfModels.load(bare(family, architecture, prefix), backend)) {
            assertThat(model.task()).isEqualTo(TaskType.FEATURE_EXTRACTION);
            PeftModel peft = new PeftModel(model, 1);
            peft.loadAdapter("default", adapter);
            assertAnswers(model, "hidden", adapter);
            assertSavedAsItCame(peft, adapter);
            peft.mergeAndUnload();
            Path merged = folder.resolve("merged");
            HfModels.save(model, merged);
            try (Model read = HfModels.load(merged, backend)) {
                assertThat(read.className()).isEqualTo(architecture);
                assertAnswers(read, "hidden", adapter);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"llama, LlamaModel, model.", "gpt2, GPT2Model, transformer."})
    void whatWasMadeUnderAHeadStandsOnTheBareModel(String family, String architecture, String prefix)
            throws IOException {
        Path adapter = Fixtures.root("hf/" + family + "/lora/adapter_final");
        double[] expected;
        try (Model model = HfModels.load(Fixtures.base(family), backend);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.loadAdapter("default", adapter);
            expected = hidden(model);
        }
        try (Model model = HfModels.load(bare(family, architecture, prefix), backend);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.loadAdapter("default", adapter);
            assertThat(hidden(model)).isEqualTo(expected);
            assertSavedAsItCame(peft, adapter);
        }
    }

    private static double[] hidden(Model model) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return model.hidden(Tensor.ofInts(model.backend(), new int[] {5, 9, 17, 3}, 1, 4), null)
                    .toDoubles();
        }
    }

    @Test
    void anAdapterOnAHeadThatTheModelLacksIsRefusedForThat() throws IOException {
        try (Model model = HfModels.load(bare("llama", "LlamaModel", "model."), backend);
                PeftModel peft = new PeftModel(model, 1)) {
            assertThatThrownBy(() -> peft.loadAdapter("default", Fixtures.root("hf/llama/lora_whole/adapter_final")))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("lm_head.weight has no place in the model; there is no such module");
        }
    }

    // ---- tables of another size

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2"})
    void resizedTablesComeWithTheAdapter(String family) {
        Path adapter = Fixtures.root("adapters/" + family + "-resized");
        try (Model model = HfModels.load(Fixtures.base(family), backend)) {
            PeftModel peft = new PeftModel(model, 1);
            assertThatThrownBy(() -> peft.loadAdapter("default", adapter))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("the vocabulary was resized when the adapter was made:"
                            + " call resizeTokenEmbeddings(100) on the model");
            assertThat(AdapterFiles.tokenEmbeddings(adapter, model)).isEqualTo(100);
            model.resizeTokenEmbeddings(100);
            peft.loadAdapter("default", adapter);
            assertThat(peft.trainableParameters().keySet()).noneMatch(n -> n.contains("modules_to_save"));
            assertAnswers(model, "logits", adapter);
            assertSavedAsItCame(peft, adapter);
            peft.mergeAndUnload();
            HfModels.save(model, folder.resolve("merged"));
            try (Model read = HfModels.load(folder.resolve("merged"), backend)) {
                assertThat(read.facts().vocabSize()).isEqualTo(100);
                assertThat(read.namedParameters().keySet())
                        .isEqualTo(model.namedParameters().keySet());
                assertAnswers(read, "logits", adapter);
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert", "seo"})
    void newRowsAreTheMeanAndGoWithTheAdapter(String family) {
        try (Model model = Subjects.model(family, backend, DType.F32);
                Scope scope = Scope.open()) {
            float[] before = model.tokenEmbedding().weight().toFloats();
            int rows = model.facts().vocabSize();
            int width = model.facts().hiddenSize();
            model.resizeTokenEmbeddings(rows + 2);
            float[] after = model.tokenEmbedding().weight().toFloats();
            assertThat(after).startsWith(before).hasSize((rows + 2) * width);
            for (int c = 0; c < width; c++) {
                double mean = 0;
                for (int r = 0; r < rows; r++) {
                    mean += before[r * width + c] / (double) rows;
                }
                assertThat((double) after[(rows + 1) * width + c]).isCloseTo(mean, within(1e-5));
            }
            assertThat(model.facts().vocabSize()).isEqualTo(rows + 2);
            Tensor ids = Subjects.ids(model, 2);
            PeftModel peft = new PeftModel(model, 1);
            Subjects.add(peft, "default", LoraConfig.defaults().withRank(2, 4));
            peft.savePretrained(folder);
            try (SafeTensors saved = SafeTensors.open(folder.resolve(AdapterFiles.WEIGHTS))) {
                assertThat(saved.names().stream().filter(n -> !n.contains("lora_")))
                        .hasSize(model.tokenHead() == null ? 1 : 2);
            }
            double[] answers = Subjects.logits(peft, ids, null);
            peft.unload();
            model.resizeTokenEmbeddings(rows);
            assertThat(model.tokenEmbedding().weight().toFloats()).isEqualTo(before);
            model.resizeTokenEmbeddings(rows + 2);
            PeftModel again = new PeftModel(model, 1);
            again.loadAdapter("default", folder);
            assertThat(Subjects.distance(Subjects.logits(again, ids, null), answers))
                    .isLessThan(1e-6);
            again.unload();
        }
    }

    // ---- how A and B were made

    @ParameterizedTest
    @ValueSource(strings = {"eva", "lora_ga", "orthogonal", "mica", "gaussian"})
    void howPlainLoraWasMadeDoesNotMatter(String init) throws IOException {
        Path adapter = changed(config ->
                config.put("init_lora_weights", init).putObject("eva_config").put("rho", 2.0));
        try (Model model = HfModels.load(Fixtures.base("llama"), backend);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.loadAdapter("default", adapter);
            assertAnswers(model, "hidden", Fixtures.root("adapters/llama-bare"));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"corda", "loftq"})
    void whatStandsOnAChangedBaseIsRefusedForThat(String init) throws IOException {
        Path adapter = changed(config -> config.put("init_lora_weights", init));
        try (Model model = HfModels.load(Fixtures.base("llama"), backend);
                PeftModel peft = new PeftModel(model, 1)) {
            assertThatThrownBy(() -> peft.loadAdapter("default", adapter))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(adapter.resolve(AdapterFiles.CONFIG) + ": init_lora_weights " + init
                            + ": A and B stand on a base that was changed by ");
        }
    }

    private Path changed(Consumer<ObjectNode> change) throws IOException {
        Path from = Fixtures.root("adapters/llama-bare");
        ObjectNode config = JsonFile.read(from.resolve(AdapterFiles.CONFIG));
        change.accept(config);
        Files.writeString(folder.resolve(AdapterFiles.CONFIG), new ObjectMapper().writeValueAsString(config));
        Files.copy(from.resolve(AdapterFiles.WEIGHTS), folder.resolve(AdapterFiles.WEIGHTS));
        return folder;
    }

    // ---- where the base was

    @Test
    void theFileSaysWhatTheBaseWasOpenedByAndItsClass() {
        Path base = Fixtures.base("llama");
        try (Model model = HfModels.load(base, backend);
                PeftModel peft = new PeftModel(model, 1)) {
            peft.addAdapter("default", LoraConfig.defaults());
            peft.savePretrained(folder);
            ObjectNode config = JsonFile.read(folder.resolve(AdapterFiles.CONFIG));
            assertThat(config.get("base_model_name_or_path").asText()).isEqualTo(base.toString());
            assertThat(config.at("/auto_mapping/base_model_class").asText()).isEqualTo("LlamaForCausalLM");
            assertThat(config.at("/auto_mapping/parent_library").asText())
                    .isEqualTo("transformers.models.llama.modeling_llama");
            model.nameOrPath("some/name");
            peft.addAdapter("task", LoraConfig.defaults().withTask(TaskType.CAUSAL_LM));
            peft.setAdapter("task");
            peft.savePretrained(folder);
            ObjectNode named = JsonFile.read(folder.resolve("task").resolve(AdapterFiles.CONFIG));
            assertThat(named.get("base_model_name_or_path").asText()).isEqualTo("some/name");
            assertThat(named.get("auto_mapping").isNull()).isTrue();
            assertThat(named.get("inference_mode").booleanValue()).isTrue();
        }
    }
}
