package dev.loran.peft.model.decoder;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Angles;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model.Facts;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.ResidualBlock;
import dev.loran.peft.model.ResidualBlock.Norms;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.decoder.Decoder.BlockMaker;
import dev.loran.peft.model.decoder.Decoder.Names;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import dev.loran.peft.model.decoder.Decoder.Turning;
import dev.loran.peft.model.decoder.LlamaModel.Config;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.function.IntPredicate;
import org.jspecify.annotations.Nullable;

/// What the many families that descend from Llama share: the names of modules, the sizes ([LlamaModel.Config]), and the
/// parts of a block, from which each family puts its own together.
final class LlamaParts {
    static final List<String> CLASSES = List.of("ForCausalLM", "Model", "ForSequenceClassification");
    static final String PREFIX = "model.";
    static final String BUFFERS = ".*\\.rotary_emb\\.inv_freq";

    private final Config c;
    private final Parts parts;

    /// @param weights those of one block
    LlamaParts(Config c, Weights weights) {
        this.c = c;
        this.parts = new Parts(weights, c.initializerRange());
    }

    /// The metadata of a family with Llama's classes and names.
    ///
    /// @param targets as in [Family#targets]
    /// @param plan reads a config
    static Family family(
            String modelType, String title, Map<String, List<String>> targets, Function<HfConfig, Plan> plan) {
        Family[] self = new Family[1];
        self[0] = new Family(
                modelType,
                title,
                CLASSES,
                PREFIX,
                BUFFERS,
                targets,
                (config, weights, labels) -> Decoder.of(self[0], plan.apply(config), config, weights, labels));
        return self[0];
    }

    /// The decoder of these sizes with Llama's final norm.
    static Plan plan(String modelType, Config c, Scales scales, BlockMaker block) {
        return plan(modelType, c, scales, p -> p.rmsNorm("norm", c.hiddenSize(), c.rmsNormEps()), block);
    }

    static Plan plan(String modelType, Config c, Scales scales, Function<Parts, Norm> norm, BlockMaker block) {
        Facts facts = new Facts(
                modelType,
                c.hiddenSize(),
                c.numHiddenLayers(),
                c.numAttentionHeads(),
                c.numKeyValueHeads(),
                c.headDim(),
                c.vocabSize(),
                c.maxPositionEmbeddings());
        Names names = new Names("embed_tokens", null, "layers");
        return new Plan(facts, c.initializerRange(), names, c.tieWordEmbeddings(), scales, norm, block);
    }

    /// The attention window of each layer, 0 for none, by `layer_types` and `sliding_window`.
    ///
    /// @param window the window of layers that have one; 0 if there are none
    /// @param byDefault whether a layer has a window if `layer_types` is absent
    static int[] windows(HfConfig config, int layers, int window, IntPredicate byDefault) {
        config.onlyOf("layer_types", "\"full_attention\"", "\"sliding_attention\"");
        List<String> types = config.texts("layer_types");
        if (!types.isEmpty() && types.size() != layers) {
            throw new IllegalArgumentException(
                    "layer_types has " + types.size() + " entries, must have one for each of " + layers + " layers");
        }
        int[] windows = new int[layers];
        for (int i = 0; i < layers; i++) {
            boolean slides = types.isEmpty()
                    ? window > 0 && byDefault.test(i)
                    : types.get(i).startsWith("sliding");
            if (slides && window <= 0) {
                throw new IllegalArgumentException(
                        "layer_types has sliding_attention, so sliding_window must be positive");
            }
            windows[i] = slides ? window : 0;
        }
        return windows;
    }

    Parts parts() {
        return parts;
    }

    // ---- attention

    /// Causal attention through a window, 0 for none, with scores scaled by 1 / √headDim.
    Scoring scoring(int window) {
        return new Scoring(true, window, 1 / Math.sqrt(c.headDim()), 0);
    }

    /// Norms over the width of a head.
    Attention.Norms headNorms() {
        return new Attention.Norms(
                parts.rmsNorm("self_attn.q_norm", c.headDim(), c.rmsNormEps()),
                parts.rmsNorm("self_attn.k_norm", c.headDim(), c.rmsNormEps()));
    }

    /// Attention with a layer each for queries, keys and values.
    ///
    /// @param biasIn whether these have biases
    /// @param biasOut whether the projection of the heads' outputs has one
    /// @param rope rotates queries and keys; null for none
    Attention attention(
            boolean biasIn,
            boolean biasOut,
            Scoring scoring,
            Turning turning,
            @Nullable Rope rope,
            Attention.@Nullable Norms norms) {
        int kvWidth = c.numKeyValueHeads() * c.headDim();
        List<Linear> qkv = List.of(
                parts.linear("self_attn.q_proj", c.hiddenSize(), width(), biasIn),
                parts.linear("self_attn.k_proj", c.hiddenSize(), kvWidth, biasIn),
                parts.linear("self_attn.v_proj", c.hiddenSize(), kvWidth, biasIn));
        Linear out = parts.linear("self_attn.o_proj", width(), c.hiddenSize(), biasOut);
        return attention(x -> Linear.forward(x, qkv), out, scoring, turning, rope, norms);
    }

    /// Attention with one layer, without bias, for queries, keys and values.
    Attention fusedAttention(Scoring scoring, Turning turning) {
        int kvWidth = c.numKeyValueHeads() * c.headDim();
        Linear qkv = parts.linear("self_attn.qkv_proj", c.hiddenSize(), width() + 2 * kvWidth, false);
        Linear out = parts.linear("self_attn.o_proj", width(), c.hiddenSize(), false);
        return attention(Attention.sideBySide(qkv, width()), out, scoring, turning, c.rope(), null);
    }

    private Attention attention(
            Function<Tensor, List<Tensor>> in,
            Linear out,
            Scoring scoring,
            Turning turning,
            @Nullable Rope rope,
            Attention.@Nullable Norms norms) {
        Angles angles = rope == null ? null : turning.by(rope);
        return new Attention(in, out, c.headDim(), scoring, turning.within(scoring.window()), angles, norms);
    }

    private int width() {
        return c.numAttentionHeads() * c.headDim();
    }

    // ---- feed-forward network

    /// A gated network with a layer each for gate and up.
    FeedForward feedForward() {
        int inner = c.intermediateSize();
        return feedForward(List.of(
                parts.linear("mlp.gate_proj", c.hiddenSize(), inner, c.mlpBias()),
                parts.linear("mlp.up_proj", c.hiddenSize(), inner, c.mlpBias())));
    }

    /// A gated network with one layer for gate and up.
    FeedForward fusedFeedForward() {
        int both = HfConfig.product("intermediate_size", c.intermediateSize(), "two, for gate and up,", 2);
        return feedForward(List.of(parts.linear("mlp.gate_up_proj", c.hiddenSize(), both, c.mlpBias())));
    }

    private FeedForward feedForward(List<Linear> gateAndUp) {
        Linear down = parts.linear("mlp.down_proj", c.intermediateSize(), c.hiddenSize(), c.mlpBias());
        return new FeedForward(gateAndUp, down, HfConfig.activation(c.hiddenAct()));
    }

    // ---- block

    /// A norm over the hidden size.
    Norm norm(String name) {
        return parts.rmsNorm(name, c.hiddenSize(), c.rmsNormEps());
    }

    /// Llama's block.
    Block block(Attention attention, FeedForward feedForward) {
        return block(attention, feedForward, 1);
    }

    /// As above; what each sublayer adds is multiplied by `scale`.
    Block block(Attention attention, FeedForward feedForward, double scale) {
        Norms before = new Norms(norm("input_layernorm"), null);
        Norms between = new Norms(norm("post_attention_layernorm"), null);
        return new ResidualBlock(parts, before, attention, between, feedForward, scale);
    }
}
