package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// Adapters merged into the weights of a model, and the buffers that were replaced: restoring those brings back every
/// bit, in any type, whether mapped or prepared. Only the parameters that the adapters change have two buffers.
final class MergedWeights {
    /// The merged values, computed from the adapters in the model's slots: a new buffer for each parameter that
    /// changes.
    private final Map<Tensor, Buffer> next = new LinkedHashMap<>();

    private final Map<Tensor, Buffer> replaced = new LinkedHashMap<>();
    private final List<MergeReport.Change> changes = new ArrayList<>();

    /// A head that shares the table of token embeddings, and the separate weight that it gets when only one of the two
    /// changes.
    private record Untied(Linear head, Tensor table, Tensor own) {}

    private final Model model;
    private final @Nullable Untied untied;
    private final String adapters;
    private final DType dtype;

    private MergedWeights(Model model, List<Tuner> active, DType dtype) {
        this.model = model;
        this.adapters = String.join(", ", active.stream().map(Tuner::title).toList());
        this.dtype = dtype;
        this.untied = untied(model);
    }

    private static @Nullable Untied untied(Model model) {
        Linear head = Heads.tiedHead(model);
        if (head == null
                || keepsTie(head.adapter()) && keepsTie(model.tokenEmbedding().adapter())) {
            return null;
        }
        Tensor table = head.weight();
        Tensor own = Tensor.empty(table.backend(), table.dtype(), table.shape().dims())
                .detachFromScope();
        return new Untied(head, table, own);
    }

    private static boolean keepsTie(@Nullable Adapter<?> adapter) {
        return adapter == null || adapter instanceof Mergeable<?> mergeable && mergeable.keepsTies();
    }

    /// What merging the active adapters into weights of `dtype` would change; nothing is written.
    static MergeReport forecast(Model model, List<Tuner> active, DType dtype) {
        MergedWeights plan = new MergedWeights(model, active, dtype);
        try {
            plan.check();
            plan.visitLayers(false);
            return plan.report();
        } finally {
            plan.closeUntied();
        }
    }

    /// Computes the merged weights for `active`, which are in the model's slots; [#write] puts them into the model.
    ///
    /// @throws InputException if one of them cannot be merged
    static MergedWeights of(Model model, List<Tuner> active) {
        MergedWeights plan = new MergedWeights(model, active, model.dtype());
        boolean done = false;
        try {
            plan.check();
            plan.visitLayers(true);
            for (Tuner tuner : active) {
                tuner.baseTensors().values().forEach(t -> plan.next.computeIfAbsent(t, plan::copy));
            }
            done = true;
            return plan;
        } finally {
            if (!done) {
                plan.next.values().forEach(Buffer::release);
                plan.closeUntied();
            }
        }
    }

    private void closeUntied() {
        if (untied != null) {
            untied.own.close();
        }
    }

    private Buffer copy(Tensor t) {
        Buffer copy = t.backend().allocate(dtype, t.shape().size());
        t.backend().cast(copy, t.buffer());
        return copy;
    }

    private void check() {
        for (Block block : model.blocks()) {
            if (block.afterAttention() != null || block.afterFeedForward() != null) {
                throw refusal("a network behind the sublayers is no weight");
            }
        }
        if (model.prefixes() != null) {
            throw refusal("a prefix of keys and values is no weight");
        }
        if (model.virtualTokens() != null) {
            throw refusal("virtual tokens are no weight");
        }
    }

    private InputException refusal(String reason) {
        return new InputException(
                "merge: adapter " + adapters + " cannot be merged: " + reason + "; save the adapter beside the model");
    }

    private void visitLayers(boolean keep) {
        Targets.candidates(model).forEach((module, layer) -> visit(module, layer, keep));
    }

    private <L extends Layer> void visit(String module, AdaptedLayer<L> layer, boolean keep) {
        Adapter<? super L> adapter = layer.adapter();
        if (adapter == null) {
            return;
        }
        layer.adapter(null);
        Map<String, Tensor> own = layer.namedParameters();
        layer.adapter(adapter);
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Merge merge = new Merge();
            merge(module, layer.self(), adapter, merge);
            own.forEach((local, parameter) -> {
                Tensor value = merge.values().get(parameter);
                if (value != null) {
                    String name = module + "." + local;
                    changes.add(MergeReport.Change.of(name, Merge.wide(parameter), value, dtype));
                    if (keep) {
                        Buffer rounded = parameter
                                .backend()
                                .allocate(dtype, value.shape().size());
                        next.put(untied != null && layer == untied.head ? untied.own : parameter, rounded);
                        parameter.backend().cast(rounded, value.buffer());
                    }
                }
            });
        }
    }

    private <L extends Layer> void merge(String module, L layer, Adapter<? super L> adapter, Merge merge) {
        switch (adapter) {
            case Mergeable<? super L> mergeable -> mergeable.merge(layer, merge);
            case Slots.Terms<? super L> sum -> {
                for (Adapter<? super L> term : sum.terms()) {
                    merge(module, layer, term, merge);
                }
            }
            default -> throw refusal("what stands on " + module + " is not Mergeable");
        }
    }

    MergeReport report() {
        return new MergeReport(dtype, changes);
    }

    /// Installs the new buffers and keeps the old ones; a prepared weight is prepared again. The slots must be empty.
    void write() {
        boolean done = false;
        try {
            untie();
            for (Tensor parameter : List.copyOf(next.keySet())) {
                Buffer before = parameter.buffer().retain();
                parameter.assign(parameter.shape(), Objects.requireNonNull(next.remove(parameter)));
                replaced.put(parameter, before);
                if (!before.isRowMajor()) {
                    parameter.prepare();
                }
            }
            done = true;
        } finally {
            if (!done) {
                undo();
            }
        }
    }

    private void untie() {
        if (untied != null) {
            try (Tensor rows = Residual.rowMajor(untied.table)) {
                untied.own.copyFrom(rows);
            }
            untied.head.weight(untied.own);
            if (!untied.table.buffer().isRowMajor()) {
                untied.own.prepare();
            }
        }
    }

    /// Restores the old buffers, and the tie between a head and its table.
    void undo() {
        if (untied != null) {
            untied.head.weight(untied.table);
        }
        replaced.forEach((parameter, before) -> parameter.assign(parameter.shape(), before));
        drop();
        closeUntied();
    }

    /// Makes the merge final by releasing the old buffers.
    void keep() {
        replaced.values().forEach(Buffer::release);
        drop();
    }

    private void drop() {
        replaced.clear();
        next.values().forEach(Buffer::release);
        next.clear();
    }
}
