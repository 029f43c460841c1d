package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.Function;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A layer trained in full beside its frozen original: peft's `modules_to_save`, for example a classification head or
/// the table of token embeddings. It is of the same kind as the original, in full precision.
final class ModulesToSave<L extends AdaptedLayer<L>> implements Mergeable<L> {
    /// How the layer's own parameters are treated.
    private enum Role {
        /// They are trained.
        TRAINED,
        /// They belong to another layer, which trains them; files hold them under both names.
        TIED,
        /// They were read from a file and are not changed.
        GIVEN
    }

    private final L own;
    private final Map<String, Tensor> originals;
    private final String prefix;
    private final Role role;
    private boolean isFollowed;

    /// @param original without an adapter
    private ModulesToSave(L original, L own, String prefix, Role role) {
        this.own = own;
        this.originals = original.namedParameters();
        this.prefix = prefix;
        this.role = role;
    }

    /// Initializes the parameters like those of a new head: [Weights#drawHead].
    void draw(RandomGenerator random) {
        Weights.drawHead(parameters().getFirst(), random);
    }

    /// Adds a trained copy of `layer` to `tuner`. `module` is the module trained in full, and `below` is the layer's
    /// name inside it, or empty if the layer is that module itself.
    ///
    /// @return the copy
    static ModulesToSave<?> place(Tuner tuner, String module, String below, AdaptedLayer<?> layer) {
        String prefix = "modules_to_save." + tuner.attachment().name() + "." + (below.isEmpty() ? "" : below + ".");
        return switch (layer) {
            case Linear l ->
                put(
                        tuner,
                        module,
                        l,
                        new Linear(copy(l.weight()), copyOrNull(l.bias()), l.fanInFanOut()),
                        prefix,
                        Role.TRAINED);
            case Embedding e -> put(tuner, module, e, new Embedding(copy(e.weight()), e.dtype()), prefix, Role.TRAINED);
            case LayerNorm n ->
                put(
                        tuner,
                        module,
                        n,
                        new LayerNorm(copy(n.weight()), copyOrNull(n.bias()), n.eps()),
                        prefix,
                        Role.TRAINED);
            case RmsNorm n -> put(tuner, module, n, n.with(copy(n.weight())), prefix, Role.TRAINED);
            default ->
                throw new InputException(
                        "modules_to_save: " + module + " is a layer of its own kind and cannot be copied");
        };
    }

    /// Makes `head`, whose weight is that of the table, share this copy of the table.
    void placeTied(Tuner tuner, String module, Linear head) {
        isFollowed = true;
        String name = "modules_to_save." + tuner.attachment().name() + ".";
        Linear same = new Linear(parameters().getFirst(), null, false);
        put(tuner, module, head, same, name, Role.TIED).isFollowed = true;
    }

    /// Adds a table or head that a file holds for `layer` and that is not trained; a head tied to the table shares it.
    static void placeGiven(Tuner tuner, String module, AdaptedLayer<?> layer) {
        String name = "modules_to_save." + tuner.attachment().name() + ".";
        switch (layer) {
            case Embedding e -> put(tuner, module, e, new Embedding(copy(e.weight()), e.dtype()), name, Role.GIVEN);
            case Linear l ->
                put(tuner, module, l, new Linear(copy(l.weight()), copyOrNull(l.bias()), false), name, Role.GIVEN);
            default -> throw new IllegalStateException(module + " is no table and no head");
        }
    }

    private static <L extends AdaptedLayer<L>> ModulesToSave<L> put(
            Tuner tuner, String module, L layer, L own, String prefix, Role role) {
        ModulesToSave<L> placed = new ModulesToSave<>(layer, own, prefix, role);
        tuner.place(module, layer, placed);
        return placed;
    }

    private static Tensor copy(Tensor original) {
        return Merge.wide(original).detachFromScope();
    }

    private static @Nullable Tensor copyOrNull(@Nullable Tensor original) {
        return original == null ? null : copy(original);
    }

    @Override
    public Tensor forward(L base, Tensor x) {
        return own.base(x);
    }

    @Override
    public @Nullable Projection projection(L base, DType type) {
        return own instanceof Linear linear ? linear.projection(type) : null;
    }

    @Override
    public void merge(L base, Merge merge) {
        if (role == Role.TIED) {
            return;
        }
        own.namedParameters()
                .forEach((name, tensor) ->
                        merge.put(Objects.requireNonNull(originals.get(name), name), Merge.wide(tensor)));
    }

    @Override
    public boolean keepsTies() {
        return isFollowed;
    }

    /// The layer's parameters, in the order of their names in the layer.
    List<Tensor> parameters() {
        return List.copyOf(own.namedParameters().values());
    }

    @Override
    public void collect(BiConsumer<String, Tensor> visitor) {
        if (role == Role.TRAINED) {
            own.namedParameters().forEach((name, tensor) -> visitor.accept(prefix + name, tensor));
        }
    }

    /// The tensors that files hold, in the files' layout; tensors created for this belong to the caller's scope.
    void collectFiles(BiConsumer<String, Tensor> visitor) {
        own.namedParameters()
                .forEach((name, tensor) -> visitor.accept(
                        prefix + name, isTransposed(name) ? tensor.detach().transpose(0, 1) : tensor));
    }

    /// Whether the parameters belong to another layer, so that files need not repeat them.
    boolean isTied() {
        return role == Role.TIED;
    }

    /// Whether the parameters were read from a file.
    boolean isGiven() {
        return role == Role.GIVEN;
    }

    /// Copies the values that a file holds, by the names of [#collectFiles].
    void load(Function<String, Tensor> values) {
        if (role == Role.TIED) {
            return;
        }
        own.namedParameters().forEach((name, tensor) -> {
            Tensor value = values.apply(prefix + name);
            tensor.copyFrom(isTransposed(name) ? value.transpose(0, 1) : value);
        });
    }

    /// Whether files hold the parameter transposed.
    private boolean isTransposed(String name) {
        return own instanceof Linear linear && linear.fanInFanOut() && name.equals("weight");
    }

    @Override
    public String baseName() {
        return "original_module";
    }

    @Override
    public void close() {
        if (role != Role.TIED) {
            own.close();
        }
    }
}
