package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// The common part of the prompt methods: parameters under `prompt_encoder.NAME.`, from which each forward pass
/// computes a prompt (P, width), and peft's file format, which holds only the finished prompt.
///
/// If an encoder computes the prompt, peft's file does not include the encoder. An adapter loaded from it uses the
/// finished prompt; what further training needs is in [#trainingTensors], which Loran saves as well. Without them,
/// training is refused.
abstract class PromptTuner extends Tuner {
    private static final String FILE_KEY = "prompt_embeddings";

    private final Map<String, Tensor> encoder = new LinkedHashMap<>();
    private @Nullable Tensor finished;
    private int versionsAtLoad;

    private final Heads trained;

    PromptTuner(PeftConfig config, Attachment to, List<String> modulesToSave) {
        super(config, to);
        trained = Heads.of(modulesToSave, config.taskType());
        trained.place(this);
    }

    /// Registers the encoder's parameter `name`, such as `embedding.weight`.
    final Tensor encoderParameter(String name, Tensor value) {
        encoder.put(name, value.detachFromScope());
        return value;
    }

    /// Registers a linear layer's parameters, initialized as in torch: U(±1/√in).
    final Linear encoderLinear(String name, int in, int out) {
        double bound = 1 / Math.sqrt(in);
        return new Linear(
                encoderParameter(name + ".weight", uniform(bound, out, in)),
                encoderParameter(name + ".bias", uniform(bound, out)),
                false);
    }

    final Tensor uniform(double bound, int... dims) {
        return Tensor.uniform(attachment().backend(), type(), attachment().random(), bound, dims);
    }

    final Tensor normal(double std, int... dims) {
        return Tensor.randn(attachment().backend(), type(), attachment().random(), std, dims);
    }

    /// The type of the encoder's parameters and computation.
    final DType type() {
        return attachment().model().dtype().accumulator();
    }

    /// Whether the prompt is itself the only parameter, so that peft's file is complete.
    private boolean isDirect() {
        return encoder.size() == 1;
    }

    /// Computes the prompt (P, width) from the encoder's parameters, differentiably.
    abstract Tensor encode();

    /// The prompt for this forward pass, in the model's type.
    final Tensor prompt() {
        return Functional.cast(promptAsMade(), attachment().model().dtype());
    }

    private Tensor promptAsMade() {
        Tensor fromFile = finished();
        if (fromFile == null) {
            return encode();
        }
        if (attachment().model().isTraining()) {
            throw new InputException(
                    "this " + config().peftType() + " adapter was loaded from peft's file, which holds the finished "
                            + "prompt without the encoder that made it; it can answer but not be trained further");
        }
        return fromFile;
    }

    /// A view of the finished prompt, or null once the encoder has changed. Synchronized because several threads may
    /// discover the change at once.
    private synchronized @Nullable Tensor finished() {
        if (finished != null && versions() != versionsAtLoad) {
            finished.close();
            finished = null;
        }
        return finished == null ? null : finished.detach();
    }

    private int versions() {
        return encoder.values().stream().mapToInt(Tensor::version).sum();
    }

    @Override
    protected String prefix() {
        return "base_model.";
    }

    @Override
    public Map<String, Tensor> parameters() {
        Map<String, Tensor> all = super.parameters();
        encoder.forEach((name, t) -> all.put("prompt_encoder." + attachment().name() + "." + name, t));
        return all;
    }

    @Override
    public Map<String, Tensor> fileTensors() {
        Map<String, Tensor> all = super.fileTensors();
        if (isDirect()) {
            all.put(FILE_KEY, encoder.values().iterator().next());
        } else {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                all.put(
                        FILE_KEY,
                        scope.keep(finished == null || versions() != versionsAtLoad ? encode() : finished.detach()));
            }
        }
        return all;
    }

    @Override
    public Map<String, Tensor> trainingTensors() {
        return isDirect() || finished != null && versions() == versionsAtLoad ? Map.of() : Map.copyOf(encoder);
    }

    @Override
    public void load(Map<String, Tensor> values) {
        Map<String, Tensor> rest = new LinkedHashMap<>(values);
        Tensor prompt = Objects.requireNonNull(rest.remove(FILE_KEY));
        if (isDirect()) {
            super.load(values);
            return;
        }
        loadPlaced(rest);
        finished = Tensor.own(
                        prompt.shape(),
                        prompt.backend().allocate(prompt.dtype(), prompt.shape().size()))
                .copyFrom(prompt);
        versionsAtLoad = versions();
    }

    @Override
    public void loadTraining(Map<String, Tensor> values, String file) {
        boolean fits = values.keySet().equals(encoder.keySet())
                && values.entrySet().stream()
                        .allMatch(e -> e.getValue()
                                .shape()
                                .equals(Objects.requireNonNull(encoder.get(e.getKey()))
                                        .shape()));
        if (!fits) {
            throw new InputException(file + ": holds " + values.keySet() + " but this encoder has " + encoder.keySet()
                    + ", or a shape differs; the file belongs to another adapter");
        }
        // Increments the versions, so that from now on the encoder computes the prompt.
        encoder.forEach((name, t) -> t.copyFrom(Objects.requireNonNull(values.get(name))));
    }

    /// Writes the fields that peft fills in from the model.
    final ObjectNode sizes(ObjectNode n, int numVirtualTokens, int tokenDim, int layers, int heads) {
        ConfigJson.put(n, "modules_to_save", trained.names().isEmpty() ? null : trained.names());
        n.put("num_attention_heads", heads);
        n.put("num_layers", layers);
        n.put("num_transformer_submodules", 1);
        n.put("num_virtual_tokens", numVirtualTokens);
        n.put("token_dim", tokenDim);
        return n;
    }

    /// Checks a file's data about the model it was made for.
    static void checkSizes(@Nullable Integer tokenDim, int width, @Nullable Integer layers, Model model) {
        if (tokenDim != null && tokenDim != width) {
            throw new InputException("token_dim is " + tokenDim + " but the model needs " + width
                    + "; the adapter was made for another base model");
        }
        if (layers != null && layers != model.facts().numLayers()) {
            throw new InputException("num_layers is " + layers + " but the model has "
                    + model.facts().numLayers() + "; the adapter was made for another base model");
        }
    }

    static void checkTokens(String config, int numVirtualTokens) {
        if (numVirtualTokens < 1) {
            throw new InputException(config + ": num_virtual_tokens is " + numVirtualTokens + ", must be at least 1");
        }
    }

    /// Checks that the model has room for the prompt and at least one token.
    final void checkRoom(int numVirtualTokens) {
        int room = attachment().model().facts().maxPositions();
        if (numVirtualTokens >= room) {
            throw new InputException(
                    "num_virtual_tokens is " + numVirtualTokens + " but the model has " + room + " positions");
        }
    }

    @Override
    public void close() {
        super.close();
        encoder.values().forEach(Tensor::close);
        if (finished != null) {
            finished.close();
        }
    }
}
