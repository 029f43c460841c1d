package dev.loran.peft.model;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.model.Block.Prefix;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The keys and values of one or more texts, which let a causal model continue them at the cost of the new tokens
/// alone.
///
/// ```java
/// try (KvCache cache = new KvCache(model); Scope scope = Scope.open()) {
///     Tensor logits = cache.append(prompt, longerPrompt);         // (2, V), for what follows each text
///     logits = cache.append(new int[] {7}, new int[] {3});        // one more token each
/// }
/// ```
///
/// The cache acts as a prefix of each block's attention, like a learned one ([Block.Prefix]), so models need no special
/// support. A learned prefix and virtual tokens are cached with the first tokens. Adapters must not change while a
/// cache is in use, because the cached keys and values depend on them.
///
/// Where rotary frequencies depend on the length of the longest text ([Rope.LongRope]), its growing past the point
/// where they change recomputes all keys and values, once.
///
/// **Threads**: a cache belongs to one thread; any number of threads may have caches of the same model. Operations that
/// change the model fail while a cache appends; between two appends the caller must prevent them ([Model#reading]).
public final class KvCache implements AutoCloseable {
    /// The number of keys by which the capacity grows.
    private static final int GROWTH = 64;

    private final Model model;
    /// For each block (B, capacity, kvHeads, D). The order of keys does not matter to attention, as they already
    /// include their positions: rows are filled from the end, the newest key first, so that a row's own keys are the
    /// last ones, as [Rows] requires.
    private final List<Prefix> blocks = new ArrayList<>();

    private int capacity;
    /// The number of keys in each row; empty before the first tokens.
    private int[] lengths = {};

    /// The tokens of each row.
    private int[][] texts = {};

    /// An empty cache.
    ///
    /// @throws IllegalStateException if the model is not causal, or in training mode
    public KvCache(Model model) {
        if (model.task() != TaskType.CAUSAL_LM) {
            throw new IllegalStateException("kvCache: " + model.facts().modelType()
                    + " is an encoder, which does not go on from a text; use a causal model");
        }
        if (model.isTraining()) {
            throw new IllegalStateException("kvCache: the model is in training mode; call train(false) on it first");
        }
        this.model = model;
    }

    /// The number of positions left after the longest text.
    public int room() {
        return model.facts().maxPositions() - Arrays.stream(lengths).max().orElse(0);
    }

    /// Appends `tokens[i]` to text i. In the first call their lengths may differ; after that each text must get the
    /// same number of tokens.
    ///
    /// @return the logits (B, V) for the next token of each text; they belong to the caller's scope
    /// @throws ShapeException if there are no tokens for a text, or not as many as for the others, or if a text becomes
    ///     longer than the model's maximum; the cache is then unchanged
    public Tensor append(int[]... tokens) {
        check(tokens);
        if (lengths.length > 0) {
            int now = Arrays.stream(lengths).max().orElseThrow();
            requireRoom(now + tokens[0].length);
            if (tokens[0].length > 1 && model.hasWindows()) {
                return appendOneByOne(tokens);
            }
            if (model.turnsDiffer(now, now + tokens[0].length)) {
                int[][] whole = joined(tokens);
                close();
                return append(whole);
            }
        }
        try (Guard.Use use = model.reading("append");
                Autograd.Mode mode = Autograd.noGrad();
                Scope scope = Scope.open()) {
            return Slot.call(() -> {
                int[] before = lengths.length == 0 ? start(tokens) : goOn(tokens);
                return scope.keep(run(tokens, before));
            });
        }
    }

    /// Several new queries would each see other cached keys through a window.
    private Tensor appendOneByOne(int[][] tokens) {
        Tensor logits = null;
        for (int t = 0; t < tokens[0].length; t++) {
            int at = t;
            if (logits != null) {
                logits.close();
            }
            logits =
                    append(Arrays.stream(tokens).map(row -> new int[] {row[at]}).toArray(int[][]::new));
        }
        return Objects.requireNonNull(logits);
    }

    private void check(int[][] tokens) {
        boolean first = lengths.length == 0;
        boolean fits = tokens.length > 0 && (first || tokens.length == lengths.length);
        for (int[] t : tokens) {
            fits &= t.length > 0 && (first || t.length == tokens[0].length);
        }
        if (!fits) {
            throw new ShapeException("kvCache: tokens are "
                    + Arrays.stream(tokens).map(t -> t.length).toList()
                    + (first
                            ? ", one number a text; needs at least one text, and a token of each"
                            : ", one number a text, but the cache has " + lengths.length
                                    + " texts; needs as many tokens for each of them"));
        }
    }

    /// Prepares the first tokens, which follow virtual tokens and a learned prefix, which is cached here.
    ///
    /// @return the number of keys of each text
    private int[] start(int[][] tokens) {
        Supplier<List<Prefix>> prefixes = model.prefixes();
        Supplier<Tensor> virtualTokens = model.virtualTokens();
        // Computed once here; the forward pass that follows reuses them.
        List<Prefix> learned = prefixes == null ? List.of() : prefixes.get();
        Tensor virtual = virtualTokens == null ? null : virtualTokens.get();
        model.prefixes(learned.isEmpty() ? null : () -> learned);
        model.virtualTokens(virtual == null ? null : () -> virtual);
        int prefix = learned.isEmpty() ? 0 : learned.getFirst().length();
        int most = prefix + (virtual == null ? 0 : virtual.shape().dim(-2)) + longest(tokens);
        requireRoom(most);
        close();
        reserve(tokens.length, most);
        int[] none = new int[tokens.length];
        for (int l = 0; l < learned.size(); l++) {
            put(l, learned.get(l), none, none);
        }
        int[] before = new int[tokens.length];
        Arrays.fill(before, prefix);
        return before;
    }

    /// Prepares further tokens, which follow the cached ones.
    private int[] goOn(int[][] tokens) {
        int most = Arrays.stream(lengths).max().orElseThrow() + tokens[0].length;
        reserve(lengths.length, most);
        model.virtualTokens(null);
        model.prefixes(() -> blocks);
        model.positions()
                .rowsNewestFirst(
                        Arrays.stream(lengths).mapToObj(n -> new Rows(1, n, 0)).toList());
        return lengths;
    }

    private void requireRoom(int positions) {
        int max = model.facts().maxPositions();
        if (positions > max) {
            throw new ShapeException("kvCache: the longest text would have " + positions
                    + " positions, prefix and virtual tokens among them, but "
                    + model.facts().modelType() + " has " + max + "; shorten the text");
        }
    }

    private static int longest(int[][] tokens) {
        return Arrays.stream(tokens).mapToInt(t -> t.length).max().orElseThrow();
    }

    /// The logits after the last token of each text, which has `before` cached keys. Shorter texts are padded at the
    /// end, where no earlier token sees the padding.
    private Tensor run(int[][] tokens, int[] before) {
        Backend backend = model.backend();
        int batch = tokens.length;
        int longest = longest(tokens);
        int[] ids = new int[batch * longest];
        int[] padding = new int[batch];
        for (int i = 0; i < batch; i++) {
            System.arraycopy(tokens[i], 0, ids, i * longest, tokens[i].length);
            padding[i] = longest - tokens[i].length;
        }
        for (int l = 0; l < blocks.size(); l++) {
            int block = l;
            // The block's attention has not read the cache yet, but the mask hides the places where these keys are
            // written.
            model.blocks().get(l).observer(made -> put(block, made, before, padding));
        }
        Tensor h = model.hidden(Tensor.ofInts(backend, ids, batch, longest), null);
        Shape s = h.shape();
        int[] last = new int[batch];
        Arrays.setAll(last, i -> (i + 1) * s.dim(1) - 1 - padding[i]);
        int[] after = new int[batch];
        Arrays.setAll(after, i -> before[i] + s.dim(1) - padding[i]);
        Tensor ends = Functional.embedding(h.reshape(-1, s.dim(2)), Tensor.ofInts(backend, last, batch));
        Tensor logits = model.tokenLogits(ends);
        lengths = after;
        texts = joined(tokens);
        return logits;
    }

    /// Each row's text with `tokens` at its end.
    private int[][] joined(int[][] tokens) {
        int[][] all = new int[tokens.length][];
        for (int i = 0; i < all.length; i++) {
            int[] before = i < texts.length ? texts[i] : new int[0];
            all[i] = Arrays.copyOf(before, before.length + tokens[i].length);
            System.arraycopy(tokens[i], 0, all[i], before.length, tokens[i].length);
        }
        return all;
    }

    // ---- memory

    /// Makes room for `keys` keys in each row, keeping the present ones at the end.
    private void reserve(int batch, int keys) {
        if (keys <= capacity) {
            return;
        }
        int next = Math.ceilDiv(keys, GROWTH) * GROWTH;
        for (int l = 0; l < model.blocks().size(); l++) {
            Prefix old = capacity == 0 ? null : blocks.get(l);
            Prefix wider = new Prefix(
                    wider(old == null ? null : old.keys(), batch, next),
                    wider(old == null ? null : old.values(), batch, next));
            if (old == null) {
                blocks.add(wider);
            } else {
                close(blocks.set(l, wider));
            }
        }
        capacity = next;
    }

    private Tensor wider(@Nullable Tensor old, int batch, int next) {
        Model.Facts f = model.facts();
        int width = f.numKvHeads() * f.headDim();
        // Zeros, because even masked entries must be finite.
        Tensor wider = Tensor.zeros(model.backend(), model.dtype(), batch, next, f.numKvHeads(), f.headDim())
                .detachFromScope();
        if (old != null) {
            long added = (long) (next - capacity) * width;
            model.backend()
                    .copy(
                            wider.buffer().slice(added, wider.buffer().size() - added),
                            next * width,
                            old.buffer(),
                            capacity * width,
                            batch,
                            capacity * width,
                            false);
        }
        return wider;
    }

    /// Writes the keys and values that a block computed for each row, without the padding at the end, before the row's
    /// `before` cached keys.
    private void put(int block, Prefix made, int[] before, int[] padding) {
        put(blocks.get(block).keys(), made.keys(), before, padding);
        put(blocks.get(block).values(), made.values(), before, padding);
    }

    /// @param given (S, kvHeads, D) for all rows or (B, S, kvHeads, D)
    private void put(Tensor to, Tensor given, int[] before, int[] padding) {
        Tensor from = newestFirst(given);
        int width = to.shape().dim(2) * to.shape().dim(3);
        int keys = from.shape().dim(-3);
        boolean shared = from.shape().rank() == 3;
        for (int i = 0; i < before.length; i++) {
            int count = (keys - padding[i]) * width;
            long at = ((i + 1L) * capacity - before[i]) * width - count;
            long source = shared ? 0 : ((long) i * keys + padding[i]) * width;
            model.backend()
                    .copy(
                            to.buffer().slice(at, count),
                            count,
                            from.buffer().slice(source, count),
                            count,
                            1,
                            count,
                            false);
        }
    }

    /// The rows of `from` in reverse order.
    private static Tensor newestFirst(Tensor from) {
        int keys = from.shape().dim(-3);
        if (keys == 1) {
            return from;
        }
        int all = Math.toIntExact(
                from.shape().size() / from.shape().dim(-2) / from.shape().dim(-1));
        int[] ids = IntStream.range(0, all)
                .map(i -> i - i % keys + keys - 1 - i % keys)
                .toArray();
        Tensor rows = from.reshape(all, from.shape().dim(-2) * from.shape().dim(-1));
        return Functional.embedding(rows, Tensor.ofInts(from.backend(), ids, all))
                .reshape(from.shape().dims());
    }

    private static void close(Prefix block) {
        block.keys().close();
        block.values().close();
    }

    /// Releases the memory; the cache is then empty.
    @Override
    public void close() {
        blocks.forEach(KvCache::close);
        blocks.clear();
        capacity = 0;
        lengths = new int[0];
        texts = new int[0][];
    }
}
