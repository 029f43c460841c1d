package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.model.Model.Facts;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The positions of the tokens of a batch: they follow a prefix of keys and virtual tokens, whose lengths may differ
/// between rows. See [Transformer#rows].
public final class Positions implements AutoCloseable {
    private final Slot<Layout> layout = new Slot<>();
    private @Nullable Tensor all;

    /// @param isNewestFirst whether the keys of a prefix are in reverse order of their positions
    private record Layout(List<Rows> rows, boolean isNewestFirst) {}

    /// The position ids from, from + 1, … of words (B, S, C): I32 (S), or (B, S) if rows differ, with negative ids
    /// before a row's own first position.
    Tensor of(Tensor words, int from, Facts facts) {
        if (!rows().isEmpty()) {
            int length = words.shape().dim(1);
            rows().forEach(r -> check(r.prefix(), length - absent(r), facts));
            return Tensor.ofInts(words.backend(), ofRows(length), words.shape().dim(0), length);
        }
        int to = from + words.shape().dim(1);
        check(from, words.shape().dim(1), facts);
        return all(words.backend(), facts.maxPositions()).slice(0, from, to);
    }

    /// The position ids of a text whose positions count all tokens but padding and start at `padding` + 1, where
    /// padding itself has the position `padding`: fairseq's `make_positions`. Where virtual tokens precede the text,
    /// every position counts.
    ///
    /// @param at the position ids that count all tokens: (S), or (B, S) if rows differ
    /// @param ids of the text, I32 (B, T)
    public Tensor after(int padding, Tensor at, Tensor ids, int from) {
        Shape s = ids.shape();
        int length = at.shape().dim(-1);
        if (!rows().isEmpty()) {
            return Tensor.ofInts(ids.backend(), ofRows(padding, ids.toInts(), length), s.dim(0), length);
        }
        Backend backend = ids.backend();
        if (length > s.dim(1)) {
            return shifted(backend, at, padding + 1);
        }
        // On the device, so that a recorded step may be replayed with other ids.
        DType type = DType.F32;
        Tensor distance = Tensor.empty(backend, type, s.dims()).copyFrom(ids).sub(constant(backend, padding));
        Tensor one = constant(backend, 1);
        Tensor counts = one.sub(Functional.relu(one.sub(distance.mul(distance))));
        Tensor sum = counts;
        for (int step = 1; step < s.dim(1); step *= 2) {
            Tensor before = Tensor.zeros(backend, type, s.dim(0), step);
            sum = sum.add(Functional.concat(List.of(before, sum.slice(1, 0, s.dim(1) - step)), 1));
        }
        Tensor place = sum.add(constant(backend, from)).mul(counts).add(constant(backend, padding));
        return Tensor.empty(backend, DType.I32, s.dims()).copyFrom(place);
    }

    private static Tensor constant(Backend backend, double value) {
        return Tensor.full(backend, DType.F32, value, 1);
    }

    private static Tensor shifted(Backend backend, Tensor ids, int by) {
        Tensor wide = Tensor.empty(backend, DType.F32, ids.shape().dims()).copyFrom(ids);
        return Tensor.empty(backend, DType.I32, ids.shape().dims()).copyFrom(wide.add(constant(backend, by)));
    }

    /// As [#after], of `length` columns of each row, where rows differ.
    private int[] ofRows(int padding, int[] ids, int length) {
        int[] at = ofRows(length);
        int text = rows().isEmpty()
                ? length
                : ids.length / rows().stream().mapToInt(Rows::count).sum();
        int row = 0;
        for (Rows r : rows()) {
            for (int i = 0; i < r.count(); i++, row++) {
                int counted = r.prefix();
                for (int column = 0; column < length; column++) {
                    int place = row * length + column;
                    if (r.virtualTokens() > 0) {
                        at[place] += at[place] < 0 ? 0 : padding + 1;
                    } else if (column < length - text) {
                        at[place] = -1;
                    } else {
                        boolean counts = ids[row * text + column - (length - text)] != padding;
                        at[place] = padding + (counts ? ++counted : 0);
                    }
                }
            }
        }
        return at;
    }

    private synchronized Tensor all(Backend backend, int max) {
        if (all == null) {
            all = Tensor.ofInts(backend, IntStream.range(0, max).toArray(), max).detachFromScope();
        }
        return all;
    }

    private static void check(int prefix, int tokens, Facts facts) {
        int max = facts.maxPositions();
        if (prefix + tokens > max) {
            throw new ShapeException(facts.modelType() + ": " + (prefix + tokens) + " positions (prefix " + prefix
                    + ", virtual tokens and text " + tokens + ") but the model has " + max + "; shorten the text");
        }
    }

    /// The positions of `length` columns of each row, one row after another.
    int[] ofRows(int length) {
        int[] ids = new int[rows().stream().mapToInt(Rows::count).sum() * length];
        int at = 0;
        for (Rows r : rows()) {
            int first = r.prefix() - absent(r);
            for (int i = 0; i < r.count() * length; i++) {
                ids[at++] = first + i % length;
            }
        }
        return ids;
    }

    /// The columns of `r` before its first virtual token.
    private int absent(Rows r) {
        return rows().stream().mapToInt(Rows::virtualTokens).max().orElse(0) - r.virtualTokens();
    }

    /// The mask (B, prefix + 1) by which a single query a row (B, 1, C) sees only the last `window` positions of its
    /// row, its own among them; null if the places of keys tell their distance.
    @Nullable
    Tensor near(Tensor x, int prefix, int window) {
        if (rows().isEmpty()) {
            return null;
        }
        if (x.shape().dim(1) > 1) {
            if (rows().stream().anyMatch(r -> r.prefix() > 0 && absent(r) > 0)) {
                throw new IllegalStateException("attention: through a sliding window, a batch cannot have rows with a"
                        + " prefix and rows with virtual tokens; run them one after the other");
            }
            return null;
        }
        int width = prefix + 1;
        int[] shown = new int[x.shape().dim(0) * width];
        int row = 0;
        for (Rows r : rows()) {
            for (int i = 0; i < r.count(); i++, row++) {
                int seen = Math.min(r.prefix(), window - 1);
                int first = row * width + prefix - (isNewestFirst() ? r.prefix() : seen);
                Arrays.fill(shown, first, first + seen, 1);
                shown[row * width + prefix] = 1;
            }
        }
        return Tensor.ofInts(x.backend(), shown, x.shape().dim(0), width);
    }

    /// How the rows differ; empty if they do not.
    List<Rows> rows() {
        Layout now = layout.get();
        return now == null ? List.of() : now.rows;
    }

    private boolean isNewestFirst() {
        Layout now = layout.get();
        return now != null && now.isNewestFirst;
    }

    /// As [Transformer#rows].
    void rows(List<Rows> next) {
        layout.set(new Layout(List.copyOf(next), false));
    }

    /// As above, where the keys of each row's prefix are in reverse order of their positions.
    void rowsNewestFirst(List<Rows> next) {
        layout.set(new Layout(List.copyOf(next), true));
    }

    /// The state (B, C) of each row's first position in h (B, P + T, C): its first virtual token, if it has any.
    public Tensor first(Tensor h) {
        Shape s = h.shape();
        if (rows().isEmpty()) {
            return h.slice(1, 0, 1).reshape(s.dim(0), s.dim(2));
        }
        int[] ids = new int[s.dim(0)];
        int row = 0;
        for (Rows r : rows()) {
            for (int i = 0; i < r.count(); i++, row++) {
                ids[row] = row * s.dim(1) + absent(r);
            }
        }
        return Functional.embedding(h.reshape(-1, s.dim(2)), Tensor.ofInts(h.backend(), ids, ids.length));
    }

    /// Puts virtual tokens, (P, C) or (B, P, C), before the embedded text x (B, T, C): (B, P + T, C).
    public static Tensor behind(Tensor tokens, Tensor x) {
        Shape s = x.shape();
        Shape p = tokens.shape();
        boolean perRow = p.rank() == 3 && p.dim(0) == s.dim(0);
        if (!perRow && p.rank() != 2 || p.dim(-1) != s.dim(2)) {
            throw new ShapeException("virtualTokens: embeddings are " + p + ", needs (P, " + s.dim(2) + ") or ("
                    + s.dim(0) + ", P, " + s.dim(2) + ")");
        }
        Tensor each = perRow
                ? tokens
                : Tensor.zeros(x.backend(), x.dtype(), s.dim(0), p.dim(0), s.dim(2))
                        .add(tokens);
        return Functional.concat(List.of(each, x), 1);
    }

    /// Whether a mask is for rows of several texts: (B, 2, S), their numbers and their positions.
    static boolean isPacked(Tensor mask) {
        return mask.shape().rank() == 3;
    }

    /// One of the two parts of such a mask: (B, S).
    static Tensor part(Tensor mask, int which) {
        return mask.slice(1, which, which + 1)
                .reshape(mask.shape().dim(0), mask.shape().dim(2));
    }

    /// The positions (B, T) of the last `length` tokens of such a mask, counted in their texts from `from` on; null for
    /// another mask.
    public static @Nullable Tensor inTexts(@Nullable Tensor mask, int length, int from) {
        if (mask == null || !isPacked(mask)) {
            return null;
        }
        int end = mask.shape().dim(2);
        Tensor at = part(mask.slice(2, end - length, end), 1);
        return from == 0 ? at : shifted(mask.backend(), at, from);
    }

    /// The mask (B, T) of the text, preceded by that of `prefix` keys and of the virtual tokens included in words (B,
    /// S, C): (B, prefix + S). Null hides nothing.
    @Nullable
    public Tensor shown(@Nullable Tensor mask, Tensor words, int prefix) {
        if (mask == null && rows().isEmpty()) {
            return null;
        }
        if (mask != null && isPacked(mask)) {
            int batch = mask.shape().dim(0);
            return prefix == 0
                    ? mask
                    : Functional.concat(List.of(Tensor.full(words.backend(), DType.I32, 1, batch, 2, prefix), mask), 2);
        }
        Shape s = words.shape();
        int virtual = mask != null
                ? s.dim(1) - mask.shape().dim(1)
                : rows().stream().mapToInt(Rows::virtualTokens).max().orElse(0);
        if (mask != null && prefix + virtual == 0) {
            return mask;
        }
        Tensor text = mask != null ? mask : Tensor.full(words.backend(), DType.I32, 1, s.dim(0), s.dim(1) - virtual);
        Tensor before = rows().isEmpty()
                ? Tensor.full(words.backend(), DType.I32, 1, s.dim(0), prefix + virtual)
                : beforeText(words.backend(), s.dim(0), prefix, virtual);
        return Functional.concat(List.of(before, text), 1);
    }

    private Tensor beforeText(Backend backend, int batch, int prefix, int virtual) {
        int width = prefix + virtual;
        int[] shown = new int[batch * width];
        int row = 0;
        for (Rows r : rows()) {
            for (int i = 0; i < r.count(); i++, row++) {
                int at = row * width;
                Arrays.fill(shown, at + Math.max(0, prefix - r.prefix()), at + prefix, 1);
                Arrays.fill(shown, at + width - r.virtualTokens(), at + width, 1);
            }
        }
        return Tensor.ofInts(backend, shown, batch, width);
    }

    @Override
    public void close() {
        if (all != null) {
            all.close();
        }
    }
}
