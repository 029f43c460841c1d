package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Target;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// A batch in the memory of a model's backend: the input of a [Head]. When a recorded step is replayed, another batch
/// of the same shape is written over it. A head therefore reads nothing back, and gets values that depend on the
/// batch's arrays from [#derived].
public final class Feed implements AutoCloseable {
    private final Model model;
    private final Tensor ids;
    /// Null if nothing is padded.
    private final @Nullable Tensor mask;
    /// Null if all are 0, or if the model does not use them.
    private final @Nullable Tensor tokenTypes;

    private final List<Tensor> targets = new ArrayList<>();
    private final Map<String, Derived> derived = new LinkedHashMap<>();
    private Batch batch;
    private boolean outlives;

    private record Derived(Tensor tensor, Function<Batch, double[]> values) {}

    /// The tensors belong to the open scope, unless [#outliving] is called within it.
    public Feed(Model model, Batch batch) {
        this.model = model;
        this.batch = batch;
        int b = batch.batchSize();
        int t = batch.length();
        ids = Tensor.ofInts(backend(), batch.inputIds(), b, t);
        mask = mask(batch);
        tokenTypes = batch.tokenTypes() == null || model.tokenTypes() == 1
                ? null
                : Tensor.ofInts(backend(), known(batch.tokenTypes()), b, t);
        batch.targets().forEach(target -> targets.add(tensor(target)));
    }

    private Tensor tensor(Target target) {
        return switch (target) {
            case Target.Ints(int[] values, int[] dims) -> Tensor.ofInts(backend(), values, dims);
            case Target.Floats(float[] values, int[] dims) ->
                Tensor.of(backend(), model.dtype().accumulator(), doubles(values), dims);
        };
    }

    private @Nullable Tensor mask(Batch of) {
        if (of.isPacked()) {
            return Tensor.ofInts(backend(), packed(of), of.batchSize(), 2, of.length());
        }
        return of.tokens() == of.inputIds().length
                ? null
                : Tensor.ofInts(backend(), of.attentionMask(), of.batchSize(), of.length());
    }

    /// (B, 2, T) the numbers of the texts, and the positions in them.
    private static int[] packed(Batch of) {
        int t = of.length();
        int[] positions = of.positions();
        int[] both = new int[2 * positions.length];
        for (int b = 0; b < of.batchSize(); b++) {
            System.arraycopy(of.attentionMask(), b * t, both, 2 * b * t, t);
            System.arraycopy(positions, b * t, both, (2 * b + 1) * t, t);
        }
        return both;
    }

    private static double[] doubles(float[] values) {
        double[] wide = new double[values.length];
        for (int i = 0; i < wide.length; i++) {
            wide[i] = values[i];
        }
        return wide;
    }

    private int[] known(int[] types) {
        int last = Arrays.stream(types).max().orElse(0);
        if (last >= model.tokenTypes()) {
            throw new InputException("the tokenizer makes tokens of type " + last + ", but " + model.title() + " has "
                    + model.tokenTypes() + " types; use the tokenizer that belongs to it");
        }
        return types;
    }

    private Backend backend() {
        return model.backend();
    }

    // ---- inputs of a head

    public Model model() {
        return model;
    }

    /// (B, T) token ids, I32.
    public Tensor ids() {
        return ids;
    }

    /// (B, T) 1 for a token, 0 for padding, or (B, 2, T) for packed rows, as in
    /// [dev.loran.peft.model.Transformer#hidden]; null if nothing is padded.
    public @Nullable Tensor mask() {
        return mask;
    }

    /// (B, T) the types of the tokens; null if all are 0, or if the model does not use them.
    public @Nullable Tensor tokenTypes() {
        return tokenTypes;
    }

    /// The target of the loss: [Batch#targets], I32 or in the model's accumulator type.
    public Tensor target(int which) {
        return targets.get(which);
    }

    /// The number of targets.
    public int targets() {
        return targets.size();
    }

    /// The model's hidden states, (B, P + T, C), after P virtual tokens.
    public Tensor hidden() {
        return model.hidden(ids, mask, tokenTypes);
    }

    /// Values that are computed from the arrays of the batch, in the model's type; computed once per batch.
    ///
    /// @param name identifies these values within the head
    /// @param values computes them, in row-major order
    public Tensor derived(String name, Function<Batch, double[]> values, int... dims) {
        Derived known = derived.get(name);
        if (known == null) {
            Tensor t = Tensor.of(backend(), model.dtype(), values.apply(batch), dims);
            if (!outlives) {
                return t;
            }
            known = new Derived(t.detachFromScope(), values);
            derived.put(name, known);
        }
        return known.tensor;
    }

    // ---- use for several batches

    /// Keeps the tensors until this is closed, not until the scope ends.
    public Feed outliving() {
        all().forEach(Tensor::detachFromScope);
        outlives = true;
        return this;
    }

    /// Overwrites this feed with another batch of the same shape.
    public void write(Batch next) {
        batch = next;
        overwrite(ids, next.inputIds());
        for (int i = 0; i < targets.size(); i++) {
            switch (next.targets().get(i)) {
                case Target.Ints ints -> overwrite(targets.get(i), ints.values());
                case Target.Floats floats -> overwrite(targets.get(i), doubles(floats.values()));
            }
        }
        if (mask != null) {
            overwrite(mask, next.isPacked() ? packed(next) : next.attentionMask());
        }
        if (tokenTypes != null && next.tokenTypes() != null) {
            overwrite(tokenTypes, known(next.tokenTypes()));
        }
        derived.values().forEach(d -> overwrite(d.tensor, d.values.apply(next)));
    }

    private static void overwrite(Tensor to, int[] values) {
        to.backend().write(to.buffer(), MemorySegment.ofArray(values));
        to.markWritten();
    }

    private static void overwrite(Tensor to, double[] values) {
        try (Tensor next =
                Tensor.of(to.backend(), to.dtype(), values, to.shape().dims())) {
            to.copyFrom(next);
        }
    }

    private List<Tensor> all() {
        List<Tensor> all = new ArrayList<>(targets);
        all.add(ids);
        if (mask != null) {
            all.add(mask);
        }
        if (tokenTypes != null) {
            all.add(tokenTypes);
        }
        derived.values().forEach(d -> all.add(d.tensor));
        return all;
    }

    @Override
    public void close() {
        all().forEach(Tensor::close);
    }
}
