package dev.loran.peft.model.encoder;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Block.Prefix;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.encoder.RelativeAttention.Buckets;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/// DeBERTa v3: blocks like BERT's with disentangled attention. Tokens have no absolute positions; the score of two
/// tokens is the sum of content to content, content to position and position to content, with one table of distances
/// for all blocks. **Papers**: He et al., "DeBERTa", 2021, equations 3 and 4; He et al., "DeBERTaV3", 2023.
public final class DebertaModel extends Encoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "deberta-v2",
            "DebertaV2",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "deberta.",
            "(deberta\\.)?embeddings\\.position_ids|(cls|lm_predictions|mask_predictions)\\..*",
            Map.of(
                    "LORA",
                    List.of("query_proj", "value_proj"),
                    "ADALORA",
                    List.of("query_proj", "key_proj", "value_proj", "dense"),
                    "IA3",
                    List.of("key_proj", "value_proj", "output.dense"),
                    Family.FEED_FORWARD,
                    List.of("output.dense"),
                    "LN_TUNING",
                    List.of("LayerNorm"),
                    "BOTTLENECK",
                    List.of("attention.output", "output")),
            DebertaModel::read);

    private final Distances distances;

    /// The distances of tokens.
    ///
    /// @param span half the rows of the table
    /// @param ascending the table's row for the distance of key and query, which ascends with the key's position
    /// @param descending the same in the opposite order
    /// @param terms the parts of the score that depend on positions: `c2p`, `p2c`
    private record Distances(int span, Buckets ascending, Buckets descending, Set<String> terms) {
        /// @param buckets number of rows for each direction
        /// @param farthest the distance that has the last row
        static Distances of(int buckets, int farthest, int positions, Set<String> terms) {
            return new Distances(
                    buckets,
                    new Buckets(positions, d -> row(d, buckets, farthest)),
                    new Buckets(positions, d -> row(-d, buckets, farthest)),
                    terms);
        }

        private static int row(int distance, int buckets, int farthest) {
            return Math.clamp(buckets + bucket(distance, buckets, farthest), 0, 2 * buckets - 1);
        }
    }

    private DebertaModel(HfConfig config, Sizes sizes, Distances distances, Weights weights, int labels) {
        super(FAMILY, plan(config, sizes, distances, weights), weights, labels);
        this.distances = distances;
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        c.only("relative_attention", "true");
        c.only("share_att_key", "true");
        c.only("position_biased_input", "false");
        c.only("type_vocab_size", "0");
        c.only("norm_rel_ebd", "\"layer_norm\"");
        c.only("conv_kernel_size", "0");
        for (String needed : List.of("relative_attention", "share_att_key", "position_biased_input", "norm_rel_ebd")) {
            if (!c.has(needed)) {
                throw new InputException(c.where() + ": " + needed + " is missing, and its default is not supported");
            }
        }
        Sizes sizes = Sizes.read(c.orNumber("layer_norm_eps", 1e-7));
        c.only("embedding_size", String.valueOf(sizes.hidden()));
        c.only("pooler_hidden_size", String.valueOf(sizes.hidden()));
        c.only("attention_head_size", String.valueOf(sizes.headDim()));
        int buckets = c.integer("position_buckets");
        HfConfig.positive("position_buckets", buckets);
        int given = c.integer("max_relative_positions", -1);
        int farthest = given < 1 ? sizes.positions() : given;
        if (farthest - 1 <= buckets / 2) {
            throw new IllegalArgumentException(
                    "position_buckets is " + buckets + ", too large for " + farthest + " relative positions");
        }
        Distances distances = Distances.of(buckets, farthest, sizes.positions(), terms(c));
        return new DebertaModel(c, sizes, distances, weights, labels);
    }

    /// `pos_att_type`: a list, or its elements separated by bars.
    private static Set<String> terms(HfConfig c) {
        JsonNode value = c.value("pos_att_type");
        Set<String> terms = new TreeSet<>();
        if (value != null && value.isArray()) {
            value.forEach(v -> terms.add(v.asText()));
        } else if (value != null) {
            Arrays.stream(value.asText().toLowerCase(Locale.ROOT).split("\\|"))
                    .map(String::strip)
                    .forEach(terms::add);
        }
        if (value == null || terms.isEmpty() || !Set.of("c2p", "p2c").containsAll(terms)) {
            throw new InputException(c.where() + ": pos_att_type = " + value
                    + " changes what the model computes and is not supported (supported: c2p, p2c)");
        }
        return terms;
    }

    private static Plan plan(HfConfig c, Sizes sizes, Distances distances, Weights weights) {
        String pooler = "pooler.dense";
        return new Plan(
                c,
                sizes.facts(FAMILY, sizes.positions()),
                sizes.std(),
                parts -> input(sizes, distances, parts),
                "encoder.layer",
                (below, input, index) -> block(sizes, input, distances, below),
                null,
                Form.of(pooler, HfConfig.activation(c.activationName("pooler_hidden_act", "gelu")), "classifier"),
                weights.has(pooler + ".weight"));
    }

    private static Input input(Sizes s, Distances distances, Parts p) {
        Embedding words = p.embedding("embeddings.word_embeddings", s.vocab(), s.hidden());
        Norm norm = p.layerNorm("embeddings.LayerNorm", s.hidden(), s.eps());
        Embedding table = p.embedding("encoder.rel_embeddings", 2 * distances.span, s.hidden());
        Norm tableNorm = p.layerNorm("encoder.LayerNorm", s.hidden(), s.eps());
        return new Input(words, null, null, norm, null, -1, new DistanceTable(table, tableNorm));
    }

    private static Block block(Sizes s, Input input, Distances distances, Weights weights) {
        Parts p = new Parts(weights, s.std());
        int hidden = s.hidden();
        Linear query = p.linear("attention.self.query_proj", hidden, hidden, true);
        Linear key = p.linear("attention.self.key_proj", hidden, hidden, true);
        Linear value = p.linear("attention.self.value_proj", hidden, hidden, true);
        Linear out = p.linear("attention.output.dense", hidden, hidden, true);
        Disentangled attention = new Disentangled(List.of(query, key, value), out, s.headDim(), input, distances);
        return s.block(p, attention::forward, p.layerNorm("attention.output.LayerNorm", hidden, s.eps()));
    }

    /// Attention whose scores have parts that depend on positions. The same layers project contents and the table of
    /// distances, in one pass over both.
    private record Disentangled(List<Linear> in, Linear out, int headDim, Input input, Distances distances) {
        Tensor forward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            Shape s = x.shape();
            int tokens = s.dim(0) * s.dim(1);
            Tensor table = input.table().all();
            Tensor rows = Functional.concat(List.of(x.reshape(tokens, s.dim(2)), table), 0);
            List<Tensor> qkv = Linear.forward(rows, in);
            List<Tensor> contents = qkv.stream()
                    .map(y -> y.slice(0, 0, tokens).reshape(s.dim(0), s.dim(1), -1, headDim))
                    .toList();
            block.observe(contents.get(1), contents.get(2));
            double scale = 1 / Math.sqrt((1 + distances.terms.size()) * (double) headDim);
            Tensor q = RelativeAttention.headsFirst(contents.get(0)).scale(scale);
            Tensor k = RelativeAttention.headsFirst(contents.get(1));
            Tensor v = RelativeAttention.headsFirst(contents.get(2));
            int end = rows.shape().dim(0);
            Tensor bias = bias(
                    q,
                    k.scale(scale),
                    qkv.get(0).slice(0, tokens, end),
                    qkv.get(1).slice(0, tokens, end));
            Tensor attended = RelativeAttention.attend(q, k, v, bias, mask, prefix);
            return out.forward(attended.permute(1, 2, 0, 3).reshape(s.dims()));
        }

        /// (H, B, T, T) from scaled queries and keys (H, B, T, D) and the projected rows of the table.
        private Tensor bias(Tensor queries, Tensor keys, Tensor tableQueries, Tensor tableKeys) {
            Tensor sum = null;
            if (distances.terms.contains("c2p")) {
                sum = ofDistance(queries, tableKeys, distances.descending);
            }
            if (distances.terms.contains("p2c")) {
                Tensor term =
                        ofDistance(keys, tableQueries, distances.ascending).transpose(2, 3);
                sum = sum == null ? term : sum.add(term);
            }
            return Objects.requireNonNull(sum);
        }

        /// The products of x (H, B, T, D) with the rows of `table` (rows, C) for the distances to all positions: (H, B,
        /// T, T).
        private static Tensor ofDistance(Tensor x, Tensor table, Buckets rows) {
            Shape s = x.shape();
            int t = s.dim(2);
            Tensor each = Functional.embedding(table, rows.of(x.backend(), t))
                    .reshape(2 * t - 1, s.dim(0), s.dim(3))
                    .permute(1, 0, 2);
            Tensor products = Functional.matmul(x.reshape(s.dim(0), s.dim(1) * t, s.dim(3)), each, false, true);
            return RelativeAttention.byPlace(products.reshape(s.dim(0), s.dim(1), t, 2 * t - 1));
        }
    }

    /// Distances up to half of the buckets as they are, longer ones logarithmically. In F32, as in the reference
    /// implementation.
    static int bucket(int distance, int buckets, int farthest) {
        int middle = buckets / 2;
        int n = Math.abs(distance);
        if (n <= middle) {
            return distance;
        }
        float share = (float) Math.log((float) n / middle) / (float) Math.log((float) (farthest - 1) / middle);
        int bucket = (int) Math.ceil(share * (middle - 1)) + middle;
        return distance < 0 ? -bucket : bucket;
    }

    @Override
    public void close() {
        super.close();
        distances.ascending.close();
        distances.descending.close();
    }
}
