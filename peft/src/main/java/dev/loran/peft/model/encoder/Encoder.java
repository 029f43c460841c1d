package dev.loran.peft.model.encoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.WithPooler;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// The common part of encoders, in which every position sees the whole text: tables of tokens, positions and types,
/// blocks, and a head that computes classes of a text or of each token. A family supplies its sizes, names, block and
/// head as a [Plan].
///
/// Module names of a model with a head start with the family's prefix, such as `bert.`; without one they have no
/// prefix, and the output is the mean of the hidden states.
abstract class Encoder extends Model implements WithPooler {
    private final Plan plan;
    private final String prefix;
    private final Input input;
    private final List<Block> blocks = new ArrayList<>();
    private final @Nullable Norm last;
    private final Map<String, Layer> beforeClassifier = new LinkedHashMap<>();
    private @Nullable Linear dense;
    private @Nullable Norm headNorm;
    private boolean isHeadPlaced;
    private boolean isHeadPlacedLater;
    private boolean isHeadNew;

    /// The components of a family's encoder.
    ///
    /// @param config the config from which everything was read
    /// @param facts its sizes before any tokens are added
    /// @param std standard deviation of random weights
    /// @param input creates what precedes the blocks
    /// @param blocks name of the list of blocks
    /// @param block creates one block
    /// @param last creates the norm after the blocks; null for none
    /// @param form the family's head
    /// @param hasDense whether an encoder alone has, or its files hold, the head's first layer
    record Plan(
            HfConfig config,
            Facts facts,
            double std,
            Function<Parts, Input> input,
            String blocks,
            BlockMaker block,
            @Nullable Function<Parts, Norm> last,
            Form form,
            boolean hasDense) {}

    /// Creates the block of an index from the weights below its name.
    interface BlockMaker {
        Block make(Weights weights, Input input, int index);
    }

    /// The layers that precede the blocks: project(norm(words + types + positions)).
    ///
    /// @param words the table of tokens
    /// @param positions the table of learned positions; null for none
    /// @param types the table of token types; null for none
    /// @param project the layer from the tables' width to that of the blocks; null if they are equal
    /// @param padding the id of the padding token if positions count only other tokens and start at `padding` + 1, as
    ///     fairseq's do; −1 if they count all tokens from 0
    /// @param distances what all blocks know of distances; null for nothing
    record Input(
            Embedding words,
            @Nullable Embedding positions,
            @Nullable Embedding types,
            Norm norm,
            @Nullable Linear project,
            int padding,
            @Nullable DistanceTable distances) {
        DistanceTable table() {
            return Objects.requireNonNull(distances, "distances");
        }
    }

    /// A table with a row for each distance, or range of distances, of two tokens.
    ///
    /// @param norm of the rows; null for none
    record DistanceTable(Embedding rows, @Nullable Norm norm) {
        /// All rows, in the type of the model.
        Tensor all() {
            Tensor table = Functional.cast(rows.weight(), rows.dtype());
            return norm == null ? table : norm.forward(table);
        }
    }

    /// A head: classifier(norm(f(dense(x)))) of a state x.
    ///
    /// @param dense the name of its first layer
    /// @param hasBias whether that has a bias
    /// @param activation f
    /// @param norm creates the norm; null for none
    /// @param classifier the name of its last layer
    /// @param ofEncoder whether the first layer is a part of the encoder, named below the family's prefix
    /// @param ofTokens whether a head for tokens has all these layers; otherwise it has the last one only
    record Form(
            String dense,
            boolean hasBias,
            UnaryFn activation,
            @Nullable Function<Parts, Norm> norm,
            String classifier,
            boolean ofEncoder,
            boolean ofTokens) {
        /// A head for texts of two layers of its own.
        static Form of(String dense, UnaryFn activation, String classifier) {
            return new Form(dense, true, activation, null, classifier, false, false);
        }

        /// Whether the files of an adapter with a head hold the first layer too: peft saves each module whose name ends
        /// with `classifier`.
        boolean isSaved() {
            return outermost(dense).endsWith("classifier");
        }
    }

    private static String outermost(String module) {
        int dot = module.indexOf('.');
        return dot < 0 ? module : module.substring(0, dot);
    }

    /// @param labels number of classes of the head, of a text or, in a model `…ForTokenClassification`, of each token;
    ///     0 for the encoder alone
    @SuppressWarnings("this-escape") // Registering a child does not access a subclass.
    Encoder(Family family, Plan plan, Weights all, int labels) {
        super(family);
        this.plan = plan;
        prefix = labels > 0 ? family.prefix() : "";
        Parts base = new Parts(all.below(prefix), plan.std, (name, layer) -> child(prefix + name, layer));
        input = plan.input.apply(base);
        for (int i = 0; i < plan.facts.numLayers(); i++) {
            String name = prefix + plan.blocks + "." + i;
            blocks.add(child(name, plan.block.make(all.below(name + "."), input, i)));
        }
        last = plan.last == null ? null : plan.last.apply(base);
        ofTokens(plan.config.className().endsWith(Family.TOKEN_CLASSIFIER));
        boolean hasHead = labels > 0 && needsDense();
        if (hasHead || labels == 0 && plan.hasDense) {
            makeHead(all);
        }
        if (hasHead || plan.form.ofEncoder && dense != null) {
            placeHead();
        }
        if (labels > 0) {
            classifier(all.linear(classifierName(), plan.facts.hiddenSize(), labels, true, plan.std));
        }
    }

    private boolean needsDense() {
        return !ofTokens() || plan.form.ofTokens;
    }

    private String denseName() {
        return (plan.form.ofEncoder ? prefix : "") + plan.form.dense;
    }

    private void makeHead(Weights weights) {
        Parts parts = new Parts(weights, plan.std, beforeClassifier::put);
        int hidden = plan.facts.hiddenSize();
        dense = parts.linear(denseName(), hidden, hidden, plan.form.hasBias);
        headNorm = plan.form.norm == null ? null : plan.form.norm.apply(parts);
    }

    private void placeHead() {
        beforeClassifier.forEach(this::child);
        isHeadPlaced = true;
    }

    // ---- embeddings

    @Override
    public final int tokenTypes() {
        return input.types == null ? 1 : input.types.weight().shape().dim(0);
    }

    @Override
    protected final Tensor typed(Tensor words, @Nullable Tensor tokenTypes) {
        if (input.types == null) {
            return words;
        }
        Tensor types = tokenTypes;
        if (types == null || tokenTypes() == 1) {
            types = Tensor.zeros(backend(), DType.I32, 1);
        } else if (types.shape().dim(1) < words.shape().dim(1)) {
            int virtual = words.shape().dim(1) - types.shape().dim(1);
            types = Functional.concat(
                    List.of(Tensor.zeros(backend(), DType.I32, types.shape().dim(0), virtual), types), 1);
        }
        return words.add(input.types.forward(types));
    }

    @Override
    protected final Tensor embed(Tensor words, Tensor inputIds, int from) {
        Tensor at = positions(words, from);
        if (input.padding >= 0) {
            at = positions().after(input.padding, at, inputIds, from);
        }
        Tensor x = input.positions == null ? words : words.add(input.positions.forward(at));
        Tensor normed = input.norm.forward(x);
        return input.project == null ? normed : input.project.forward(normed);
    }

    @Override
    protected final Tensor embed(Tensor words, int from) {
        throw new IllegalStateException("embed: the positions of an encoder depend on its tokens");
    }

    @Override
    protected final Tensor finish(Tensor x) {
        return last == null ? x : last.forward(x);
    }

    // ---- outputs

    /// The class scores of the texts (B, labels) or tokens (B, P + T, labels) if there is a head, otherwise the
    /// mean-pooled hidden states (B, C).
    @Override
    public final Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        return classifier() == null
                ? embeddings(inputIds, attentionMask, tokenTypes, false)
                : super.logits(inputIds, attentionMask, tokenTypes);
    }

    @Override
    public final boolean hasPooler() {
        return dense != null;
    }

    @Override
    public final boolean takesHead() {
        return hasPooler() || plan.form.isSaved();
    }

    @Override
    public final boolean takesTokenHead() {
        return !plan.form.ofTokens || takesHead();
    }

    @Override
    public final boolean isUnused(String name) {
        return dense != null && ofTokens() && !plan.form.ofTokens && name.startsWith(denseName() + ".");
    }

    @Override
    public final Tensor pooled(Tensor hidden, @Nullable Tensor attentionMask) {
        return headInput(select(hidden, attentionMask));
    }

    /// What the head sees of hidden states (B, P + T, C), which is (B, C): the first position, which is the first
    /// virtual token, if there are any.
    Tensor select(Tensor hidden, @Nullable Tensor attentionMask) {
        return positions().first(hidden);
    }

    /// The classifier's input from what the head sees.
    private Tensor headInput(Tensor x) {
        if (dense == null) {
            throw new IllegalStateException("pooled: this encoder has no " + plan.form.dense);
        }
        Tensor y = Functional.unary(plan.form.activation, dense.forward(x));
        return headNorm == null ? y : headNorm.forward(y);
    }

    @Override
    protected final Tensor tokenStates(Tensor hidden) {
        return plan.form.ofTokens ? headInput(hidden) : hidden;
    }

    @Override
    protected final Tensor pooled(Tensor hidden, Tensor inputIds, @Nullable Tensor attentionMask) {
        return pooled(hidden, attentionMask);
    }

    /// The mean of the hidden states over the positions that the mask leaves visible, virtual tokens included: (B, C).
    /// A text without visible positions gives zeros.
    ///
    /// @param normalized divides each embedding by its Euclidean norm
    public final Tensor embeddings(Tensor inputIds, @Nullable Tensor attentionMask, boolean normalized) {
        return embeddings(inputIds, attentionMask, null, normalized);
    }

    private Tensor embeddings(
            Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes, boolean normalized) {
        try (Scope scope = Scope.open()) {
            Tensor mean = mean(hidden(inputIds, attentionMask, tokenTypes), attentionMask);
            return scope.keep(normalized ? normalized(mean) : mean);
        }
    }

    /// The mean (B, C) of the visible positions of h (B, P + T, C).
    final Tensor mean(Tensor h, @Nullable Tensor attentionMask) {
        Tensor shown = positions().shown(attentionMask, h, 0);
        if (shown == null) {
            return h.mean(1);
        }
        Shape s = h.shape();
        Tensor weights = Tensor.empty(backend(), dtype(), s.dim(0), s.dim(1)).copyFrom(shown);
        // Negligible against a single position; it only prevents division by zero for an empty text.
        Tensor count = weights.sum(1).add(Tensor.full(backend(), dtype(), 1e-9, 1));
        Tensor sum = weights.reshape(s.dim(0), 1, s.dim(1)).matmul(h).reshape(s.dim(0), s.dim(2));
        return sum.div(count.reshape(s.dim(0), 1));
    }

    private Tensor normalized(Tensor x) {
        Tensor squares = x.mul(x).sum(1).add(Tensor.full(backend(), dtype(), 1e-24, 1));
        return x.mul(Functional.unary(UnaryFn.RSQRT, squares).reshape(-1, 1));
    }

    @Override
    protected final @Nullable Linear head() {
        return null;
    }

    // ---- a classification head

    @Override
    public final String classifierName() {
        return ofTokens() ? "classifier" : plan.form.classifier;
    }

    @Override
    public final Map<String, Linear> headLayers() {
        Map<String, Linear> all = new LinkedHashMap<>();
        if (dense != null && !ofTokens() && plan.form.isSaved()) {
            all.put(plan.form.dense, dense);
        }
        all.putAll(super.headLayers());
        return all;
    }

    @Override
    protected final boolean isAboveBase(String module) {
        return super.isAboveBase(module)
                || !plan.form.ofEncoder && outermost(module).equals(outermost(plan.form.dense));
    }

    @Override
    protected final void beforeClassifier(Predicate<String> brought) {
        if (isHeadPlaced || !needsDense()) {
            return;
        }
        if (dense == null) {
            if (!plan.form.isSaved() && !brought.test(plan.form.dense)) {
                throw new InputException(title() + ": has no "
                        + (plan.form.dense.startsWith("pooler") ? "pooler" : "layer") + " (" + plan.form.dense
                        + ".weight), through which a classification head sees the text; transformers draws one at"
                        + " random there, and an adapter's file does not hold it");
            }
            DType wide = dtype().accumulator();
            makeHead((name, mean, std, transposed, dims) -> Tensor.full(backend(), wide, mean, dims));
            isHeadNew = true;
        }
        placeHead();
        isHeadPlacedLater = true;
    }

    @Override
    protected final void afterClassifier() {
        if (isHeadPlacedLater) {
            beforeClassifier.keySet().forEach(this::removeChild);
            isHeadPlaced = false;
            isHeadPlacedLater = false;
        }
        if (isHeadNew) {
            closeHead();
            isHeadNew = false;
        }
    }

    private void closeHead() {
        beforeClassifier.values().forEach(Layer::close);
        beforeClassifier.clear();
        dense = null;
        headNorm = null;
    }

    @Override
    public void close() {
        super.close();
        if (!isHeadPlaced) {
            closeHead();
        }
    }

    // ---- parts

    @Override
    public final Facts facts() {
        return plan.facts.withVocabSize(input.words.weight().shape().dim(0));
    }

    @Override
    public ObjectNode sizes() {
        ObjectNode json = plan.config.json().deepCopy();
        json.remove(List.of("model_type", "architectures"));
        return json.put("vocab_size", facts().vocabSize());
    }

    @Override
    public final List<Block> blocks() {
        return Collections.unmodifiableList(blocks);
    }

    @Override
    public final Embedding tokenEmbedding() {
        return input.words;
    }
}
