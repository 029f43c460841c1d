package dev.loran.peft.model.decoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
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
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// The common part of causal models: a token table, learned positions if any, blocks, a final norm, and a head for the
/// next token or for classes. A family supplies its sizes, names and blocks as a [Plan].
class Decoder extends Model {
    private final Plan plan;
    private final ObjectNode sizes;
    private final Embedding tokens;
    private final @Nullable Embedding learned;
    private final Map<Rope, Angles> angles = new HashMap<>();
    private final List<Block> blocks = new ArrayList<>();
    private final Norm norm;
    private final @Nullable Linear lmHead;
    private boolean hasWindows;

    /// The components of a family's decoder.
    ///
    /// @param facts its sizes before any tokens are added
    /// @param std standard deviation of random weights
    /// @param isTied whether the head shares the token table
    /// @param norm creates the final norm
    /// @param block creates one block
    record Plan(
            Facts facts,
            double std,
            Names names,
            boolean isTied,
            Scales scales,
            Function<Parts, Norm> norm,
            BlockMaker block) {}

    /// The names of a decoder's modules.
    ///
    /// @param positions the table of learned positions; null for none
    /// @param blocks the list of blocks
    record Names(String tokens, @Nullable String positions, String blocks, String head) {
        Names(String tokens, @Nullable String positions, String blocks) {
            this(tokens, positions, blocks, HEAD);
        }
    }

    /// Factors and bounds around the blocks.
    ///
    /// @param tokens factor of the embeddings of tokens
    /// @param words factor of all embeddings, those of virtual tokens among them
    /// @param logits factor of the logits
    /// @param logitCap bound of the logits ([Model#logitCap]); 0 for none
    record Scales(double tokens, double words, double logits, double logitCap) {
        static final Scales NONE = new Scales(1, 1, 1, 0);
    }

    /// Creates block `layer` from the weights below its name.
    interface BlockMaker {
        Block make(Weights weights, int layer, Turning turning);
    }

    /// What the blocks of a model share.
    interface Turning {
        /// The angles by which `rope` rotates queries and keys.
        Angles by(Rope rope);

        /// The positions of the tokens, for attention that sees the last `window` only.
        @Nullable
        Positions within(int window);
    }

    /// The model's head.
    ///
    /// @param isBare whether there is no head at all; module names then have no prefix
    /// @param labels number of classes of a classification head, which replaces the other head; 0 for none
    record Top(boolean isBare, int labels) {
        /// A head for the next token.
        static final Top TOKENS = new Top(false, 0);
    }

    /// The decoder that a folder's config and files describe.
    static Decoder of(Family family, Plan plan, HfConfig config, Weights weights, int labels) {
        boolean isBare = family.isBare(config, weights, plan.names.head + ".weight", plan.isTied);
        return new Decoder(family, plan, new Top(isBare, labels), weights, config.json());
    }

    /// @param sizes what the config holds
    Decoder(Family family, Plan plan, Top top, Weights all, ObjectNode sizes) {
        super(family);
        this.plan = plan;
        this.sizes = sizes;
        Names names = plan.names;
        String prefix = top.isBare ? "" : family.prefix();
        Weights w = all.below(prefix);
        int hidden = plan.facts.hiddenSize();
        tokens = child(prefix + names.tokens, w.embedding(names.tokens, plan.facts.vocabSize(), hidden, plan.std));
        learned = names.positions == null
                ? null
                : child(
                        prefix + names.positions,
                        w.embedding(names.positions, plan.facts.maxPositions(), hidden, plan.std));
        Turning turning = turning();
        for (int i = 0; i < plan.facts.numLayers(); i++) {
            String name = names.blocks + "." + i;
            blocks.add(child(prefix + name, plan.block.make(w.below(name + "."), i, turning)));
        }
        Parts last = new Parts(w, plan.std);
        norm = plan.norm.apply(last);
        last.layers().forEach((name, layer) -> child(prefix + name, layer));
        lmHead = top.isBare || top.labels > 0
                ? null
                : child(
                        names.head,
                        plan.isTied
                                ? new Linear(tokens.weight(), null, false)
                                : all.linear(names.head, hidden, plan.facts.vocabSize(), false, plan.std));
        if (top.labels > 0) {
            classifier(all.linear(classifierName(), hidden, top.labels, false, plan.std));
        }
    }

    private Turning turning() {
        return new Turning() {
            @Override
            public Angles by(Rope rope) {
                return angles.computeIfAbsent(
                        rope,
                        r -> new Angles(
                                r, plan.facts.headDim(), plan.facts.maxPositions(), positions(), tokens.weight()));
            }

            @Override
            public @Nullable Positions within(int window) {
                hasWindows |= window > 0;
                return window > 0 ? positions() : null;
            }
        };
    }

    @Override
    public final Facts facts() {
        return plan.facts.withVocabSize(tokens.weight().shape().dim(0));
    }

    @Override
    public final List<Block> blocks() {
        return Collections.unmodifiableList(blocks);
    }

    @Override
    public final Embedding tokenEmbedding() {
        return tokens;
    }

    @Override
    protected final Tensor embedded(Tensor inputIds) {
        return scaled(super.embedded(inputIds), plan.scales.tokens);
    }

    @Override
    protected final Tensor embed(Tensor words, int from) {
        return embed(words, words, null, from);
    }

    @Override
    protected final Tensor embed(Tensor words, Tensor inputIds, @Nullable Tensor mask, int from) {
        Tensor scaled = scaled(words, plan.scales.words);
        if (learned == null) {
            return scaled;
        }
        Tensor at = Positions.inTexts(mask, words.shape().dim(1), from);
        return scaled.add(learned.forward(at == null ? positions(words, from) : at));
    }

    @Override
    protected final boolean packs() {
        return classifier() == null;
    }

    private static Tensor scaled(Tensor x, double factor) {
        return factor == 1 ? x : x.scale(factor);
    }

    @Override
    protected final Tensor finish(Tensor x) {
        return norm.forward(x);
    }

    @Override
    protected final @Nullable Linear head() {
        return lmHead;
    }

    @Override
    public final String headName() {
        return plan.names.head;
    }

    @Override
    protected final double logitScale() {
        return plan.scales.logits;
    }

    @Override
    protected final double logitCap() {
        return plan.scales.logitCap;
    }

    @Override
    protected final boolean hasWindows() {
        return hasWindows;
    }

    @Override
    protected final boolean turnsDiffer(int length, int next) {
        return angles.keySet().stream().anyMatch(rope -> rope.kind(length) != rope.kind(next));
    }

    /// What the config holds, with the sizes that may have changed: the number of tokens, and whether the head is tied
    /// to the table.
    @Override
    public final ObjectNode sizes() {
        String tie = "tie_word_embeddings";
        ObjectNode now = sizes.deepCopy().put("vocab_size", facts().vocabSize());
        boolean isTied = lmHead != null && lmHead.weight() == tokens.weight();
        return lmHead != null && (!isTied || now.has(tie)) ? now.put(tie, isTied) : now;
    }

    @Override
    public void close() {
        super.close();
        angles.values().forEach(Angles::close);
    }
}
