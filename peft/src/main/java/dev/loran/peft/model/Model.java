package dev.loran.peft.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.Checksums;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// A transformer with its head: its outputs, and the origin of its weights.
public abstract class Model extends Transformer {
    protected static final String HEAD = "lm_head";
    private static final String SCORE = "score";

    private final Family family;
    /// The number of token embeddings before they were resized; 0 if they never were.
    private int rowsBefore;
    private @Nullable Linear classifier;
    private boolean ofTokens;
    private boolean newClassifier;
    private @Nullable Problem problem;
    private List<String> labels = List.of();
    private @Nullable ObjectNode configAsRead;
    private @Nullable Path folder;
    private @Nullable String sha256;
    private @Nullable String nameOrPath;

    /// The sizes that tuners need.
    ///
    /// @param modelType Hugging Face's `model_type`
    /// @param maxPositions the longest sequence, virtual tokens included
    public record Facts(
            String modelType,
            int hiddenSize,
            int numLayers,
            int numHeads,
            int numKvHeads,
            int headDim,
            int vocabSize,
            int maxPositions) {
        public Facts withVocabSize(int rows) {
            return new Facts(modelType, hiddenSize, numLayers, numHeads, numKvHeads, headDim, rows, maxPositions);
        }
    }

    protected Model(Family family) {
        this.family = family;
    }

    public final Family family() {
        return family;
    }

    /// The model's task: classification if it has a [#classifier].
    public final TaskType task() {
        return classifier != null
                ? ofTokens ? TaskType.TOKEN_CLS : TaskType.SEQ_CLS
                : head() == null ? TaskType.FEATURE_EXTRACTION : TaskType.CAUSAL_LM;
    }

    /// The values in the model's `config.json` that determine its computation, except `model_type` and `architectures`;
    /// with the present `vocab_size`.
    public abstract ObjectNode sizes();

    /// The `config.json` that the model was made from; null if it was made from sizes.
    public final @Nullable ObjectNode configAsRead() {
        return configAsRead;
    }

    public final void configAsRead(ObjectNode json) {
        configAsRead = json;
    }

    /// The model's name in messages: the name of the folder it was read from, otherwise its family.
    public final String title() {
        Path name = folder == null ? null : folder.toAbsolutePath().normalize().getFileName();
        return name == null ? facts().modelType() : name.toString();
    }

    /// Identifies the weights: SHA-256 of the file `model.safetensors` that they were read from, or of the files
    /// `model-*.safetensors` concatenated in name order. Null for weights that were not read from files or have changed
    /// since. The files are read on the first call.
    public final @Nullable String sha256() {
        if (sha256 == null && folder != null) {
            sha256 = Checksums.ofWeights(folder);
        }
        return sha256;
    }

    public final void readFrom(Path weights) {
        folder = weights;
        nameOrPath = weights.toString();
    }

    /// The path or name of the model for adapter files (`base_model_name_or_path`): a folder, unless
    /// [#nameOrPath(String)] set a name. Null for weights that were not read from files or have changed since.
    public final @Nullable String nameOrPath() {
        return nameOrPath;
    }

    /// Sets the name by which the model was opened, such as a catalogue name; null if others could not open it.
    public final void nameOrPath(@Nullable String name) {
        nameOrPath = name;
    }

    /// The equivalent class in transformers, such as `LlamaForCausalLM`; null if there is none.
    public final @Nullable String className() {
        List<String> classes = family.classes();
        return classes.isEmpty() ? null : family.title() + (head() == null ? Family.BARE : classes.getFirst());
    }

    /// Records that the weights are no longer those that were read: see [#sha256].
    public final void weightsChanged() {
        folder = null;
        nameOrPath = null;
        sha256 = null;
        newClassifier = false;
    }

    /// The name of `module` in the family's other models. If this model has a head and puts the family's prefix before
    /// the modules below it (`model.`, `transformer.`, `bert.`), it is the name without the prefix; otherwise the name
    /// with it. Modules outside the prefix, such as the head, have the same name in all of them.
    public final String otherName(String module) {
        String prefix = family.prefix();
        boolean hasPrefix = namedModules().keySet().stream().anyMatch(name -> name.startsWith(prefix));
        if (module.startsWith(prefix)) {
            return module.substring(prefix.length());
        }
        return hasPrefix ? module : belowHead(module);
    }

    /// Resizes the table of token embeddings, and the head if there is one, to `rows` rows: transformers'
    /// `resize_token_embeddings`, for tokens that were added to a tokenizer. New rows are the mean of the existing
    /// ones; rows past the end are removed. `vocab_size` is updated. Must be called before an adapter is added.
    ///
    /// @throws IllegalStateException if the table or the head carries an adapter
    public final void resizeTokenEmbeddings(int rows) {
        HfConfig.positive("resizeTokenEmbeddings: rows", rows);
        Linear head = tokenHead();
        if (tokenEmbedding().adapter() != null || head != null && head.adapter() != null) {
            throw new IllegalStateException(
                    "resizeTokenEmbeddings: the table or the head carries an adapter; resize before adding one");
        }
        if (rows == facts().vocabSize()) {
            return;
        }
        rowsBefore = rowsBefore == 0 ? facts().vocabSize() : Math.min(rowsBefore, rows);
        resize(tokenEmbedding().weight(), rows);
        if (head != null && head.weight() != tokenEmbedding().weight()) {
            resize(head.weight(), rows);
        }
    }

    /// The number of rows of the tables that were read, or created with the model: all, unless [#resizeTokenEmbeddings]
    /// added some.
    public final int knownTokenEmbeddings() {
        return isResized() ? Math.min(rowsBefore, facts().vocabSize()) : facts().vocabSize();
    }

    /// Whether [#resizeTokenEmbeddings] changed the tables: adapter files then hold them.
    public final boolean isResized() {
        return rowsBefore > 0;
    }

    /// The head that computes token logits; null if there is none.
    public final @Nullable Linear tokenHead() {
        return namedModules().get(headName()) instanceof Linear head ? head : null;
    }

    /// The head's output if all tokens have type 0; see [TaskType] for its shape.
    public final Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        return logits(inputIds, attentionMask, null);
    }

    /// The head's output; see [TaskType] for its shape.
    ///
    /// @param tokenTypes as in [#hidden(Tensor, Tensor, Tensor)]
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        try (Guard.Use use = reading("logits");
                Scope scope = Scope.open()) {
            Tensor h = hidden(inputIds, attentionMask, tokenTypes);
            return scope.keep(
                    classifier == null
                            ? tokenLogits(h)
                            : classify(classifier, ofTokens ? tokenStates(h) : pooled(h, inputIds, attentionMask)));
        }
    }

    /// The mean loss, a scalar. For [TaskType#CAUSAL_LM] it is the cross-entropy of labels (B, T), aligned with the ids
    /// (the logits at t − 1 are compared with the label at t), with −100 at positions to be ignored; for
    /// [TaskType#TOKEN_CLS] that of labels (B, T), also with −100. For [TaskType#SEQ_CLS] labels (B) in I32 ask for
    /// cross-entropy, others (B, labels), 1 for each label that applies, for [Losses#binaryCrossEntropy], and numbers
    /// (B) for [Losses#squaredError], unless the model's config names another `problem_type`.
    public Tensor loss(Tensor inputIds, @Nullable Tensor attentionMask, Tensor labels) {
        try (Guard.Use use = useOfLoss();
                Scope scope = Scope.open()) {
            return scope.keep(
                    classifier == null
                            ? Losses.nextToken(this, hidden(inputIds, attentionMask), labels)
                            : Losses.classes(logits(inputIds, attentionMask), labels, ofTokens, configAsRead));
        }
    }

    /// Computing a loss only reads, but in training mode it starts a change, and dropout's state is shared.
    final Guard.Use useOfLoss() {
        return isTraining() ? changing("loss") : reading("loss");
    }

    /// The family's name for the head that computes token logits.
    public String headName() {
        return HEAD;
    }

    /// What a causal model's head computes from hidden states (…, C), the token logits (…, V), with the family's
    /// [#logitScale] and [#logitCap].
    final Tensor tokenLogits(Tensor hidden) {
        Tensor logits = requireHead().forward(scaled(hidden));
        return logitCap() == 0
                ? logits
                : Functional.tanh(logits.scale(1 / logitCap())).scale(logitCap());
    }

    final Tensor scaled(Tensor hidden) {
        return logitScale() == 1 ? hidden : hidden.scale(logitScale());
    }

    /// The factor of a causal model's logits.
    protected double logitScale() {
        return 1;
    }

    /// The bound c of a causal model's logits y, which become c · tanh(y / c); 0 for none.
    protected double logitCap() {
        return 0;
    }

    /// The layer that computes a causal model's logits from its hidden states; null if the model is not causal.
    protected abstract @Nullable Linear head();

    /// As above.
    ///
    /// @throws IllegalStateException if the model is not causal
    final Linear requireHead() {
        Linear head = head();
        if (head == null) {
            throw new IllegalStateException(facts().modelType()
                    + ": an encoder without a head has no classes and no next token; load a model with a classifier, or"
                    + " a causal one");
        }
        return head;
    }

    // ---- classification

    /// The layer that computes class scores, named as in the family: `score`, without bias, at the last token of a
    /// causal model; `classifier` after BERT's pooler. Null for a model without classes.
    public final @Nullable Linear classifier() {
        return classifier;
    }

    /// What the outputs of the classification head mean; null without one.
    public final @Nullable Problem problem() {
        if (classifier == null) {
            return null;
        }
        Problem named = problem != null || newClassifier ? problem : Problem.named(configAsRead);
        return named != null ? named : classifier.outFeatures() == 1 ? Problem.REGRESSION : Problem.SINGLE_LABEL;
    }

    /// Whether [#problem] was set or stands in the config, rather than being inferred from the number of outputs.
    public final boolean namesProblem() {
        return problem != null || Problem.named(configAsRead) != null;
    }

    /// Sets what the outputs of the classification head mean, whatever the config says.
    public final void problem(Problem value) {
        problem = value;
    }

    /// Whether the classes are those of tokens, not of texts.
    public final boolean ofTokens() {
        return ofTokens;
    }

    protected final void ofTokens(boolean value) {
        ofTokens = value;
    }

    /// The layers of a new classification head by name: the classifier, and layers before it that are drawn and trained
    /// with it. Empty for a model without classes.
    public Map<String, Linear> headLayers() {
        return classifier == null ? Map.of() : Map.of(classifierName(), classifier);
    }

    /// The names of the classes by id, by default `LABEL_0`, …; empty for a model without classes.
    public final List<String> labels() {
        return labels;
    }

    /// @throws IllegalArgumentException if the number of classes differs
    public final void labels(List<String> names) {
        if (classifier == null || classifier.outFeatures() != names.size()) {
            throw new IllegalArgumentException("labels: " + names + " for "
                    + (classifier == null ? "no classes" : classifier.outFeatures() + " classes"));
        }
        labels = List.copyOf(names);
    }

    /// Adds a new classification head of zeros in place of the language-model head, if there is one; transformers'
    /// `AutoModelForSequenceClassification` initializes it with random numbers instead. All classes are equally likely
    /// until it is trained. The model's config names the classes if it lists as many.
    ///
    /// @throws dev.loran.peft.io.InputException if the model lacks a layer that the head needs
    /// @throws IllegalStateException if there is a classification head
    public final Linear addClassifier(int classes) {
        return addClassifier(TaskType.SEQ_CLS, classes, module -> false);
    }

    /// As above, for classes of texts or of tokens. Modules that the model may lack are created with zeros if the
    /// caller has values for them, as an adapter's file does.
    ///
    /// @param kind [TaskType#SEQ_CLS] or [TaskType#TOKEN_CLS]
    /// @param brought whether there are values for the module of this name
    public final Linear addClassifier(TaskType kind, int classes, Predicate<String> brought) {
        if (classifier != null) {
            throw new IllegalStateException("addClassifier: the model has classes already");
        }
        ofTokens = kind == TaskType.TOKEN_CLS;
        beforeClassifier(brought);
        if (head() != null) {
            removeChild(headName());
        }
        boolean bias = !classifierName().equals(SCORE);
        int hidden = facts().hiddenSize();
        newClassifier = true;
        Linear layer = classifier(new Linear(
                Tensor.zeros(backend(), dtype().accumulator(), classes, hidden),
                bias ? Tensor.zeros(backend(), dtype().accumulator(), classes) : null,
                false));
        JsonNode names = configAsRead == null ? null : configAsRead.get("id2label");
        if (names != null && names.size() == classes) {
            labels = IntStream.range(0, classes)
                    .mapToObj(i -> names.path(String.valueOf(i)).asText())
                    .toList();
        }
        return layer;
    }

    /// Prepares the layers that precede a new classification head.
    ///
    /// @param brought as in [#addClassifier(TaskType, int, Predicate)]
    /// @throws dev.loran.peft.io.InputException if one is missing
    protected void beforeClassifier(Predicate<String> brought) {}

    /// Removes what [#beforeClassifier] created.
    protected void afterClassifier() {}

    /// Whether [#addClassifier] created the classification head and it has not become part of changed weights
    /// ([#weightsChanged]).
    public final boolean hasNewClassifier() {
        return newClassifier;
    }

    /// Removes and closes a new classification head, which restores the model.
    public final void removeClassifier() {
        if (classifier != null && newClassifier) {
            removeChild(classifierName());
            classifier.close();
            classifier = null;
            newClassifier = false;
            problem = null;
            ofTokens = false;
            labels = List.of();
            afterClassifier();
            Linear head = head();
            if (head != null) {
                child(headName(), head);
            }
        }
    }

    /// Makes `layer` the classification head.
    protected final Linear classifier(Linear layer) {
        classifier = child(classifierName(), layer);
        labels = IntStream.range(0, layer.outFeatures())
                .mapToObj(i -> "LABEL_" + i)
                .toList();
        return layer;
    }

    /// The family's name for its classification head.
    public String classifierName() {
        return SCORE;
    }

    /// The name of a module or parameter in the family's model with a head, where everything but the head has the
    /// family's prefix (`bert.`).
    public final String belowHead(String name) {
        return name.startsWith(family.prefix()) || isAboveBase(name) ? name : family.prefix() + name;
    }

    /// Whether a module or parameter is a part of the head.
    protected boolean isAboveBase(String name) {
        String head = classifierName();
        int dot = head.indexOf('.');
        String outermost = dot < 0 ? head : head.substring(0, dot);
        return name.equals(outermost) || name.startsWith(outermost + ".");
    }

    /// The class scores (B, labels) from the classifier's input (B, C).
    ///
    /// @throws IllegalStateException for a model without classes
    public final Tensor classify(Tensor pooled) {
        if (classifier == null) {
            throw new IllegalStateException("classify: the model has no classes");
        }
        return classify(classifier, pooled);
    }

    /// Computed in the accumulator's type: the differences between classes are small, and so is the cost.
    private static Tensor classify(Linear classifier, Tensor pooled) {
        DType type = classifier.weight().dtype();
        return Functional.cast(classifier.forward(Functional.cast(pooled, type)), type.accumulator());
    }

    /// The head's input from hidden states (B, P + T, C): those of the last token that is visible and is not padding
    /// according to [#isPadding].
    protected Tensor pooled(Tensor hidden, Tensor inputIds, @Nullable Tensor attentionMask) {
        Shape s = hidden.shape();
        int length = inputIds.shape().dim(1);
        int[] ids = inputIds.toInts();
        int[] mask = attentionMask == null ? null : attentionMask.toInts();
        int[] at = new int[s.dim(0)];
        for (int row = 0; row < at.length; row++) {
            int last = length - 1;
            while (last > 0
                    && (mask != null && mask[row * length + last] == 0 || isPadding(ids[row * length + last]))) {
                last--;
            }
            at[row] = row * s.dim(1) + s.dim(1) - length + last;
        }
        return Functional.embedding(hidden.reshape(-1, s.dim(2)), Tensor.ofInts(backend(), at, at.length));
    }

    /// The classifier's input (B, P + T, C) from hidden states (B, P + T, C), for classes of tokens.
    protected Tensor tokenStates(Tensor hidden) {
        return hidden;
    }

    /// Whether `id` is the padding token of the model's config (`pad_token_id`), which a head at the last token skips
    /// anywhere in the text.
    public final boolean isPadding(int id) {
        return configAsRead != null
                && configAsRead.path("pad_token_id").isInt()
                && configAsRead.path("pad_token_id").intValue() == id;
    }

    /// Gives each parameter that is in a mapped file, or in BF16 or F16, its own memory in F32. Required before
    /// anything writes to the model's own weights in place, as full fine-tuning does. The model still computes in
    /// [#dtype]. (Merging installs new buffers and needs no such copy.)
    public final void makeWritable() {
        try (Guard.Use use = changing("makeWritable")) {
            widen();
        }
    }

    private void widen() {
        weightsChanged();
        for (Tensor p : namedParameters().values()) {
            Buffer now = p.buffer();
            DType wide = now.dtype().accumulator();
            boolean mapped =
                    now instanceof HostBuffer && HostBuffer.segment(now).isReadOnly();
            if (mapped || now.dtype() != wide) {
                p.restore();
                Buffer own = backend().allocate(wide, now.size());
                backend().cast(own, p.buffer());
                p.assign(p.shape(), own);
            }
        }
    }

    @Override
    public void close() {
        try (Guard.Use use = changing("close")) {
            super.close();
            Linear head = head();
            if (classifier != null && head != null) {
                head.close();
            }
        }
    }
}
