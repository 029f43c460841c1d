package dev.loran.peft.model.decoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.model.HfConfig;

/// The sizes of a [SeoTransformer].
///
/// @param maxPositions the longest sequence; 512 by default
/// @param gradientCheckpointing whether blocks are recomputed in the backward pass instead of keeping their
///     intermediate results; see [dev.loran.peft.model.Model#gradientCheckpointing(boolean)]
public record TransformerConfig(
        int hiddenSize, int numLayers, int numHeads, int vocabSize, int maxPositions, boolean gradientCheckpointing) {
    public TransformerConfig {
        HfConfig.divides("num_heads", numHeads, "hidden_size", hiddenSize);
        HfConfig.positive("hidden_size", hiddenSize);
        HfConfig.positive("num_layers", numLayers);
        HfConfig.positive("vocab_size", vocabSize);
        HfConfig.positive("max_positions", maxPositions);
        HfConfig.product("hidden_size", hiddenSize, "the network's", 4);
    }

    /// The sizes with 512 positions and without gradient checkpointing.
    public TransformerConfig(int hiddenSize, int numLayers, int numHeads, int vocabSize) {
        this(hiddenSize, numLayers, numHeads, vocabSize, 512, false);
    }

    public TransformerConfig withMaxPositions(int value) {
        return new TransformerConfig(hiddenSize, numLayers, numHeads, vocabSize, value, gradientCheckpointing);
    }

    public TransformerConfig withGradientCheckpointing(boolean value) {
        return new TransformerConfig(hiddenSize, numLayers, numHeads, vocabSize, maxPositions, value);
    }

    TransformerConfig withVocabSize(int rows) {
        return new TransformerConfig(hiddenSize, numLayers, numHeads, rows, maxPositions, gradientCheckpointing);
    }

    static TransformerConfig read(HfConfig c) {
        return new TransformerConfig(
                c.integer("hidden_size"),
                c.integer("num_layers"),
                c.integer("num_heads"),
                c.integer("vocab_size"),
                c.integer("max_positions", 512),
                c.flag("gradient_checkpointing", false));
    }

    ObjectNode json() {
        return HfConfig.object()
                .put("hidden_size", hiddenSize)
                .put("num_layers", numLayers)
                .put("num_heads", numHeads)
                .put("vocab_size", vocabSize)
                .put("max_positions", maxPositions)
                .put("gradient_checkpointing", gradientCheckpointing);
    }
}
