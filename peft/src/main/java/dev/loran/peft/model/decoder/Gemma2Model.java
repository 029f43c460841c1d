package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.decoder.Decoder.Plan;

/// Gemma 2: norms that multiply by 1 + weight before and after each sublayer, token embeddings multiplied by √C, soft
/// caps on attention scores and logits, and alternately layers with a sliding window and without. **Paper**: Gemma
/// Team, "Gemma 2", 2024, section 2.
public final class Gemma2Model {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("gemma2", "Gemma2", GemmaParts.TARGETS, Gemma2Model::plan);

    private Gemma2Model() {}

    private static Plan plan(HfConfig config) {
        GemmaParts.Sizes sizes = GemmaParts.read(config, 8192);
        int layers = sizes.llama().numHiddenLayers();
        int[] windows = LlamaParts.windows(config, layers, sizes.window(), layer -> layer % 2 == 0);
        double scoreCap = config.unlessNull("attn_logit_softcapping", 50.0);
        double logitCap = config.unlessNull("final_logit_softcapping", 30.0);
        Rope rope = sizes.llama().rope();
        return GemmaParts.plan("gemma2", sizes, logitCap, (weights, layer, turning) -> {
            GemmaParts p = new GemmaParts(sizes, weights);
            return p.block(new Scoring(true, windows[layer], sizes.scale(), scoreCap), turning, rope, null);
        });
    }
}
