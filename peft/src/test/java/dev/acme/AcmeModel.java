package dev.acme;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Weights;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// A causal model as a user of the library could write it: learned positions, and blocks consisting of attention only.
final class AcmeModel extends Model {
    static final Family FAMILY = new Family(
            "acme",
            "Acme",
            List.of("ForCausalLM"),
            "body.",
            ".*\\.mask",
            Map.of("LORA", List.of("read"), "SCALE", List.of("read", "write")),
            (config, weights, labels) -> new AcmeModel(Sizes.read(config), weights));

    record Sizes(int vocabSize, int width, int layers, int heads, int positions) {
        static Sizes read(HfConfig c) {
            c.only("mixing", "\"attention\"");
            return new Sizes(
                    c.integer("vocab_size"),
                    c.integer("width"),
                    c.integer("layers"),
                    c.integer("heads", 2),
                    c.integer("positions", 32));
        }
    }

    private final Sizes sizes;
    private final Embedding tokens;
    private final Embedding places;
    private final List<Block> layers = new ArrayList<>();
    private final RmsNorm norm;
    private final Linear head;

    private AcmeModel(Sizes s, Weights w) {
        super(FAMILY);
        sizes = s;
        tokens = child("body.tokens", w.embedding("body.tokens", s.vocabSize, s.width, 0.5));
        places = child("body.places", w.embedding("body.places", s.positions, s.width, 0.5));
        for (int i = 0; i < s.layers; i++) {
            String name = "body.layers." + i;
            layers.add(child(name, new AcmeBlock(s, w.below(name + "."))));
        }
        norm = child("body.norm", w.rmsNorm("body.norm", s.width, 1e-5));
        head = child("lm_head", w.linear("lm_head", s.width, s.vocabSize, false, 0.5));
    }

    static AcmeModel random(Sizes sizes, Backend backend, long seed) {
        return new AcmeModel(sizes, Weights.random(backend, DType.F32, seed));
    }

    private static final class AcmeBlock extends Block {
        private final int headDim;
        private final RmsNorm norm;
        private final Linear read;
        private final Linear write;

        AcmeBlock(Sizes s, Weights w) {
            headDim = s.width / s.heads;
            norm = child("norm", w.rmsNorm("norm", s.width, 1e-5));
            read = child("read", w.linear("read", s.width, 3 * s.width, true, 0.3));
            write = child("write", w.linear("write", s.width, s.width, false, 0.3));
        }

        @Override
        protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            try (Scope scope = Scope.open()) {
                Tensor a = norm.forward(x);
                Tensor all = read.forward(a);
                int width = x.shape().dim(2);
                Tensor q = heads(all.slice(2, 0, width), headDim);
                Tensor k = heads(all.slice(2, width, 2 * width), headDim);
                Tensor v = heads(all.slice(2, 2 * width, 3 * width), headDim);
                Tensor attended = write.forward(attend(q, k, v, mask, prefix, true));
                return scope.keep(x.add(adaptAttention(attended, a)));
            }
        }
    }

    @Override
    public Facts facts() {
        int headDim = sizes.width / sizes.heads;
        return new Facts(
                "acme",
                sizes.width,
                sizes.layers,
                sizes.heads,
                sizes.heads,
                headDim,
                tokens.weight().shape().dim(0),
                sizes.positions);
    }

    @Override
    public List<Block> blocks() {
        return layers;
    }

    @Override
    public Embedding tokenEmbedding() {
        return tokens;
    }

    @Override
    protected Tensor embed(Tensor words, int from) {
        return words.add(places.forward(positions(words, from)));
    }

    @Override
    protected Tensor finish(Tensor x) {
        return norm.forward(x);
    }

    @Override
    protected @Nullable Linear head() {
        return head;
    }

    @Override
    public ObjectNode sizes() {
        return JsonNodeFactory.instance
                .objectNode()
                .put("vocab_size", facts().vocabSize())
                .put("width", sizes.width)
                .put("layers", sizes.layers)
                .put("heads", sizes.heads)
                .put("positions", sizes.positions);
    }
}
