package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonIgnore;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Prompt tuning: the embeddings of P virtual tokens in front of the text are the only parameters.
///
/// **Paper**: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021; initialization from the
/// vocabulary or a text: its section 2.1.
///
/// A random initialization has the standard deviation of the model's own embeddings; peft's is N(0, 1), some fifty
/// times wider than Llama's.
///
/// @param numVirtualTokens P
/// @param init how the embeddings are initialized
/// @param initTokens token ids of the text that [Init#TEXT] starts from, repeated or truncated to P; null otherwise
/// @param initText that text, as named in peft's file; null otherwise
/// @param tokenDim width that the file was made for; null: the model's
/// @param numLayers number of layers of the model that the file was made for; null: the model's
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record PromptTuningConfig(
        int numVirtualTokens,
        @JsonProperty("prompt_tuning_init") Init init,
        @JsonIgnore @Nullable List<Integer> initTokens,
        @JsonProperty("prompt_tuning_init_text") @Nullable String initText,
        @Nullable Integer tokenDim,
        @Nullable Integer numLayers,
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// How the embeddings are initialized.
    public enum Init {
        /// Random, with the standard deviation of the model's embeddings.
        RANDOM,
        /// Embeddings of tokens drawn from the vocabulary.
        SAMPLE_VOCAB,
        /// Embeddings of a text's tokens.
        TEXT
    }

    public PromptTuningConfig {
        PromptTuner.checkTokens("PromptTuningConfig", numVirtualTokens);
        initTokens = initTokens == null ? null : List.copyOf(initTokens);
        modulesToSave = List.copyOf(modulesToSave);
        if (initTokens != null && initTokens.isEmpty()) {
            throw new InputException("PromptTuningConfig: the initial text has no tokens");
        }
    }

    /// 20 virtual tokens, randomly initialized.
    public static PromptTuningConfig defaults() {
        return of(20);
    }

    /// As above, with the given number of virtual tokens.
    public static PromptTuningConfig of(int numVirtualTokens) {
        return fromJson(new ConfigJson(
                "PROMPT_TUNING", JsonNodeFactory.instance.objectNode().put("num_virtual_tokens", numVirtualTokens)));
    }

    private PromptTuningConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, json -> read(json, initTokens), change);
    }

    public PromptTuningConfig withVirtualTokens(int number) {
        return with(n -> n.put("num_virtual_tokens", number));
    }

    public PromptTuningConfig fromVocabulary() {
        return ConfigJson.copy(
                this,
                json -> read(json, null),
                n -> n.put("prompt_tuning_init", "SAMPLE_VOCAB").remove("prompt_tuning_init_text"));
    }

    /// Initializes from `text`, whose token ids are `tokens`.
    public PromptTuningConfig fromText(String text, List<Integer> tokens) {
        return ConfigJson.copy(
                this,
                json -> read(json, tokens),
                n -> n.put("prompt_tuning_init", "TEXT").put("prompt_tuning_init_text", text));
    }

    public PromptTuningConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public PromptTuningConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "PROMPT_TUNING";
    }

    static PromptTuningConfig fromJson(ConfigJson json) {
        return read(json, null);
    }

    /// @param tokens ids of the initial text, which files do not hold
    private static PromptTuningConfig read(ConfigJson json, @Nullable List<Integer> tokens) {
        String text = json.string("prompt_tuning_init_text", "");
        json.string("tokenizer_name_or_path", "");
        json.submodules();
        return new PromptTuningConfig(
                json.integer("num_virtual_tokens", 0),
                json.choice("prompt_tuning_init", Init.class, Init.RANDOM),
                tokens,
                text.isEmpty() ? null : text,
                json.integerOrNull("token_dim"),
                json.integerOrNull("num_layers"),
                json.strings("modules_to_save"),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public ObjectNode toJson() {
        return PeftConfig.super.toJson().put("num_transformer_submodules", 1);
    }

    @Override
    public Tuner attach(Attachment to) {
        return new VirtualTokens(this, to);
    }

    private static final class VirtualTokens extends PromptTuner {
        private final PromptTuningConfig config;
        private final Tensor embedding;

        VirtualTokens(PromptTuningConfig config, Attachment to) {
            super(config, to, config.modulesToSave);
            this.config = config;
            Model model = to.model();
            checkSizes(config.tokenDim, model.facts().hiddenSize(), config.numLayers, model);
            checkRoom(config.numVirtualTokens);
            embedding = encoderParameter("embedding.weight", initial(model));
        }

        private Tensor initial(Model model) {
            int p = config.numVirtualTokens;
            Tensor table = model.tokenEmbedding().weight();
            int[] ids = new int[p];
            List<Integer> text = config.initTokens;
            // A saved file may name the text of its initialization, but its trained embeddings replace it.
            if (config.init == Init.RANDOM || config.init == Init.TEXT && text == null) {
                return normal(spread(table), p, table.shape().cols());
            }
            for (int i = 0; i < p; i++) {
                ids[i] = text == null
                        ? attachment().random().nextInt(table.shape().rows())
                        : text.get(i % text.size());
                if (ids[i] < 0 || ids[i] >= table.shape().rows()) {
                    throw new InputException(
                            "PromptTuningConfig: token " + ids[i] + " does not exist in a vocabulary of "
                                    + table.shape().rows());
                }
            }
            try (Tensor rows = Tensor.ofInts(model.backend(), ids, p);
                    Tensor found = Functional.embedding(table, rows)) {
                return Merge.wide(found);
            }
        }

        /// Standard deviation of a table's entries.
        private static double spread(Tensor table) {
            double sum = 0;
            double squares = 0;
            float[] values = table.toFloats();
            for (float v : values) {
                sum += v;
                squares += (double) v * v;
            }
            double mean = sum / values.length;
            return Math.sqrt(squares / values.length - mean * mean);
        }

        @Override
        Tensor encode() {
            return embedding;
        }

        @Override
        public void activate() {
            super.activate();
            attachment().model().virtualTokens(this::prompt);
        }

        @Override
        public void deactivate() {
            super.deactivate();
            attachment().model().virtualTokens(null);
        }

        @Override
        public int virtualTokens() {
            return config.numVirtualTokens;
        }

        @Override
        public ObjectNode savedConfig() {
            Model.Facts f = attachment().model().facts();
            return sizes(config.toJson(), config.numVirtualTokens, f.hiddenSize(), f.numLayers(), f.numHeads());
        }
    }
}
