package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.util.Arrays;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.function.BiFunction;
import java.util.function.BinaryOperator;
import java.util.function.Function;
import java.util.stream.IntStream;

/// Selected rows of a table (V, C), trained in full: `trainable_token_indices`. The parameters are the replacement rows
/// (k, C) themselves, not their differences, and are initialized to the rows they replace. A head tied to the table
/// uses them too.
///
/// With S (V, k) the one-hot matrix that has a 1 where token i is row j of the replacements D, and W_t the k replaced
/// rows, the adapted table is W + S·(D − W_t); only the requested rows are computed.
final class TrainableTokens {
    /// Stands for the table of token embeddings, whatever its name in the family.
    static final String INPUT = "";

    private final String name;
    private final int[] indices;
    private final Tensor rows;
    private final Tensor select;
    /// W_t, for version `replacedOf` of W.
    private final Tensor replaced;

    private int replacedOf;
    /// Whether a head tied to the table uses the same rows.
    private boolean isFollowed;

    /// @param weight the table (V, C), of an embedding or of a head
    /// @param name the adapter's name
    private TrainableTokens(String module, Tensor weight, int[] indices, String name) {
        int v = weight.shape().dim(0);
        Set<Integer> seen = new HashSet<>();
        for (int token : indices) {
            if (token < 0 || token >= v) {
                throw new InputException(
                        "trainable_token_indices: " + token + " is no row of " + module + ", which has " + v);
            }
            if (!seen.add(token)) {
                throw new InputException("trainable_token_indices: " + token + " stands there twice");
            }
        }
        this.name = name;
        this.indices = indices;
        int k = indices.length;
        double[] units = new double[Math.multiplyExact(v, k)];
        for (int j = 0; j < k; j++) {
            units[indices[j] * k + j] = 1;
        }
        select = Tensor.of(weight.backend(), weight.dtype(), units, v, k).detachFromScope();
        DType wide = weight.dtype().accumulator();
        int cols = weight.shape().dim(1);
        replaced = Tensor.zeros(weight.backend(), wide, k, cols).detachFromScope();
        rows = Tensor.zeros(weight.backend(), wide, k, cols).detachFromScope();
        read(weight);
        rows.copyFrom(replaced);
    }

    private void read(Tensor weight) {
        try (Tensor w = Residual.rowMajor(weight);
                Tensor ids = Tensor.ofInts(w.backend(), indices, indices.length);
                Tensor found = Functional.embedding(w, ids)) {
            replaced.copyFrom(found);
        }
        replacedOf = weight.version();
    }

    /// D − W_t (k, C) in the weight's type.
    private synchronized Tensor change(Tensor weight) {
        if (replacedOf != weight.version()) {
            read(weight);
        }
        return Functional.cast(rows.sub(replaced), select.dtype());
    }

    /// W with the rows replaced.
    private void merge(Tensor weight, Merge merge) {
        Tensor w = merge.value(weight);
        int v = w.shape().dim(0);
        int[] order = IntStream.range(0, v).toArray();
        for (int j = 0; j < indices.length; j++) {
            order[indices[j]] = v + j;
        }
        Tensor all = Functional.concat(List.of(w, Merge.wide(rows)), 0);
        merge.put(weight, Functional.embedding(all, Tensor.ofInts(w.backend(), order, v)));
    }

    /// The replacements' contribution to the output of a table.
    private Tensor ofTable(Tensor ids, Tensor change) {
        return Functional.embedding(select, ids).matmul(change);
    }

    /// The replacements' contribution to the output of a head.
    private Tensor ofHead(Tensor x, Tensor change) {
        return Functional.linear(Functional.linear(x, change, null), select, null);
    }

    /// The replacements at one layer.
    ///
    /// @param isOwner whether the tensors are saved, merged and closed with this layer rather than with the one it is
    ///     tied to
    /// @param term the contribution to the layer's own output, from its argument and [#change]
    private record Part<L extends Layer>(
            TrainableTokens tokens,
            boolean isOwner,
            Function<L, Tensor> weight,
            BinaryOperator<Tensor> term,
            BiFunction<L, Tensor, Tensor> adapted)
            implements AroundLayer<L>, Mergeable<L> {
        @Override
        public Tensor forward(L base, Tensor x) {
            return adapted.apply(base, x);
        }

        @Override
        public Tensor after(L base, Tensor x, Tensor y) {
            return y.add(term.apply(x, tokens.change(weight.apply(base))));
        }

        @Override
        public void merge(L base, Merge merge) {
            if (isOwner) {
                tokens.merge(weight.apply(base), merge);
            }
        }

        @Override
        public boolean keepsTies() {
            return tokens.isFollowed;
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            if (isOwner) {
                visitor.accept("token_adapter.trainable_tokens_delta." + tokens.name, tokens.rows);
            }
        }

        @Override
        public String baseName() {
            return "token_adapter.base_layer";
        }

        @Override
        public void close() {
            if (isOwner) {
                tokens.close();
            }
        }
    }

    private void close() {
        rows.close();
        select.close();
        replaced.close();
    }

    /// Places the rows in `wanted`: token ids by the name of a table or a head, [#INPUT] for the table of token
    /// embeddings. A head tied to a table uses the same rows, unless other tokens are requested for it.
    ///
    /// @throws InputException if a name matches no table or head, a token is not one of its rows, or the layer is
    ///     already adapted or trained in full
    static void place(Tuner tuner, Map<String, List<Integer>> wanted) {
        Model model = tuner.attachment().model();
        Map<String, AdaptedLayer<?>> candidates = tuner.attachment().modules();
        Map<String, List<Integer>> byModule = new LinkedHashMap<>();
        wanted.forEach((name, ids) -> byModule.put(find(name, model, candidates), ids));
        IdentityHashMap<Tensor, TrainableTokens> byTable = new IdentityHashMap<>();
        candidates.forEach((module, layer) -> {
            Tensor table = layer instanceof Embedding e ? e.weight() : layer instanceof Linear l ? l.weight() : null;
            List<Integer> ids = byModule.get(module);
            TrainableTokens tied = table == null ? null : byTable.get(table);
            if (tied != null && (ids == null || Arrays.equals(tied.indices, array(ids)))) {
                checkFree(tuner, module, layer);
                tied.put(tuner, module, layer, false);
            } else if (table != null && ids != null) {
                checkFree(tuner, module, layer);
                TrainableTokens own = new TrainableTokens(
                        module, table, array(ids), tuner.attachment().name());
                byTable.putIfAbsent(table, own);
                own.put(tuner, module, layer, true);
            }
        });
    }

    private static void checkFree(Tuner tuner, String module, AdaptedLayer<?> layer) {
        if (tuner.placements().stream().anyMatch(p -> p.layer() == layer)) {
            throw new InputException("trainable_token_indices: " + module
                    + " is adapted or trained whole already; leave it out of target_modules and modules_to_save");
        }
    }

    private static String find(String name, Model model, Map<String, AdaptedLayer<?>> candidates) {
        for (Map.Entry<String, AdaptedLayer<?>> e : candidates.entrySet()) {
            AdaptedLayer<?> layer = e.getValue();
            boolean isNamed = name.equals(INPUT)
                    ? layer == model.tokenEmbedding()
                    : Targets.matching(List.of(name), e.getKey()) != null;
            if (isNamed && (layer instanceof Embedding || layer instanceof Linear)) {
                return e.getKey();
            }
        }
        throw new InputException("trainable_token_indices: " + name
                + " is no table of embeddings and no head (modules: " + String.join(", ", candidates.keySet()) + ")");
    }

    private void put(Tuner tuner, String module, AdaptedLayer<?> layer, boolean isOwner) {
        isFollowed |= !isOwner;
        if (layer instanceof Embedding table) {
            tuner.place(module, table, new Part<>(this, isOwner, Embedding::weight, this::ofTable, this::lookUp));
        } else if (layer instanceof Linear head) {
            tuner.place(module, head, new Part<>(this, isOwner, Linear::weight, this::ofHead, this::logits));
        }
    }

    private Tensor lookUp(Embedding base, Tensor ids) {
        return base.base(ids).add(ofTable(ids, change(base.weight())));
    }

    /// Computed in one pass over the logits, which are large.
    private Tensor logits(Linear base, Tensor x) {
        return Functional.loraLinear(x, base.weight(), base.bias(), change(base.weight()), select, 1, null);
    }

    private static int[] array(List<Integer> ids) {
        return ids.stream().mapToInt(Integer::intValue).toArray();
    }
}
