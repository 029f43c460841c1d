package dev.loran.peft.model;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.model.Block.Prefix;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// What a model is below its head: embedded tokens, blocks and what follows them, with the slots that adapters may
/// fill.
///
/// Token ids and masks are I32 (B, T); a mask of null shows every token. Virtual tokens (P of them, when set) stand
/// before the embedded text: hidden states and a causal model's logits then have P + T positions. A prefix of P keys
/// and values moves the text to positions P, P + 1, …; both are shown whatever the mask says. Positions count from the
/// first column, padding included.
///
/// The dropouts that a model's own config names (`hidden_dropout_prob`, `resid_pdrop`, `attention_dropout`, …) are not
/// applied, in training neither: adapters bring their own.
///
/// **Threads**: reading (a forward in evaluation mode) is safe from any number of threads, with what stands in the
/// slots or, by [Slot#call], with other adapters for one call. What changes it (adapters, weights, modes, a training
/// step, closing) must be alone, and fails with a [java.util.ConcurrentModificationException] where it meets another
/// thread's use: see [Guard].
public abstract class Transformer extends Layer {
    private final Guard guard = new Guard("model");
    private final Slot<Supplier<Tensor>> virtualTokens = new Slot<>();
    private final Slot<Supplier<List<Prefix>>> prefixes = new Slot<>();
    private final Slot<Runnable> check = new Slot<>();
    private final Positions positions = new Positions();
    private boolean gradientCheckpointing;

    /// Says that this thread reads the model until the result is closed, so that nobody changes it meanwhile: what
    /// takes several forwards is then of one state of the model.
    ///
    /// @param operation for messages
    /// @throws java.util.ConcurrentModificationException if another thread is changing the model
    public final Guard.Use reading(String operation) {
        return guard.reading(operation);
    }

    /// Says that this thread changes the model until the result is closed: its adapters, weights or modes.
    ///
    /// @param operation for messages
    /// @throws java.util.ConcurrentModificationException if any thread is reading the model, or another one changing it
    public final Guard.Use changing(String operation) {
        return guard.changing(operation);
    }

    public abstract Model.Facts facts();

    /// Where the parameters live.
    public final Backend backend() {
        return tokenEmbedding().weight().backend();
    }

    /// The type of what the model computes, and of its parameters, but for those that [Model#makeWritable] widened.
    public final DType dtype() {
        return tokenEmbedding().dtype();
    }

    /// The blocks from the first to the last.
    public abstract List<Block> blocks();

    /// The table of token embeddings.
    public abstract Embedding tokenEmbedding();

    /// How many types of tokens the model tells apart (`type_vocab_size`); 1 where it knows of none.
    public int tokenTypes() {
        return 1;
    }

    /// Hidden states after the last norm, (B, P + T, C), where every token is of type 0.
    public final Tensor hidden(Tensor inputIds, @Nullable Tensor attentionMask) {
        return hidden(inputIds, attentionMask, null);
    }

    /// Hidden states after the last norm, (B, P + T, C).
    ///
    /// @param tokenTypes I32 (B, T) from 0 to [#tokenTypes] − 1, which text of a pair a token is of (`token_type_ids`);
    ///     null where all are 0, as virtual tokens always are. A model that knows of no types does not look at them
    public final Tensor hidden(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        try (Guard.Use use = reading("hidden");
                Scope scope = Scope.open()) {
            Runnable first = check.get();
            if (first != null) {
                first.run();
            }
            Supplier<List<Prefix>> made = prefixes.get();
            List<Prefix> prefix = made == null ? List.of() : made.get();
            int from = prefixLength(prefix);
            Supplier<Tensor> virtual = virtualTokens.get();
            Tensor text = tokenEmbedding().forward(inputIds);
            Tensor words = virtual == null ? text : Positions.behind(virtual.get(), text);
            Tensor mask = positions.shown(attentionMask, words, from);
            return scope.keep(finish(runBlocks(embed(typed(words, tokenTypes), from), mask, prefix)));
        }
    }

    /// Words (B, S, C), virtual tokens among them, with what the family adds for the types (B, T) of the text's tokens.
    protected Tensor typed(Tensor words, @Nullable Tensor tokenTypes) {
        return words;
    }

    /// What enters the first block: words (B, S, C), virtual tokens among them, with what the family adds to them; they
    /// stand at positions from, from + 1, …
    protected abstract Tensor embed(Tensor words, int from);

    /// What follows the last block.
    protected abstract Tensor finish(Tensor x);

    /// Makes the (P, C) embeddings of the virtual tokens anew at each forward; null when there are none.
    public final @Nullable Supplier<Tensor> virtualTokens() {
        return virtualTokens.get();
    }

    public final void virtualTokens(@Nullable Supplier<Tensor> next) {
        virtualTokens.set(next);
    }

    /// Where the tokens of the next forwards stand.
    final Positions positions() {
        return positions;
    }

    /// The ids from, from + 1, … of the positions that words (B, S, C) stand at: I32 (S), or (B, S) where rows differ,
    /// with negative ids before a row's own first position. For what a family adds in [#embed].
    protected final Tensor positions(Tensor words, int from) {
        return positions.of(words, from, facts());
    }

    /// Makes the prefix of each block anew at each forward, all with the same number of keys; null when there are none.
    public final @Nullable Supplier<List<Prefix>> prefixes() {
        return prefixes.get();
    }

    public final void prefixes(@Nullable Supplier<List<Prefix>> next) {
        prefixes.set(next);
    }

    /// What is run before each forward on what stands in the slots for everybody, and may refuse it; null for nothing.
    public final @Nullable Runnable check() {
        return check.get();
    }

    public final void check(@Nullable Runnable next) {
        check.set(next);
    }

    /// Says how the rows of the next forwards differ in the lengths of their prefix and virtual tokens; an empty list
    /// (the start) says that they do not. [#prefixes] then gives (B, P, kvHeads, D) and [#virtualTokens] (B, P, C) for
    /// the longest P, a row's own at the end: what is before them no position sees, and a row's own first position is
    /// where it would be if the row were alone. A row's answer stands in its last positions likewise.
    public final void rows(List<Rows> next) {
        positions.rows(next);
    }

    /// Whether each block keeps only its input and runs again in backward.
    public final boolean gradientCheckpointing() {
        return gradientCheckpointing;
    }

    public final void gradientCheckpointing(boolean value) {
        try (Guard.Use use = changing("gradientCheckpointing")) {
            gradientCheckpointing = value;
        }
    }

    /// {@inheritDoc}
    ///
    /// Changes nothing, and so may meet readers, where every layer is in that mode already.
    @Override
    public final void train(boolean mode) {
        if (namedModules().values().stream().anyMatch(layer -> layer.isTraining() != mode)) {
            try (Guard.Use use = changing("train")) {
                super.train(mode);
            }
        }
    }

    /// Packs the weight of every linear layer that collects no gradient into the form that the backend multiplies
    /// fastest by ([Tensor#prepare]); call it when the trainable parameters are known. A tied head is packed too, and
    /// the embedding gathers from it.
    public final void prepare() {
        try (Guard.Use use = changing("prepare")) {
            for (Layer layer : namedModules().values()) {
                if (layer instanceof Linear linear) {
                    linear.weight().prepare();
                }
            }
        }
    }

    private int prefixLength(List<Prefix> prefix) {
        int length = prefix.isEmpty() ? 0 : prefix.getFirst().length();
        boolean fits = prefix.stream().allMatch(p -> p.length() == length);
        if (!prefix.isEmpty() && prefix.size() != blocks().size() || !fits) {
            throw new ShapeException("prefixes: lengths are "
                    + prefix.stream().map(Prefix::length).toList() + ", needs " + blocks().size()
                    + " equal ones, one a block");
        }
        return length;
    }

    private Tensor runBlocks(Tensor x, @Nullable Tensor mask, List<Prefix> prefix) {
        Tensor h = x;
        for (int i = 0; i < blocks().size(); i++) {
            Block block = blocks().get(i);
            Prefix p = prefix.isEmpty() ? null : prefix.get(i);
            Tensor next = gradientCheckpointing ? runAgainInBackward(block, h, mask, p) : block.forward(h, mask, p);
            // Not at the scope's end: without a graph that keeps them, all blocks' results would pile up.
            h.close();
            h = next;
        }
        return h;
    }

    private static Tensor runAgainInBackward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        // Everything a later run depends on must be among the inputs: nothing else is kept for it.
        List<Tensor> inputs = new ArrayList<>(List.of(x));
        if (mask != null) {
            inputs.add(mask);
        }
        if (prefix != null) {
            inputs.add(prefix.keys());
            inputs.add(prefix.values());
        }
        boolean masked = mask != null;
        boolean prefixed = prefix != null;
        return Autograd.checkpoint(
                in -> block.forward(
                        in.getFirst(),
                        masked ? in.get(1) : null,
                        prefixed ? new Prefix(in.get(in.size() - 2), in.getLast()) : null),
                inputs);
    }

    /// The keys and values that each block's attention makes of one text, each (T, kvHeads, D), as they stand before
    /// the attention (rotated where the family rotates). They belong to the caller's scope.
    public final List<Prefix> keysAndValues(int... inputIds) {
        List<Prefix> made = Slot.call(() -> {
            List<Prefix> all = new ArrayList<>();
            for (Block block : blocks()) {
                block.observer(kv -> all.add(new Prefix(
                        kv.keys().detach().detachFromScope(),
                        kv.values().detach().detachFromScope())));
            }
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                hidden(Tensor.ofInts(backend(), inputIds, 1, inputIds.length), null);
            }
            return all;
        });
        List<Prefix> ofText = new ArrayList<>();
        for (Prefix kv : made) {
            try (Tensor k = kv.keys();
                    Tensor v = kv.values()) {
                int[] dims = {inputIds.length, k.shape().dim(2), k.shape().dim(3)};
                ofText.add(new Prefix(k.reshape(dims), v.reshape(dims)));
            }
        }
        return ofText;
    }

    @Override
    public void close() {
        super.close();
        positions.close();
    }
}
