package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.model.encoder.BertModel;
import java.util.Arrays;
import java.util.Objects;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/// Small random models of every family, two layers each.
public final class Small {
    private Small() {}

    static Model model(String family, Backend backend, DType dtype) {
        return switch (family) {
            case "llama" -> llama(backend, dtype, true);
            case "qwen3" -> qwen3(backend, dtype);
            case "gpt2" -> Gpt2Model.random(Gpt2Model.Config.of(23, 16, 12, 2, 3), backend, dtype, 1);
            case "bert" -> BertModel.random(BertModel.Config.of(23, 12, 2, 3, 16, 0), backend, dtype, 1);
            case "bert-head" -> BertModel.random(BertModel.Config.of(23, 12, 2, 3, 16, 4), backend, dtype, 1);
            case "seo" -> seo(backend, dtype);
            default -> encoder(family, backend, dtype);
        };
    }

    /// The encoders beside BERT, by the model type, with a head of four classes after `-head`, or of tokens after
    /// `-tokens`.
    public static Model encoder(String name, Backend backend, DType dtype) {
        String type = name.replaceFirst("-(head|tokens)$", "");
        Family family = HfModels.FAMILIES.stream()
                .filter(f -> f.modelType().equals(type))
                .findFirst()
                .orElseThrow(() -> new IllegalArgumentException(name));
        String kind = name.endsWith("-tokens") ? Family.TOKEN_CLASSIFIER : Family.CLASSIFIER;
        int labels = name.equals(type) ? 0 : 4;
        Model model = family.maker()
                .make(config(family, labels == 0 ? Family.BARE : kind), Weights.random(backend, dtype, 1), labels);
        model.configAsRead(config(family, kind).json());
        return model;
    }

    /// The small config of a family's class.
    static HfConfig config(Family family, String kind) {
        boolean isDeberta = family.modelType().equals("deberta-v2");
        ObjectNode json = HfConfig.object()
                .put("model_type", family.modelType())
                .put("vocab_size", 23)
                .put("hidden_size", 12)
                .put("num_hidden_layers", 2)
                .put("num_attention_heads", 3 - (family.modelType().equals("modernbert") ? 1 : 0))
                .put("intermediate_size", 20)
                .put("max_position_embeddings", 20)
                .put("pad_token_id", 1)
                .put("type_vocab_size", isDeberta ? 0 : 1)
                .put("initializer_range", 0.2);
        json.putArray("architectures").add(family.title() + kind);
        json.put("dim", 12).put("n_layers", 2).put("n_heads", 3).put("hidden_dim", 20);
        json.put("embedding_size", isDeberta ? 12 : 8);
        json.put("local_attention", 2).put("global_attn_every_n_layers", 2).put("classifier_pooling", "mean");
        json.put("relative_attention", true).put("share_att_key", true).put("position_biased_input", false);
        return new HfConfig(
                "config.json",
                json.put("norm_rel_ebd", "layer_norm")
                        .put("position_buckets", 4)
                        .put("pos_att_type", "p2c|c2p"));
    }

    /// Grouped-query heads and biases; tied or not.
    static LlamaModel llama(Backend backend, DType dtype, boolean tied) {
        return LlamaModel.random(
                new LlamaModel.Config(
                        23, 12, 20, 2, 4, 2, 6, 16, "silu", 1e-5, new Rope.Default(100), true, true, tied, 0.02),
                backend,
                dtype,
                1);
    }

    /// Heads whose total width exceeds the model's, with a tied head.
    static Model qwen3(Backend backend, DType dtype) {
        Rope rope = new Rope.Default(100);
        LlamaModel.Config config =
                new LlamaModel.Config(23, 12, 20, 2, 4, 2, 4, 16, "silu", 1e-6, rope, false, false, true, 0.02);
        return HfModels.random(config.json().put("model_type", "qwen3"), backend, dtype, 1);
    }

    static SeoTransformer seo(Backend backend, DType dtype) {
        return SeoTransformer.random(new TransformerConfig(12, 2, 3, 23).withMaxPositions(16), backend, dtype, 1);
    }

    /// Random ids (rows, length).
    static Tensor ids(Backend backend, Model model, int rows, int length) {
        int[] ids = new SplittableRandom(5)
                .ints((long) rows * length, 0, model.facts().vocabSize())
                .toArray();
        return Tensor.ofInts(backend, ids, rows, length);
    }

    static AdaptedLayer<?> layer(Model model, String name) {
        return (AdaptedLayer<?>) Objects.requireNonNull(model.namedModules().get(name), name);
    }

    /// The input of the first block.
    static Tensor embedded(Model model, Tensor ids) {
        Tensor words = model.tokenEmbedding().forward(ids);
        String positions = switch (model.facts().modelType()) {
            case "gpt2" -> "transformer.wpe";
            case "seo" -> "position_embedding";
            case "bert" -> "embeddings.position_embeddings";
            default -> "";
        };
        if (positions.isEmpty()) {
            return words;
        }
        int[] first = new int[ids.shape().dim(1)];
        Arrays.setAll(first, i -> i);
        Tensor at = layer(model, positions).forward(Tensor.ofInts(model.backend(), first, first.length));
        if (!positions.startsWith("embeddings")) {
            return words.add(at);
        }
        Tensor type = layer(model, "embeddings.token_type_embeddings")
                .forward(Tensor.ofInts(model.backend(), new int[] {0}, 1));
        return layer(model, "embeddings.LayerNorm").forward(words.add(type).add(at));
    }

    static String finalNorm(String family) {
        return switch (family) {
            case "llama" -> "model.norm";
            case "gpt2" -> "transformer.ln_f";
            default -> "norm";
        };
    }

    /// The norm before the first attention; null if there is none.
    static @Nullable AdaptedLayer<?> firstNorm(Model model, String family) {
        return switch (family) {
            case "llama" -> layer(model, "model.layers.0.input_layernorm");
            case "gpt2" -> layer(model, "transformer.h.0.ln_1");
            case "seo" -> layer(model, "layers.0.attention_norm");
            default -> null;
        };
    }
}
