package dev.loran.peft.model.encoder;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.encoder.RelativeAttention.Buckets;
import java.util.List;
import java.util.Map;

/// MPNet: RoBERTa's positions, and in all blocks the same bias of each head for the distance of two tokens. **Paper**:
/// Song et al., "MPNet", 2020; the distances: Raffel et al., "T5", 2020, section 2.1.
public final class MpNetModel extends Encoder {
    private static final int BUCKETS = 32;
    private static final int FARTHEST = 128;
    /// Fixed in the reference implementation, whatever the config says.
    private static final int PADDING = 1;

    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "mpnet",
            "MPNet",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "mpnet.",
            "(mpnet\\.)?(embeddings\\.position_ids|pooler\\.dense\\..*)|lm_head\\.(dense|layer_norm|decoder|bias).*",
            Map.of(
                    "LORA",
                    List.of("q", "v"),
                    "IA3",
                    List.of("k", "v", "output.dense"),
                    Family.FEED_FORWARD,
                    List.of("output.dense"),
                    "LN_TUNING",
                    List.of("LayerNorm"),
                    "BOTTLENECK",
                    List.of("attention", "output")),
            MpNetModel::read);

    private final Buckets buckets;

    private MpNetModel(HfConfig config, Sizes sizes, Buckets buckets, Weights weights, int labels) {
        super(FAMILY, plan(config, sizes, buckets), weights, labels);
        this.buckets = buckets;
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        c.only("relative_attention_num_buckets", String.valueOf(BUCKETS));
        Sizes sizes = Sizes.read(c);
        Buckets buckets = new Buckets(sizes.positions(), MpNetModel::bucket);
        return new MpNetModel(c, sizes, buckets, weights, labels);
    }

    private static Plan plan(HfConfig c, Sizes sizes, Buckets buckets) {
        return new Plan(
                c,
                sizes.facts(FAMILY, sizes.positions() - PADDING - 1),
                sizes.std(),
                parts -> input(sizes, parts),
                "encoder.layer",
                (weights, input, index) -> block(sizes, new Distances(input, buckets), weights),
                null,
                Form.of("classifier.dense", UnaryFn.TANH, "classifier.out_proj"),
                false);
    }

    private static Input input(Sizes s, Parts p) {
        Input t = s.input(p, 0, PADDING);
        Embedding bias = p.embedding("encoder.relative_attention_bias", BUCKETS, s.heads());
        return new Input(t.words(), t.positions(), null, t.norm(), null, PADDING, new DistanceTable(bias, null));
    }

    private static Block block(Sizes s, Distances distances, Weights weights) {
        Parts p = new Parts(weights, s.std());
        int hidden = s.hidden();
        List<Linear> qkv = List.of(
                p.linear("attention.attn.q", hidden, hidden, true),
                p.linear("attention.attn.k", hidden, hidden, true),
                p.linear("attention.attn.v", hidden, hidden, true));
        Linear out = p.linear("attention.attn.o", hidden, hidden, true);
        Norm norm = p.layerNorm("attention.LayerNorm", hidden, s.eps());
        double scale = 1 / Math.sqrt(s.headDim());
        RelativeAttention attention = new RelativeAttention(qkv, out, s.headDim(), scale, (q, k) -> distances.bias(q));
        return s.block(p, attention::forward, norm);
    }

    /// The biases of the heads.
    private record Distances(Input input, Buckets buckets) {
        /// (H, 1, T, T) for queries (H, B, T, D).
        Tensor bias(Tensor queries) {
            Shape s = queries.shape();
            int t = s.dim(2);
            Tensor ofDistance = input.table().rows().forward(buckets.of(queries.backend(), t));
            Tensor rows = Tensor.zeros(queries.backend(), queries.dtype(), s.dim(0), t, 2 * t - 1)
                    .add(ofDistance.transpose(0, 1).reshape(s.dim(0), 1, 2 * t - 1));
            return RelativeAttention.byPlace(rows).reshape(s.dim(0), 1, t, t);
        }
    }

    /// T5's buckets for both directions: short distances have one each, longer ones share them logarithmically. In F32,
    /// as in the reference implementation.
    static int bucket(int distance) {
        int half = BUCKETS / 2;
        int exact = half / 2;
        int n = Math.abs(distance);
        int later = distance > 0 ? half : 0;
        if (n < exact) {
            return later + n;
        }
        float share = (float) Math.log((float) n / exact) / (float) Math.log((double) FARTHEST / exact);
        return later + Math.min(half - 1, exact + (int) (share * (half - exact)));
    }

    @Override
    public void close() {
        super.close();
        buckets.close();
    }
}
