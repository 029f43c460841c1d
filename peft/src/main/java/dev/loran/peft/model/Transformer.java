package dev.loran.peft.model;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.model.Block.Prefix;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A model without its head: embedded tokens, blocks and the final layers, with the slots that adapters can fill.
///
/// Token ids and masks are I32 (B, T); a null mask hides nothing. A mask (B, 2, T) is for rows that hold several texts,
/// which do not attend to each other: it has the number of each token's text in its row, 0 for padding, and the token's
/// position in its text. Such rows go through causal models, without virtual tokens. Virtual tokens (P of them, when
/// set) precede the embedded text: hidden states and a causal model's logits then have P + T positions. A prefix of P
/// keys and values shifts the text to positions P, P + 1, …; both are visible regardless of the mask. Positions are
/// counted from the first column, including padding.
///
/// The dropout rates in a model's own config (`hidden_dropout_prob`, `resid_pdrop`, `attention_dropout`, …) are never
/// applied, not even in training; adapters have their own.
///
/// **Threads**: reading (a forward pass in evaluation mode) is safe from any number of threads, either with the current
/// content of the slots or, through [Slot#call], with other adapters for one call. Operations that change the model
/// (adapters, weights, modes, a training step, closing) need exclusive access; if another thread is using the model
/// they fail with a [java.util.ConcurrentModificationException]: see [Guard].
public abstract class Transformer extends Layer {
    private final Guard guard = new Guard("model");
    private final Slot<Supplier<Tensor>> virtualTokens = new Slot<>();
    private final Slot<Supplier<List<Prefix>>> prefixes = new Slot<>();
    private final Slot<Runnable> check = new Slot<>();
    private final Slot<Repeat> repeat = new Slot<>();
    private final Slot<Tensor> knownHidden = new Slot<>();
    private final Positions positions = new Positions();
    private boolean gradientCheckpointing;

    /// Declares that this thread reads the model until the result is closed, so that no other thread can change it
    /// meanwhile: several forward passes then see the same state of the model.
    ///
    /// @param operation for messages
    /// @throws java.util.ConcurrentModificationException if another thread is changing the model
    public final Guard.Use reading(String operation) {
        return guard.reading(operation);
    }

    /// Declares that this thread changes the model until the result is closed: its adapters, weights or modes.
    ///
    /// @param operation for messages
    /// @throws java.util.ConcurrentModificationException if any thread is reading the model, or another one changing it
    public final Guard.Use changing(String operation) {
        return guard.changing(operation);
    }

    public abstract Model.Facts facts();

    /// The backend that holds the parameters.
    public final Backend backend() {
        return tokenEmbedding().weight().backend();
    }

    /// The type of the model's computation, and of its parameters except those that [Model#makeWritable] widened.
    public final DType dtype() {
        return tokenEmbedding().dtype();
    }

    /// The blocks from the first to the last.
    public abstract List<Block> blocks();

    /// The table of token embeddings.
    public abstract Embedding tokenEmbedding();

    /// The number of token types of the model (`type_vocab_size`); 1 if it does not use types.
    public int tokenTypes() {
        return 1;
    }

    /// Hidden states after the last norm, (B, P + T, C), if all tokens have type 0.
    public final Tensor hidden(Tensor inputIds, @Nullable Tensor attentionMask) {
        return hidden(inputIds, attentionMask, null);
    }

    /// Hidden states after the last norm, (B, P + T, C).
    ///
    /// @param tokenTypes I32 (B, T) from 0 to [#tokenTypes] − 1, which text of a pair a token belongs to
    ///     (`token_type_ids`); null if all are 0, as virtual tokens always are. Ignored by a model without token types
    public final Tensor hidden(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        try (Guard.Use use = reading("hidden");
                Scope scope = Scope.open()) {
            Runnable first = check.get();
            if (first != null) {
                first.run();
            }
            Tensor known = knownHidden.get();
            if (known != null) {
                return scope.keep(known.reshape(known.shape().dims()));
            }
            Supplier<List<Prefix>> made = prefixes.get();
            List<Prefix> prefix = made == null ? List.of() : made.get();
            int from = prefixLength(prefix);
            Supplier<Tensor> virtual = virtualTokens.get();
            Tensor text = embedded(inputIds);
            Tensor words = virtual == null ? text : Positions.behind(virtual.get(), text);
            if (attentionMask != null
                    && Positions.isPacked(attentionMask)
                    && (!packs() || virtual != null || !positions.rows().isEmpty())) {
                throw new IllegalArgumentException("hidden: rows of several texts, whose mask is "
                        + attentionMask.shape() + ", go through causal models only, without virtual tokens");
            }
            Tensor mask = positions.shown(attentionMask, words, from);
            Tensor x = embed(typed(words, tokenTypes), inputIds, attentionMask, from);
            return scope.keep(finish(runBlocks(x, mask, prefix)));
        }
    }

    /// The embeddings (B, T, C) of the tokens (B, T), which virtual tokens then precede.
    protected Tensor embedded(Tensor inputIds) {
        return tokenEmbedding().forward(inputIds);
    }

    /// Adds the family's embeddings for the types (B, T) of the text's tokens to words (B, S, C), which include virtual
    /// tokens.
    protected Tensor typed(Tensor words, @Nullable Tensor tokenTypes) {
        return words;
    }

    /// The input of the first block: words (B, S, C), including virtual tokens, plus what the family adds to them;
    /// their positions are from, from + 1, …
    protected abstract Tensor embed(Tensor words, int from);

    /// As above, for a family whose positions depend on the ids of the text, (B, T).
    protected Tensor embed(Tensor words, Tensor inputIds, int from) {
        return embed(words, from);
    }

    /// As above, for a family whose positions depend on the mask.
    protected Tensor embed(Tensor words, Tensor inputIds, @Nullable Tensor mask, int from) {
        return embed(words, inputIds, from);
    }

    /// Whether rows may hold several texts that do not attend to each other.
    protected boolean packs() {
        return false;
    }

    /// Applies the layers after the last block.
    protected abstract Tensor finish(Tensor x);

    /// Computes the (P, C) embeddings of the virtual tokens in each forward pass; null if there are none.
    public final @Nullable Supplier<Tensor> virtualTokens() {
        return virtualTokens.get();
    }

    public final void virtualTokens(@Nullable Supplier<Tensor> next) {
        virtualTokens.set(next);
    }

    /// The positions of the tokens in the next forward passes.
    protected final Positions positions() {
        return positions;
    }

    /// The position ids from, from + 1, … of words (B, S, C): I32 (S), or (B, S) if rows differ, with negative ids
    /// before a row's own first position. For use in [#embed].
    protected final Tensor positions(Tensor words, int from) {
        return positions.of(words, from, facts());
    }

    /// Computes the prefix of each block in each forward pass, all with the same number of keys; null if there are
    /// none.
    public final @Nullable Supplier<List<Prefix>> prefixes() {
        return prefixes.get();
    }

    public final void prefixes(@Nullable Supplier<List<Prefix>> next) {
        prefixes.set(next);
    }

    /// A check that runs before each forward pass that uses the shared content of the slots, and that may throw; null
    /// for none.
    public final @Nullable Runnable check() {
        return check.get();
    }

    public final void check(@Nullable Runnable next) {
        check.set(next);
    }

    /// Sets how the rows of the next forward passes differ in the lengths of their prefix and virtual tokens; an empty
    /// list (the default) means that they do not. [#prefixes] then gives (B, P, kvHeads, D) and [#virtualTokens] (B, P,
    /// C) for the longest P, with a row's own at the end: nothing before them is visible, and a row's own first
    /// position is the same as if the row were alone. A row's outputs are likewise in its last positions.
    public final void rows(List<Rows> next) {
        positions.rows(next);
    }

    /// Rows that are repeated before block `block`.
    private record Repeat(int times, int block) {
        Tensor of(Tensor x) {
            return Functional.concat(Collections.nCopies(times, x), 0);
        }
    }

    /// In the next forward passes, runs what precedes block `block` once, and then repeats the rows `times` times, one
    /// copy of all rows after another: for adapters from that block on, each of which gets a copy. There may be no
    /// prefix.
    public final void repeatRows(int times, int block) {
        repeat.set(new Repeat(times, block));
    }

    /// Makes [#hidden] return `states` in the next forward passes: the caller has computed them already and now needs
    /// only what follows.
    public final void knownHidden(Tensor states) {
        knownHidden.set(states);
    }

    /// Whether each block stores only its input and is recomputed in the backward pass.
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
    /// If every layer is already in that mode, this changes nothing and does not conflict with readers.
    @Override
    public final void train(boolean mode) {
        if (namedModules().values().stream().anyMatch(layer -> layer.isTraining() != mode)) {
            try (Guard.Use use = changing("train")) {
                super.train(mode);
            }
        }
    }

    /// Packs the weight of every linear layer that collects no gradient into the backend's fastest format for
    /// multiplication ([Tensor#prepare]); call it once the trainable parameters are known. A tied head is packed too,
    /// and the embedding gathers from the packed weight.
    public final void prepare() {
        try (Guard.Use use = changing("prepare")) {
            for (Layer layer : namedModules().values()) {
                if (layer instanceof Linear linear) {
                    linear.weight().prepare();
                }
            }
        }
    }

    /// Whether some block's queries see only the keys of the last positions.
    protected boolean hasWindows() {
        return false;
    }

    /// Whether keys of texts of `length` positions differ from those of the same tokens in texts of `next`.
    protected boolean turnsDiffer(int length, int next) {
        return false;
    }

    /// Makes a table have `rows` rows: those past the end are removed, new ones are the mean of the others.
    static void resize(Tensor table, int rows) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            table.restore();
            int before = table.shape().dim(0);
            Tensor next;
            if (rows <= before) {
                next = table.slice(0, 0, rows);
            } else {
                DType type = table.dtype();
                Tensor mean = Functional.cast(
                        Functional.cast(table, type.accumulator()).mean(0), type);
                int cols = table.shape().dim(1);
                Tensor added =
                        Tensor.zeros(table.backend(), type, rows - before, cols).add(mean.reshape(1, cols));
                next = Functional.concat(List.of(table, added), 0);
            }
            // A separate tensor, so that removed rows are not kept in memory.
            Buffer own = table.backend().allocate(table.dtype(), next.shape().size());
            table.backend().cast(own, next.buffer());
            table.assign(next.shape(), own);
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
        Repeat again = repeat.get();
        if (again == null) {
            return runBlocks(0, blocks().size(), x, mask, prefix);
        }
        try (Tensor once = runBlocks(0, again.block, x, mask, prefix)) {
            return runBlocks(
                    again.block, blocks().size(), again.of(once), mask == null ? null : again.of(mask), prefix);
        }
    }

    private Tensor runBlocks(int from, int to, Tensor x, @Nullable Tensor mask, List<Prefix> prefix) {
        Tensor h = x;
        for (int i = from; i < to; i++) {
            Block block = blocks().get(i);
            Prefix p = prefix.isEmpty() ? null : prefix.get(i);
            Tensor next = gradientCheckpointing ? runAgainInBackward(block, h, mask, p) : block.forward(h, mask, p);
            // Released here rather than at the end of the scope: without a graph that keeps them, the results of all
            // blocks would accumulate.
            h.close();
            h = next;
        }
        return h;
    }

    private static Tensor runAgainInBackward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        // Everything that the recomputation depends on must be among the inputs: nothing else is kept for it.
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

    /// The keys and values that each block's attention computes for one text, each (T, kvHeads, D), as they enter
    /// attention (rotated if the family uses rotary embeddings). They belong to the caller's scope.
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
