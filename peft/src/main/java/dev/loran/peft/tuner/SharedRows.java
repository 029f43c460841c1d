package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.util.List;
import java.util.function.IntFunction;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The same rows run through one frozen model with several adapters at once, in training too: each adapter sees its own
/// copy of the rows, and each product with a frozen weight is one product for all copies. Everything below the first
/// layer that any of them adapts runs only once.
///
/// For each adapter, results and gradients are the same as with that adapter alone; on a linear layer with LoRA, bit
/// for bit where the backend's products do not depend on the number of rows.
public final class SharedRows {
    private final Model model;
    private final List<Tuner> tuners;

    /// @param adapters each with one adapter, all on the same model
    /// @throws InputException if they adapt the table of token embeddings, take positions from the text (virtual
    ///     tokens, prefixes), or train tensors of the base
    public SharedRows(Model model, List<PeftModel> adapters) {
        this.model = model;
        this.tuners = adapters.stream().map(PeftModel::active).toList();
        for (Tuner tuner : tuners) {
            requireShareable(tuner);
        }
    }

    private void requireShareable(Tuner tuner) {
        String why = null;
        if (tuner.virtualTokens() > 0) {
            why = "puts positions before the text";
        } else if (!tuner.baseTensors().isEmpty()) {
            why = "trains tensors of the base itself";
        } else if (tuner.placements().stream().anyMatch(p -> p.layer() == model.tokenEmbedding())) {
            why = "adapts the table of token embeddings";
        }
        if (why != null) {
            throw new InputException("method " + tuner.config().peftType() + " " + why
                    + ", so it cannot share a pass over the base with others; train it in a run of its own");
        }
    }

    /// What `heads` computes for each adapter, from the hidden states of a batch: while it runs for an adapter, that
    /// adapter is the active one and [Model#hidden(Tensor, Tensor, Tensor)] returns the hidden states that it gives.
    /// For the other arguments, see there.
    public List<Tensor> forward(
            Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes, IntFunction<Tensor> heads) {
        int rows = inputIds.shape().dim(0);
        Tensor all = together(rows, () -> model.hidden(inputIds, attentionMask, tokenTypes));
        return IntStream.range(0, tuners.size())
                .mapToObj(i -> Slot.callEmpty(() -> {
                    tuners.get(i).activate();
                    model.knownHidden(all.slice(0, i * rows, (i + 1) * rows));
                    return heads.apply(i);
                }))
                .toList();
    }

    /// Runs `work` while every adapter acts on its own copy of `rows` rows, as in [#forward]. Backward needs it if it
    /// runs parts of the model again (gradient checkpointing).
    public <T> T together(int rows, Supplier<T> work) {
        return Slot.callEmpty(() -> {
            MixedBatch batch = new MixedBatch(model, tuners, rows);
            batch.fill();
            model.repeatRows(tuners.size(), batch.firstBlock());
            return work.get();
        });
    }
}
