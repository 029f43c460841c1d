package dev.loran.peft.model.encoder;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Angles;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Positions;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.encoder.RelativeAttention.Window;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// ModernBERT: pre-norm blocks with rotary positions and gated feed-forward networks, in which most blocks see only the
/// tokens near each other and every third sees the whole text. **Paper**: Warner et al., "Smarter, Better, Faster,
/// Longer", 2024.
public final class ModernBertModel extends Encoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "modernbert",
            "ModernBert",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "model.",
            "decoder\\..*",
            Map.of(
                    "LORA",
                    List.of("Wqkv"),
                    "IA3",
                    List.of("Wqkv", "mlp.Wo"),
                    Family.FEED_FORWARD,
                    List.of("mlp.Wo"),
                    "LN_TUNING",
                    List.of("attn_norm", "mlp_norm", "final_norm")),
            ModernBertModel::read);

    private final Shared shared;
    private final boolean isMean;

    /// What the blocks share, made when it is first used: the tables of angles need the positions of the model.
    private static final class Shared {
        final Window window;
        final Rope global;
        final Rope local;
        final int maxPositions;
        private @Nullable Angles globalAngles;
        private @Nullable Angles localAngles;

        Shared(Window window, Rope global, Rope local, int maxPositions) {
            this.window = window;
            this.global = global;
            this.local = local;
            this.maxPositions = maxPositions;
        }

        void start(int headDim, Positions positions, Tensor like) {
            globalAngles = new Angles(global, headDim, maxPositions, positions, like);
            localAngles = new Angles(local, headDim, maxPositions, positions, like);
        }

        Tensor turn(Tensor x, boolean isLocal, int from) {
            Angles angles = isLocal ? localAngles : globalAngles;
            if (angles == null) {
                throw new IllegalStateException("the model is not complete");
            }
            return angles.turn(x, from, null);
        }

        void close() {
            window.close();
            if (globalAngles != null && localAngles != null) {
                globalAngles.close();
                localAngles.close();
            }
        }
    }

    private ModernBertModel(HfConfig c, Sizes sizes, Shared shared, Weights weights, int labels) {
        super(FAMILY, plan(c, sizes, shared, weights), weights, labels);
        this.shared = shared;
        isMean = c.text("classifier_pooling", "cls").equals("mean");
        shared.start(sizes.headDim(), positions(), tokenEmbedding().weight());
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        c.only("classifier_pooling", "\"cls\"", "\"mean\"");
        c.onlyOf("layer_types", "\"full_attention\"", "\"sliding_attention\"");
        Sizes sizes = new Sizes(
                c.integer("vocab_size"),
                c.integer("hidden_size"),
                c.integer("num_hidden_layers"),
                c.integer("num_attention_heads"),
                c.integer("intermediate_size"),
                c.integer("max_position_embeddings", 8192),
                c.activationName("hidden_activation", "gelu"),
                c.number("norm_eps", 1e-5),
                c.number("initializer_range", 0.02));
        c.only("head_dim", String.valueOf(sizes.headDim()));
        if (sizes.headDim() % 2 != 0) {
            throw new IllegalArgumentException("the width of a head is " + sizes.headDim() + ", must be even");
        }
        int window = c.integer("local_attention", 128);
        HfConfig.positive("local_attention", window);
        Shared shared = new Shared(
                new Window(window / 2),
                rope(c, "full_attention", "global_rope_theta", 160_000),
                rope(c, "sliding_attention", "local_rope_theta", 10_000),
                sizes.positions());
        return new ModernBertModel(c, sizes, shared, weights, labels);
    }

    /// The rotation of one kind of layer, in the format of transformers 5 or that of earlier versions.
    private static Rope rope(HfConfig c, String kind, String key, double usual) {
        c.only("rope_scaling");
        if (c.json().path(key).isNull()) {
            throw new InputException(c.where() + ": " + key + " = null is read differently by versions of transformers;"
                    + " give the number");
        }
        double theta = c.number(key, usual);
        HfConfig now = c.child("rope_parameters");
        HfConfig own = now == null ? null : now.child(kind);
        if (own == null) {
            return new Rope.Default(theta);
        }
        own.only("rope_type", "\"default\"");
        own.only("partial_rotary_factor", "1.0", "1");
        return new Rope.Default(own.number("rope_theta", theta));
    }

    /// Whether the blocks see only what is near.
    private static List<Boolean> locality(HfConfig c, int layers) {
        List<Boolean> all = new ArrayList<>();
        JsonNode kinds = c.value("layer_types");
        int every = c.integer("global_attn_every_n_layers", 3);
        HfConfig.positive("global_attn_every_n_layers", every);
        if (kinds != null && kinds.size() != layers) {
            throw new IllegalArgumentException(
                    "layer_types lists " + kinds.size() + " layers, num_hidden_layers is " + layers);
        }
        for (int i = 0; i < layers; i++) {
            all.add(kinds == null ? i % every != 0 : kinds.path(i).asText().equals("sliding_attention"));
        }
        return all;
    }

    /// Which layers have biases.
    private record Biases(boolean attention, boolean network, boolean norm) {}

    private static Plan plan(HfConfig c, Sizes s, Shared shared, Weights weights) {
        Biases biases =
                new Biases(c.flag("attention_bias", false), c.flag("mlp_bias", false), c.flag("norm_bias", false));
        List<Boolean> locality = locality(c, s.layers());
        Form form = new Form(
                "head.dense",
                c.flag("classifier_bias", false),
                HfConfig.activation(c.activationName("classifier_activation", "gelu")),
                parts -> parts.layerNorm("head.norm", s.hidden(), s.eps(), biases.norm),
                "classifier",
                false,
                true);
        return new Plan(
                c,
                s.facts(FAMILY, s.positions()),
                s.std(),
                parts -> input(s, biases, parts),
                "layers",
                (below, input, index) -> new ModernBlock(s, biases, shared, locality.get(index), index, below),
                parts -> parts.layerNorm("final_norm", s.hidden(), s.eps(), biases.norm),
                form,
                weights.has("head.dense.weight"));
    }

    private static Input input(Sizes s, Biases biases, Parts p) {
        Embedding words = p.embedding("embeddings.tok_embeddings", s.vocab(), s.hidden());
        Norm norm = p.layerNorm("embeddings.norm", s.hidden(), s.eps(), biases.norm);
        return new Input(words, null, null, norm, null, -1, null);
    }

    /// x + attention(norm(x)), without that norm in the first block, then the same with the feed-forward network.
    private static final class ModernBlock extends Block {
        private final Shared shared;
        private final boolean isLocal;
        private final int headDim;
        private final @Nullable Norm attentionNorm;
        private final Linear qkv;
        private final Linear out;
        private final Norm networkNorm;
        private final Linear gateAndUp;
        private final Linear down;
        private final UnaryFn activation;

        ModernBlock(Sizes s, Biases biases, Shared shared, boolean isLocal, int index, Weights weights) {
            this.shared = shared;
            this.isLocal = isLocal;
            this.headDim = s.headDim();
            Parts p = new Parts(weights, s.std());
            int hidden = s.hidden();
            double residualStd = s.std() / Math.sqrt(2.0 * s.layers());
            attentionNorm = index == 0 ? null : p.layerNorm("attn_norm", hidden, s.eps(), biases.norm);
            qkv = p.linear("attn.Wqkv", hidden, HfConfig.product("3", 3, "hidden_size", hidden), biases.attention);
            out = p.linear("attn.Wo", hidden, hidden, biases.attention, residualStd);
            networkNorm = p.layerNorm("mlp_norm", hidden, s.eps(), biases.norm);
            int both = HfConfig.product("2", 2, "intermediate_size", s.inner());
            gateAndUp = p.linear("mlp.Wi", hidden, both, biases.network);
            down = p.linear("mlp.Wo", s.inner(), hidden, biases.network, residualStd);
            activation = HfConfig.activation(s.activation());
            p.layers().forEach(this::child);
        }

        @Override
        protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            try (Scope scope = Scope.open()) {
                Tensor a = attentionNorm == null ? x : attentionNorm.forward(x);
                Tensor h = x.add(adaptAttention(out.forward(attention(a, mask, prefix)), a));
                Tensor m = networkNorm.forward(h);
                return scope.keep(h.add(adaptFeedForward(network(m), m)));
            }
        }

        private Tensor network(Tensor x) {
            Tensor both = gateAndUp.forward(x);
            int inner = down.inFeatures();
            Tensor gate = both.slice(2, 0, inner);
            return down.forward(Functional.gated(activation, gate, both.slice(2, inner, 2 * inner)));
        }

        /// The heads' outputs side by side, (B, T, C).
        private Tensor attention(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            Tensor all = qkv.forward(x);
            int width = out.inFeatures();
            int t = x.shape().dim(1);
            int from = prefix == null ? 0 : prefix.length();
            Tensor q = shared.turn(heads(all.slice(2, 0, width), headDim), isLocal, from);
            Tensor k = shared.turn(heads(all.slice(2, width, 2 * width), headDim), isLocal, from);
            Tensor v = heads(all.slice(2, 2 * width, 3 * width), headDim);
            if (!isLocal || shared.window.seesAll(t)) {
                return attend(q, k, v, mask, prefix, false);
            }
            observe(k, v);
            Tensor scaled = RelativeAttention.headsFirst(q).scale(1 / Math.sqrt(headDim));
            Tensor keys = RelativeAttention.headsFirst(k);
            return shared.window
                    .attend(scaled, keys, RelativeAttention.headsFirst(v), mask, prefix)
                    .permute(1, 2, 0, 3)
                    .reshape(x.shape().dim(0), t, width);
        }
    }

    @Override
    Tensor select(Tensor hidden, @Nullable Tensor attentionMask) {
        return isMean ? mean(hidden, attentionMask) : super.select(hidden, attentionMask);
    }

    @Override
    public void close() {
        super.close();
        shared.close();
    }
}
