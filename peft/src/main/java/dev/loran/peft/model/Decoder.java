package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// The common part of causal models: a token table, learned positions if any, blocks, a final norm, and a head for the
/// next token or for classes. A family supplies its sizes, names and block as a [Plan].
abstract class Decoder extends Model {
    private final Plan plan;
    private final Embedding tokens;
    private final @Nullable Embedding learned;
    private final @Nullable Angles angles;
    private final List<Block> blocks = new ArrayList<>();
    private final Norm norm;
    private final @Nullable Linear lmHead;

    /// The components of a family's decoder.
    ///
    /// @param facts its sizes before any tokens are added
    /// @param std standard deviation of random weights
    /// @param tokens name of the token table
    /// @param positions name of the table of learned positions; null for none
    /// @param blocks name of the list of blocks
    /// @param norm creates the final norm
    /// @param rope rotates queries and keys; null for none
    /// @param block creates one block
    record Plan(
            Facts facts,
            double std,
            String tokens,
            @Nullable String positions,
            String blocks,
            Function<Parts, Norm> norm,
            @Nullable Rope rope,
            BlockMaker block) {}

    /// Creates one block from the weights below its name.
    interface BlockMaker {
        Block make(Weights weights, @Nullable Angles angles);
    }

    /// The model's head.
    ///
    /// @param isBare whether there is no head at all; module names then have no prefix
    /// @param isTied whether the head shares the token table
    /// @param labels number of classes of a classification head, which replaces the other head; 0 for none
    record Top(boolean isBare, boolean isTied, int labels) {
        /// The head that the folder's config and files specify.
        static Top read(Family family, HfConfig config, Weights weights, boolean isTied, int labels) {
            return new Top(family.isBare(config, weights, isTied), isTied, labels);
        }
    }

    Decoder(Family family, Plan plan, Top top, Weights all) {
        super(family);
        this.plan = plan;
        String prefix = top.isBare ? "" : family.prefix();
        Weights w = all.below(prefix);
        int hidden = plan.facts.hiddenSize();
        tokens = child(prefix + plan.tokens, w.embedding(plan.tokens, plan.facts.vocabSize(), hidden, plan.std));
        learned = plan.positions == null
                ? null
                : child(
                        prefix + plan.positions,
                        w.embedding(plan.positions, plan.facts.maxPositions(), hidden, plan.std));
        angles = plan.rope == null
                ? null
                : new Angles(plan.rope, plan.facts.headDim(), plan.facts.maxPositions(), positions(), tokens.weight());
        for (int i = 0; i < plan.facts.numLayers(); i++) {
            String name = plan.blocks + "." + i;
            blocks.add(child(prefix + name, plan.block.make(w.below(name + "."), angles)));
        }
        Parts last = new Parts(w, plan.std);
        norm = plan.norm.apply(last);
        last.layers().forEach((name, layer) -> child(prefix + name, layer));
        lmHead = top.isBare || top.labels > 0
                ? null
                : child(
                        HEAD,
                        top.isTied
                                ? new Linear(tokens.weight(), null, false)
                                : all.linear(HEAD, hidden, plan.facts.vocabSize(), false, plan.std));
        if (top.labels > 0) {
            classifier(all.linear(classifierName(), hidden, top.labels, false, plan.std));
        }
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
    protected final Tensor embed(Tensor words, int from) {
        return learned == null ? words : words.add(learned.forward(positions(words, from)));
    }

    @Override
    protected final Tensor finish(Tensor x) {
        return norm.forward(x);
    }

    @Override
    protected final @Nullable Linear head() {
        return lmHead;
    }

    /// Updates the sizes that may have changed: the number of tokens, and whether the head is tied to the table.
    final ObjectNode changed(ObjectNode sizes) {
        String tie = "tie_word_embeddings";
        sizes.put("vocab_size", facts().vocabSize());
        boolean isTied = lmHead != null && lmHead.weight() == tokens.weight();
        return lmHead != null && (!isTied || sizes.has(tie)) ? sizes.put(tie, isTied) : sizes;
    }

    @Override
    public void close() {
        super.close();
        if (angles != null) {
            angles.close();
        }
    }
}
