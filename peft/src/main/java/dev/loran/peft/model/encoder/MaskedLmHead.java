package dev.loran.peft.model.encoder;

import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.HfConfig;
import java.nio.file.Path;

/// BERT's pretraining head for masked tokens: `BertForMaskedLM`. It is used with a [BertModel], which is always the
/// encoder alone, and is neither adapted nor trained; it shows how an adapter of the encoder changes the predictions.
///
/// ```java
/// try (MaskedLmHead head = MaskedLmHead.load(folder, bert); Scope scope = Scope.open()) {
///     Tensor logits = head.logits(bert.hidden(ids, mask));         // (B, T, vocab)
/// }
/// ```
public final class MaskedLmHead implements AutoCloseable {
    private static final String PREFIX = "cls.predictions.";

    private final BertModel model;
    private final UnaryFn activation;
    private final Tensor dense;
    private final Tensor denseBias;
    private final Tensor normWeight;
    private final Tensor normBias;
    private final Tensor bias;

    private MaskedLmHead(BertModel model, Path folder, SafeTensors files) {
        this.model = model;
        activation = HfConfig.activation(model.config().hiddenAct());
        int hidden = model.facts().hiddenSize();
        dense = read(folder, files, "transform.dense.weight", hidden, hidden);
        denseBias = read(folder, files, "transform.dense.bias", hidden);
        normWeight = read(folder, files, "transform.LayerNorm.weight", hidden);
        normBias = read(folder, files, "transform.LayerNorm.bias", hidden);
        bias = read(folder, files, "bias", model.facts().vocabSize());
    }

    /// Reads the head from `folder`, the folder of the model or of its base. Its output layer is the model's own token
    /// table.
    ///
    /// @throws InputException if the folder holds no such head, or one of another model
    public static MaskedLmHead load(Path folder, BertModel model) {
        try (SafeTensors files = SafeTensors.openModel(folder);
                Scope scope = Scope.open()) {
            return new MaskedLmHead(model, folder, files);
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    private Tensor read(Path folder, SafeTensors files, String name, int... dims) {
        String key = PREFIX + name;
        if (!files.names().contains(key)) {
            throw new InputException(folder + ": tensor " + key + " is missing; a folder of BertForMaskedLM holds it");
        }
        Shape shape = Shape.of(dims);
        if (!files.entry(key).shape().equals(shape)) {
            throw new InputException(
                    folder + ": tensor " + key + " is " + files.entry(key).shape() + " but the model needs " + shape);
        }
        return files.copy(model.backend(), key, model.dtype()).detachFromScope();
    }

    /// The scores of all tokens at each position, (B, T, V), from hidden states (B, T, C).
    public Tensor logits(Tensor hidden) {
        DType type = hidden.dtype();
        try (Scope scope = Scope.open()) {
            Tensor x = Functional.unary(activation, Functional.linear(hidden, dense, denseBias));
            Tensor normed =
                    Functional.layerNorm(x, normWeight, normBias, model.config().layerNormEps());
            Tensor table = Functional.cast(model.tokenEmbedding().weight(), type);
            return scope.keep(Functional.linear(normed, table, bias));
        }
    }

    @Override
    public void close() {
        dense.close();
        denseBias.close();
        normWeight.close();
        normBias.close();
        bias.close();
    }
}
