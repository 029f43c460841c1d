package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.decoder.Decoder.Plan;
import org.jspecify.annotations.Nullable;

/// Gemma 3, the text model: like Gemma 2, but with norms of queries and keys instead of the soft cap on scores, five of
/// six layers with a sliding window, and other rotary frequencies in these. **Paper**: Gemma Team, "Gemma 3 Technical
/// Report", 2025, section 2.
public final class Gemma3Model {
    /// The family's metadata.
    public static final Family FAMILY =
            LlamaParts.family("gemma3_text", "Gemma3", GemmaParts.TARGETS, Gemma3Model::plan);

    private Gemma3Model() {}

    private static Plan plan(HfConfig config) {
        config.only("attn_logit_softcapping");
        GemmaParts.Sizes sizes = GemmaParts.read(config.or("rope_theta", 1_000_000), 131_072);
        int pattern = config.integer("sliding_window_pattern", 6);
        HfConfig.positive("sliding_window_pattern", pattern);
        int layers = sizes.llama().numHiddenLayers();
        int[] windows = LlamaParts.windows(config, layers, sizes.window(), layer -> (layer + 1) % pattern != 0);
        HfConfig both = config.child("rope_parameters");
        Rope near = rope(
                config, both, "sliding_attention", new Rope.Default(config.number("rope_local_base_freq", 10_000)));
        Rope far = rope(config, both, "full_attention", sizes.llama().rope());
        double logitCap = config.number("final_logit_softcapping", 0);
        return GemmaParts.plan("gemma3_text", sizes, logitCap, (weights, layer, turning) -> {
            GemmaParts p = new GemmaParts(sizes, weights);
            Scoring scoring = new Scoring(true, windows[layer], sizes.scale(), 0);
            return p.block(scoring, turning, windows[layer] > 0 ? near : far, p.headNorms());
        });
    }

    private static Rope rope(HfConfig config, @Nullable HfConfig both, String type, Rope otherwise) {
        HfConfig own = both == null ? null : both.child(type);
        return own == null ? otherwise : Rope.read(config, own);
    }
}
