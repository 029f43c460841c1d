package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.LoraSegment;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Block.Prefix;
import dev.loran.peft.model.Block.SublayerAdapter;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Rows;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// One forward pass whose rows use different adapters of any kind: the rows are sorted by adapter and run once, each
/// adapter processes its own segment, and the outputs are restored to the original order. If the adapters on a layer
/// leave its own function unchanged ([AroundLayer]), that function runs once for all of them, and LoRA's part in the
/// same operation ([Functional#segmentedLoraLinear]).
///
/// It fills the slots of the call ([dev.loran.engine.nn.Slot#callEmpty]), which must be empty.
///
/// Each row's output is the same as with its adapter alone. Prefixes and virtual tokens of different lengths are
/// aligned at the end of the longest one: see [Model#rows].
final class MixedBatch {
    /// Rows `from` (inclusive) to `to` (exclusive), which use adapter number `adapter`.
    private record Segment(int adapter, int from, int to) {
        int rows() {
            return to - from;
        }

        Tensor of(Tensor x) {
            return x.slice(0, from, to);
        }
    }

    private final Model model;
    private final List<Segment> segments = new ArrayList<>();
    /// The original row at each position of the sorted batch.
    private final int[] order;

    private final Slots slots;

    /// @param adapters the adapter of each row; null: the bare base
    MixedBatch(Model model, List<@Nullable Tuner> adapters) {
        this.model = model;
        Map<@Nullable Tuner, Integer> numbers = new LinkedHashMap<>();
        adapters.forEach(t -> numbers.putIfAbsent(t, numbers.size()));
        int[] number = adapters.stream().mapToInt(numbers::get).toArray();
        order = IntStream.range(0, number.length)
                .boxed()
                .sorted(Comparator.comparingInt(row -> number[row]))
                .mapToInt(row -> row)
                .toArray();
        for (int from = 0, to; from < order.length; from = to) {
            int adapter = number[order[from]];
            to = from + 1;
            while (to < order.length && number[order[to]] == adapter) {
                to++;
            }
            segments.add(new Segment(adapter, from, to));
        }
        slots = new Slots(model, new ArrayList<>(numbers.keySet()));
    }

    /// A batch of the same `rows` rows for each of `tuners`, one segment after another.
    MixedBatch(Model model, List<Tuner> tuners, int rows) {
        this.model = model;
        order = IntStream.range(0, rows * tuners.size()).toArray();
        for (int i = 0; i < tuners.size(); i++) {
            segments.add(new Segment(i, i * rows, (i + 1) * rows));
        }
        slots = new Slots(model, new ArrayList<>(tuners));
    }

    /// The head's output, row by row in the caller's order: see [Model#logits].
    Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            fill();
            Tensor sorted = model.logits(
                    sorted("inputIds", inputIds),
                    attentionMask == null ? null : sorted("attentionMask", attentionMask));
            return scope.keep(unsorted(sorted));
        }
    }

    private Tensor sorted(String name, Tensor t) {
        Shape s = t.shape();
        if (s.rank() != 2 || s.dim(0) != order.length) {
            throw new ShapeException("logits: " + name + " is " + s + " but there are " + order.length
                    + " adapter names; needs one name a row");
        }
        int cols = s.dim(1);
        int[] all = t.toInts();
        int[] values = new int[all.length];
        for (int i = 0; i < order.length; i++) {
            System.arraycopy(all, order[i] * cols, values, i * cols, cols);
        }
        return Tensor.ofInts(t.backend(), values, order.length, cols);
    }

    private Tensor unsorted(Tensor sorted) {
        int[] place = new int[order.length];
        for (int i = 0; i < order.length; i++) {
            place[order[i]] = i;
        }
        Tensor rows = sorted.reshape(order.length, -1);
        return Functional.embedding(rows, Tensor.ofInts(model.backend(), place, place.length))
                .reshape(sorted.shape().dims());
    }

    /// Fills the slots of this call.
    void fill() {
        slots.layers().forEach(this::fill);
        for (Slots.OnSublayer slot : slots.sublayers()) {
            slot.fill().accept(new BySegment(segments, slot.adapters()));
        }
        List<Prefix> none = List.of();
        List<List<Prefix>> prefixes = new ArrayList<>();
        slots.prefixes().forEach(p -> prefixes.add(p == null ? none : p.get()));
        List<@Nullable Tensor> tokens = new ArrayList<>();
        slots.virtualTokens().forEach(t -> tokens.add(t == null ? null : t.get()));
        List<Rows> rows = segments.stream()
                .map(s -> new Rows(s.rows(), length(prefixes.get(s.adapter)), length(tokens.get(s.adapter))))
                .toList();
        fillPrefixes(prefixes, rows);
        fillVirtualTokens(tokens, rows);
        boolean alike = rows.stream()
                .allMatch(r -> r.prefix() == rows.getFirst().prefix()
                        && r.virtualTokens() == rows.getFirst().virtualTokens());
        model.rows(alike ? List.of() : rows);
    }

    private <L extends Layer> void fill(Slots.OnLayer<L> slot) {
        slot.layer().adapter(new OnRows<>(slot));
    }

    /// The first block in which an adapter acts; the number of blocks if there is none. Its input and everything before
    /// it are the same for all adapters, unless one is on the table of token embeddings.
    int firstBlock() {
        for (int i = 0; i < model.blocks().size(); i++) {
            Block block = model.blocks().get(i);
            Set<Layer> inside = new HashSet<>(block.namedModules().values());
            if (slots.layers().stream().anyMatch(slot -> inside.contains(slot.layer()))
                    || slots.sublayers().stream().anyMatch(slot -> slot.block() == block)) {
                return i;
            }
        }
        return model.blocks().size();
    }

    private static int length(List<Prefix> prefix) {
        return prefix.isEmpty() ? 0 : prefix.getFirst().length();
    }

    private static int length(@Nullable Tensor tokens) {
        return tokens == null ? 0 : tokens.shape().dim(0);
    }

    private void fillPrefixes(List<List<Prefix>> prefixes, List<Rows> rows) {
        int longest = rows.stream().mapToInt(Rows::prefix).max().orElse(0);
        if (longest == 0) {
            return;
        }
        List<Prefix> all = new ArrayList<>();
        for (int block = 0; block < model.blocks().size(); block++) {
            List<@Nullable Tensor> keys = new ArrayList<>();
            List<@Nullable Tensor> values = new ArrayList<>();
            for (List<Prefix> own : prefixes) {
                keys.add(own.isEmpty() ? null : own.get(block).keys());
                values.add(own.isEmpty() ? null : own.get(block).values());
            }
            int kvHeads = model.facts().numKvHeads();
            int headDim = model.facts().headDim();
            all.add(new Prefix(perRow(keys, longest, kvHeads, headDim), perRow(values, longest, kvHeads, headDim)));
        }
        model.prefixes(() -> all);
    }

    private void fillVirtualTokens(List<@Nullable Tensor> tokens, List<Rows> rows) {
        int longest = rows.stream().mapToInt(Rows::virtualTokens).max().orElse(0);
        if (longest > 0) {
            Tensor all = perRow(tokens, longest, model.facts().hiddenSize());
            model.virtualTokens(() -> all);
        }
    }

    /// For each row its adapter's tensor, (P, inner…), padded with leading zeros to `length`: (B, length, inner…).
    private Tensor perRow(List<@Nullable Tensor> ofAdapters, int length, int... inner) {
        List<Tensor> segmentsOfRows = new ArrayList<>();
        for (Segment s : segments) {
            Tensor own = ofAdapters.get(s.adapter);
            int present = own == null ? 0 : own.shape().dim(0);
            List<Tensor> parts = new ArrayList<>();
            if (present < length) {
                parts.add(zeros(s.rows(), length - present, inner));
            }
            if (own != null) {
                parts.add(zeros(s.rows(), present, inner).add(own));
            }
            segmentsOfRows.add(Functional.concat(parts, 1));
        }
        return Functional.concat(segmentsOfRows, 0);
    }

    private Tensor zeros(int rows, int length, int... inner) {
        int[] dims = IntStream.concat(IntStream.of(rows, length), IntStream.of(inner))
                .toArray();
        return Tensor.zeros(model.backend(), model.dtype(), dims);
    }

    /// The adapters of one layer, each applied to its own rows.
    private final class OnRows<L extends Layer> implements Adapter<L> {
        private final Slots.OnLayer<L> slot;

        OnRows(Slots.OnLayer<L> slot) {
            this.slot = slot;
        }

        @Override
        public Tensor forward(L base, Tensor x) {
            if (x.shape().dim(0) != order.length) {
                throw new ShapeException("logits: layer " + slot.module() + " gets " + x.shape() + " but the batch has "
                        + order.length + " rows; an adapter on it cannot differ from row to row");
            }
            List<LoraSegment> lora = lora(base, x.dtype());
            if (lora != null && base instanceof Linear linear) {
                Projection own = linear.projection(x.dtype());
                return Functional.segmentedLoraLinear(x, own.weight(), own.bias(), lora);
            }
            List<Tensor> answers = new ArrayList<>();
            for (int i = 0, end; i < segments.size(); i = end) {
                end = i;
                while (end < segments.size() && sharesProduct(base, end)) {
                    end++;
                }
                if (end > i) {
                    shared(base, x, segments.subList(i, end), answers);
                } else {
                    Segment s = segments.get(end++);
                    answers.add(Objects.requireNonNull(slot.adapters().get(s.adapter))
                            .forward(base, s.of(x)));
                }
            }
            return Functional.concat(answers, 0);
        }

        /// The low-rank part of each segment if that is all that the adapters add to the layer; else null.
        private @Nullable List<LoraSegment> lora(L base, DType type) {
            List<LoraSegment> all = new ArrayList<>();
            for (Segment s : segments) {
                Adapter<? super L> adapter = slot.adapters().get(s.adapter);
                Projection p = adapter == null ? null : adapter.projection(base, type);
                if (adapter != null && (p == null || !(base instanceof Linear l) || p.weight() != l.weight())) {
                    return null;
                }
                all.add(new LoraSegment(s.rows(), p == null ? null : p.lora()));
            }
            return all;
        }

        private boolean sharesProduct(L base, int segment) {
            Adapter<? super L> adapter = slot.adapters().get(segments.get(segment).adapter);
            return adapter == null
                    || adapter instanceof AroundLayer<?> around && (around.isTerm() || !base.isTraining());
        }

        /// One call of the layer's own function for consecutive segments.
        private void shared(L base, Tensor x, List<Segment> run, List<Tensor> answers) {
            List<Tensor> inputs = new ArrayList<>();
            boolean changed = false;
            for (Segment s : run) {
                Tensor in = s.of(x);
                Tensor fed = slot.adapters().get(s.adapter) instanceof AroundLayer<? super L> a ? a.before(in) : in;
                inputs.add(fed);
                changed |= fed != in;
            }
            int first = run.getFirst().from;
            Tensor y = slot.layer().base(changed ? Functional.concat(inputs, 0) : x.slice(0, first, run.getLast().to));
            for (Segment s : run) {
                Tensor own = y.slice(0, s.from - first, s.to - first);
                answers.add(
                        slot.adapters().get(s.adapter) instanceof AroundLayer<? super L> a
                                ? a.after(base, s.of(x), own)
                                : own);
            }
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            slot.adapters().stream().filter(Objects::nonNull).forEach(a -> a.collect(visitor));
        }

        /// The adapters belong to their own [Tuner]s.
        @Override
        public void close() {}
    }

    /// The adapters after one sublayer, each applied to its own rows.
    private record BySegment(List<Segment> segments, List<@Nullable SublayerAdapter> adapters)
            implements SublayerAdapter {
        @Override
        public Tensor forward(Tensor output, Tensor input) {
            List<Tensor> answers = new ArrayList<>();
            for (Segment s : segments) {
                SublayerAdapter adapter = adapters.get(s.adapter);
                answers.add(adapter == null ? s.of(output) : adapter.forward(s.of(output), s.of(input)));
            }
            return Functional.concat(answers, 0);
        }

        @Override
        public void close() {}
    }
}
