package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import java.util.List;
import java.util.Map;

/// Qwen 3: like Llama, but with a norm on each head's queries and keys, and with an independently configured head
/// width. **Paper**: Yang et al., "Qwen3 Technical Report", 2025, section 2.
public final class Qwen3Model extends Decoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "qwen3",
            "Qwen3",
            List.of("ForCausalLM", "Model", "ForSequenceClassification"),
            "model.",
            ".*\\.rotary_emb\\.inv_freq",
            Map.of(
                    "LORA",
                    List.of("q_proj", "v_proj"),
                    "IA3",
                    List.of("q_proj", "v_proj", "down_proj"),
                    Family.FEED_FORWARD,
                    List.of("down_proj"),
                    "LN_TUNING",
                    List.of("post_attention_layernorm")),
            Qwen3Model::read);

    private final LlamaModel.Config config;

    private Qwen3Model(LlamaModel.Config config, Weights weights, Top top) {
        super(FAMILY, plan(config), top, weights);
        this.config = config;
    }

    private static Plan plan(LlamaModel.Config c) {
        return LlamaModel.plan(FAMILY, c, new LlamaModel.Biases(c.attentionBias(), c.attentionBias()), true);
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        LlamaModel.Config config = LlamaModel.Config.read(c.or("head_dim", 128).or("max_position_embeddings", 32_768));
        c.only("use_sliding_window", "false");
        c.onlyOf("layer_types", "\"full_attention\"");
        return new Qwen3Model(config, weights, Top.read(FAMILY, c, weights, config.tieWordEmbeddings(), labels));
    }

    /// A model with random weights, initialized like [LlamaModel#random].
    public static Qwen3Model random(LlamaModel.Config config, Backend backend, DType dtype, long seed) {
        Top top = new Top(false, config.tieWordEmbeddings(), 0);
        return new Qwen3Model(config, Weights.random(backend, dtype, seed), top);
    }

    public LlamaModel.Config config() {
        return config.withVocabSize(facts().vocabSize());
    }

    @Override
    protected ObjectNode sizes() {
        return changed(config.json());
    }
}
