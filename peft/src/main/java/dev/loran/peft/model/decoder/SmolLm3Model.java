package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import java.util.List;
import java.util.Map;

/// SmolLM 3: like Llama, but only some layers rotate queries and keys, by default three of four; the others know no
/// positions. **Source**: Bakouche et al., "SmolLM3", 2025; layers without positions: Yang et al., "Rope to Nope and
/// Back Again", 2025.
public final class SmolLm3Model {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("smollm3", "SmolLM3", Map.of(), SmolLm3Model::plan);

    private SmolLm3Model() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c = LlamaModel.Config.read(config.or("rope_theta", 2_000_000)
                .or("num_key_value_heads", 4)
                .or("max_position_embeddings", 32_768)
                .or("tie_word_embeddings", true));
        int layers = c.numHiddenLayers();
        boolean[] turns = turns(config, layers);
        int window = config.flag("use_sliding_window", false) ? config.integer("sliding_window", 0) : 0;
        int[] windows = LlamaParts.windows(config, layers, window, layer -> !turns[layer]);
        boolean bias = c.attentionBias();
        return LlamaParts.plan("smollm3", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            Rope rope = turns[layer] ? c.rope() : null;
            return p.block(p.attention(bias, bias, p.scoring(windows[layer]), turning, rope, null), p.feedForward());
        });
    }

    /// Whether each layer rotates: `no_rope_layers`, in which, despite its name, 1 means yes.
    private static boolean[] turns(HfConfig config, int layers) {
        config.onlyOf("no_rope_layers", "0", "1");
        List<String> given = config.texts("no_rope_layers");
        if (!given.isEmpty() && given.size() != layers) {
            throw new IllegalArgumentException(
                    "no_rope_layers has " + given.size() + " entries, must have one for each of " + layers + " layers");
        }
        int interval = config.integer("no_rope_layer_interval", 4);
        HfConfig.positive("no_rope_layer_interval", interval);
        boolean[] turns = new boolean[layers];
        for (int i = 0; i < layers; i++) {
            turns[i] = given.isEmpty() ? (i + 1) % interval != 0 : given.get(i).equals("1");
        }
        return turns;
    }
}
