package dev.loran.peft.model;

import dev.loran.engine.Backend;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import java.util.List;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A transformer with its head.
///
/// Token ids and masks are I32 (B, T); a mask of null shows every token. Virtual tokens (P of them, when set) stand
/// before
/// the embedded text: hidden states and a causal model's logits then have P + T positions. A prefix of P keys and
/// values
/// moves the text to positions P, P + 1, …
public abstract class Model extends Layer {
    private @Nullable Supplier<Tensor> virtualTokens;
    private boolean gradientCheckpointing;

    /// The sizes that tuners need.
    ///
    /// @param modelType Hugging Face's `model_type`: llama, gpt2, bert, or seo
    /// @param maxPositions the longest sequence, virtual tokens included
    public record Facts(
            String modelType,
            int hiddenSize,
            int numLayers,
            int numHeads,
            int numKvHeads,
            int headDim,
            int vocabSize,
            int maxPositions) {}

    public abstract Facts facts();

    public abstract TaskType task();

    public abstract Backend backend();

    /// The blocks from the first to the last.
    public abstract List<Block> blocks();

    /// The table of token embeddings.
    public abstract Embedding tokenEmbedding();

    /// Hidden states after the last norm, (B, P + T, C).
    public abstract Tensor hidden(Tensor inputIds, @Nullable Tensor attentionMask);

    /// The head's answer; its shape is said in [TaskType].
    public abstract Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask);

    /// Mean cross-entropy, a scalar. Labels are (B) for [TaskType#SEQ_CLS]; (B, T) for [TaskType#CAUSAL_LM], aligned
    /// with
    /// the ids (the logits at t − 1 are compared with the label at t), −100 where no loss is due.
    public abstract Tensor loss(Tensor inputIds, @Nullable Tensor attentionMask, Tensor labels);

    /// Makes the (P, C) embeddings of the virtual tokens anew at each forward; null when there are none.
    public final @Nullable Supplier<Tensor> virtualTokens() {
        return virtualTokens;
    }

    public final void virtualTokens(@Nullable Supplier<Tensor> next) {
        virtualTokens = next;
    }

    /// Whether each block keeps only its input and runs again in backward.
    public final boolean gradientCheckpointing() {
        return gradientCheckpointing;
    }

    public final void gradientCheckpointing(boolean value) {
        gradientCheckpointing = value;
    }
}
