package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.model.encoder.BertModel;
import java.lang.foreign.ValueLayout;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// Small models of every family and adapters of every kind, with random values where new ones have zeros and ones, and
/// texts for them.
final class Subjects {
    /// Decoders that are told from a config.
    static final List<String> CONFIGURED = List.of(
            "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "granite", "gpt_neox");

    static final List<String> FAMILIES = Stream.concat(
                    CONFIGURED.stream(), Stream.of("llama", "gpt2", "bert", "bert-head", "seo"))
            .toList();

    static final int VOCAB = 23;
    static final int LENGTH = 5;

    private Subjects() {}

    static Model model(String family, Backend backend, DType dtype) {
        Model model = switch (family) {
            case "llama" -> LlamaModel.random(llama(2, 6), backend, dtype, 1);
            case "gpt2" -> Gpt2Model.random(Gpt2Model.Config.of(VOCAB, 16, 12, 2, 3), backend, dtype, 1);
            case "bert" -> BertModel.random(BertModel.Config.of(VOCAB, 12, 2, 3, 16, 0), backend, dtype, 1);
            case "bert-head" -> BertModel.random(BertModel.Config.of(VOCAB, 12, 2, 3, 16, 4), backend, dtype, 1);
            case "seo" ->
                SeoTransformer.random(new TransformerConfig(12, 2, 3, VOCAB).withMaxPositions(16), backend, dtype, 1);
            default -> HfModels.random(config(family), backend, dtype, 1);
        };
        stir(model.namedParameters(), 0.2, 2);
        return model;
    }

    /// Grouped heads, windows shorter than the texts, and whatever a family has of its own; no loss of precision.
    static ObjectNode config(String family) {
        ObjectNode c = JsonNodeFactory.instance.objectNode();
        c.put("model_type", family).put("vocab_size", VOCAB).put("hidden_size", 12);
        c.put("intermediate_size", 20).put("num_hidden_layers", 2).put("num_attention_heads", 4);
        c.put("num_key_value_heads", 2).put("head_dim", family.equals("gpt_neox") ? 3 : 6);
        c.put("max_position_embeddings", 16).put("rope_theta", 100).put("rms_norm_eps", 1e-5);
        c.put("initializer_range", 0.02).put("tie_word_embeddings", false);
        switch (family) {
            case "qwen2" ->
                c.put("use_sliding_window", true).put("sliding_window", 3).put("max_window_layers", 1);
            case "mistral", "phi3" -> c.put("sliding_window", 3);
            case "gemma2" ->
                c.put("sliding_window", 3).put("query_pre_attn_scalar", 5).put("attn_logit_softcapping", 2);
            case "gemma3_text" ->
                c.put("sliding_window", 3).put("sliding_window_pattern", 2).put("rope_theta", 50);
            case "smollm3" -> c.put("no_rope_layer_interval", 2);
            case "granite" ->
                c.put("attention_multiplier", 0.3)
                        .put("embedding_multiplier", 3)
                        .put("residual_multiplier", 0.4)
                        .put("logits_scaling", 2);
            case "gpt_neox" ->
                c.put("num_attention_heads", 2).put("rotary_pct", 0.4).remove("head_dim");
            default -> c.put("attention_bias", true);
        }
        return c;
    }

    /// Grouped heads, whose width is independent of the model's, and biases.
    private static LlamaModel.Config llama(int keyValueHeads, int headDim) {
        Rope rope = new Rope.Default(100);
        return new LlamaModel.Config(
                VOCAB, 12, 20, 2, 4, keyValueHeads, headDim, 16, "silu", 1e-5, rope, true, true, false, 0.02);
    }

    /// Adds N(0, std²) to every element.
    static void stir(Map<String, Tensor> tensors, double std, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        for (Tensor t : tensors.values()) {
            double[] values = t.toDoubles();
            for (int i = 0; i < values.length; i++) {
                values[i] += std * random.nextGaussian();
            }
            try (Tensor stirred =
                    Tensor.of(t.backend(), t.dtype(), values, t.shape().dims())) {
                t.copyFrom(stirred);
            }
        }
    }

    /// Adapters that can be merged into a model of `family`, by their names in tests.
    static Map<String, PeftConfig> mergeable(String family) {
        Map<String, PeftConfig> all = new LinkedHashMap<>();
        LoraConfig lora = LoraConfig.defaults().withRank(3, 5);
        LoraConfig everywhere = lora.withTargets(Targets.allLinear());
        if (CONFIGURED.contains(family)) {
            // Some of these have no default targets, or no biases.
            all.put("lora everywhere", everywhere.withRslora(true));
            all.put("dora and pissa", everywhere.withDora(true).withInit(LoraInit.PISSA));
            all.put("lora and whole modules", everywhere.withModulesToSave(whole(family)));
            return all;
        }
        all.put("lora", lora);
        all.put("lora everywhere", everywhere.withRslora(true));
        all.put("lora with base biases", lora.withBias(LoraConfig.Bias.ALL));
        all.put("lora with its own bias", lora.withInit(LoraInit.FALSE).withLoraBias(true));
        all.put("pissa", lora.withInit(LoraInit.PISSA));
        all.put("olora everywhere", lora.withInit(LoraInit.OLORA).withTargets(Targets.allLinear()));
        all.put("lora and tokens", lora.withTrainableTokens(List.of(9, 4)));
        all.put("dora", lora.withDora(true));
        all.put("dora and pissa", lora.withDora(true).withInit(LoraInit.PISSA));
        all.put("adalora", AdaLoraConfig.defaults().withRanks(3, 2));
        all.put("ia3", Ia3Config.defaults());
        all.put("ln", LnTuningConfig.defaults());
        all.put("bitfit", BitFitConfig.defaults());
        all.put("lora and whole modules", lora.withModulesToSave(whole(family)));
        if (family.equals("bert-head")) {
            all.put("lora and head", lora.withModulesToSave(List.of("classifier")));
        }
        return all;
    }

    /// Layers of every kind that the family has, except tied tables.
    private static List<String> whole(String family) {
        return switch (family) {
            case "gpt_neox" -> List.of("embed_in", "dense_4h_to_h", "final_layer_norm");
            case "gpt2" -> List.of("wpe", "mlp.c_proj", "ln_f");
            case "seo" -> List.of("position_embedding", "mlp.down", "mlp_norm");
            case "bert", "bert-head" -> List.of("word_embeddings", "intermediate", "output.LayerNorm");
            default -> List.of("embed_tokens", "down_proj", "norm");
        };
    }

    /// Adapters that can all share a batch, including two lengths of prefix and prompt.
    static Map<String, PeftConfig> mixable(String family) {
        Map<String, PeftConfig> all = mergeable(family);
        all.remove("lora with base biases");
        all.put("houlsby", BottleneckConfig.houlsby().withSize(4));
        all.put("parallel", BottleneckConfig.parallel().withSize(3));
        all.put("prefix", PrefixTuningConfig.of(3));
        all.put("short prefix", PrefixTuningConfig.of(1).withProjection(5));
        all.put("prompt", PromptTuningConfig.of(2));
        all.put("p-tuning", PromptEncoderConfig.of(4).withEncoder(PromptEncoderConfig.Encoder.MLP, 6, 2, 0));
        return all;
    }

    /// Attaches `config` with random values.
    static Tuner add(PeftModel peft, String name, PeftConfig config) {
        Tuner tuner = peft.addAdapter(name, config);
        stir(tuner.parameters(), 0.3, name.hashCode());
        return tuner;
    }

    /// Random ids (rows, LENGTH).
    static Tensor ids(Model model, int rows) {
        int[] ids = new SplittableRandom(5).ints((long) rows * LENGTH, 0, VOCAB).toArray();
        return Tensor.ofInts(model.backend(), ids, rows, LENGTH);
    }

    /// A mask that hides the end of every second row.
    static Tensor mask(Model model, int rows) {
        int[] mask = new int[rows * LENGTH];
        for (int i = 0; i < mask.length; i++) {
            mask[i] = (i / LENGTH) % 2 == 1 && i % LENGTH >= LENGTH - 2 ? 0 : 1;
        }
        return Tensor.ofInts(model.backend(), mask, rows, LENGTH);
    }

    static double[] logits(PeftModel peft, Tensor ids, @Nullable Tensor mask) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return peft.logits(ids, mask).toDoubles();
        }
    }

    /// A hash of each parameter's elements in memory.
    static Map<String, String> bits(Model model) {
        Map<String, String> all = new LinkedHashMap<>();
        model.namedParameters()
                .forEach((name, t) -> t.withElements(s -> {
                    try {
                        byte[] digest = MessageDigest.getInstance("SHA-256").digest(s.toArray(ValueLayout.JAVA_BYTE));
                        all.put(name, HexFormat.of().formatHex(digest));
                    } catch (NoSuchAlgorithmException e) {
                        throw new IllegalStateException(e);
                    }
                }));
        return all;
    }

    /// The largest |a − b| divided by the largest |b|.
    static double distance(double[] a, double[] b) {
        if (a.length != b.length) {
            return Double.POSITIVE_INFINITY;
        }
        double difference = 0;
        double scale = 1e-30;
        for (int i = 0; i < a.length; i++) {
            difference = Math.max(difference, Math.abs(a[i] - b[i]));
            scale = Math.max(scale, Math.abs(b[i]));
        }
        return difference / scale;
    }
}
