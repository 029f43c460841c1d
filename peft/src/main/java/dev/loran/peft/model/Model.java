package dev.loran.peft.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Linear;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Predicate;
import java.util.random.RandomGenerator;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// A transformer with its head: what it answers, and where its weights come from.
public abstract class Model extends Transformer {
    static final String HEAD = "lm_head";
    private static final String SCORE = "score";

    private final Family family;
    /// Of token embeddings as they were before they were resized; 0 if they never were.
    private int rowsBefore;
    private @Nullable Linear classifier;
    private boolean newClassifier;
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
        Facts withVocabSize(int rows) {
            return new Facts(modelType, hiddenSize, numLayers, numHeads, numKvHeads, headDim, rows, maxPositions);
        }
    }

    protected Model(Family family) {
        this.family = family;
    }

    public final Family family() {
        return family;
    }

    /// What the model answers: classes where it has a [#classifier].
    public final TaskType task() {
        return classifier != null
                ? TaskType.SEQ_CLS
                : head() == null ? TaskType.FEATURE_EXTRACTION : TaskType.CAUSAL_LM;
    }

    /// What decides, in the model's `config.json`, what is computed, but for `model_type` and `architectures`;
    /// `vocab_size` as it is now.
    protected abstract ObjectNode sizes();

    /// The `config.json` that the model was made from; null if it was made from its sizes.
    final @Nullable ObjectNode configAsRead() {
        return configAsRead;
    }

    final void configAsRead(ObjectNode json) {
        configAsRead = json;
    }

    /// What messages call it: the name of the folder it was read from, else its family.
    public final String title() {
        Path name = folder == null ? null : folder.toAbsolutePath().normalize().getFileName();
        return name == null ? facts().modelType() : name.toString();
    }

    /// Tells these weights from others: SHA-256 of the file `model.safetensors` that they were read from, or of the
    /// files `model-*.safetensors` one after the other in the order of their names. Null for weights that were made
    /// here, or changed since. The files are read when this is first asked.
    public final @Nullable String sha256() {
        if (sha256 == null && folder != null) {
            sha256 = HfModels.sha256(folder);
        }
        return sha256;
    }

    final void readFrom(Path weights) {
        folder = weights;
        nameOrPath = weights.toString();
    }

    /// What the model was opened by, as adapter files say it (`base_model_name_or_path`): a folder, unless a name was
    /// said with [#nameOrPath(String)]. Null for weights that were made here, or changed since.
    public final @Nullable String nameOrPath() {
        return nameOrPath;
    }

    /// Says what the model was opened by, as a name of a catalogue; null for nothing that others could open.
    public final void nameOrPath(@Nullable String name) {
        nameOrPath = name;
    }

    /// The class that computes the same in transformers, as `LlamaForCausalLM`; null if there is none.
    public final @Nullable String className() {
        List<String> classes = family.classes();
        return classes.isEmpty() ? null : family.title() + (head() == null ? Family.BARE : classes.getFirst());
    }

    /// Says that the weights are no longer those that were read: see [#sha256].
    public final void weightsChanged() {
        folder = null;
        nameOrPath = null;
        sha256 = null;
        newClassifier = false;
    }

    /// What the family's other models call `module` of this one: where this one has a head and puts the family's prefix
    /// before what is below it (`model.`, `transformer.`, `bert.`), the name without it; else the name with it. What
    /// stands beside the prefix, as the head does, has the same name in all.
    public final String otherName(String module) {
        String prefix = family.prefix();
        boolean hasPrefix = namedModules().keySet().stream().anyMatch(name -> name.startsWith(prefix));
        if (module.startsWith(prefix)) {
            return module.substring(prefix.length());
        }
        return hasPrefix ? module : belowHead(module);
    }

    /// Gives the table of token embeddings and the head, if there is one, `rows` rows: transformers'
    /// `resize_token_embeddings`, for tokens that a tokenizer got beside. New rows are the mean of those that were
    /// there; those past the end go. `vocab_size` follows. Before an adapter is added.
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

    private static void resize(Tensor table, int rows) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            table.restore();
            int before = table.shape().dim(0);
            Tensor next;
            if (rows <= before) {
                next = table.slice(0, 0, rows);
            } else {
                DType type = table.dtype();
                Tensor mean = Functional.cast(
                        Functional.cast(table, type.accumulator()).mean(0), type);
                int cols = table.shape().dim(1);
                Tensor added =
                        Tensor.zeros(table.backend(), type, rows - before, cols).add(mean.reshape(1, cols));
                next = Functional.concat(List.of(table, added), 0);
            }
            // A tensor of its own: what is cut off must not be kept.
            Buffer own = table.backend().allocate(table.dtype(), next.shape().size());
            table.backend().cast(own, next.buffer());
            table.assign(next.shape(), own);
        }
    }

    /// How many of the rows of the tables are those that were read, or made with the model: all, unless
    /// [#resizeTokenEmbeddings] added some.
    public final int knownTokenEmbeddings() {
        return isResized() ? Math.min(rowsBefore, facts().vocabSize()) : facts().vocabSize();
    }

    /// Whether [#resizeTokenEmbeddings] changed the tables: adapter files then hold them.
    public final boolean isResized() {
        return rowsBefore > 0;
    }

    /// The head that makes logits of tokens; null if there is none.
    public final @Nullable Linear tokenHead() {
        return namedModules().get(HEAD) instanceof Linear head ? head : null;
    }

    /// The head's answer, where every token is of type 0; its shape is said in [TaskType].
    public final Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        return logits(inputIds, attentionMask, null);
    }

    /// The head's answer; its shape is said in [TaskType].
    ///
    /// @param tokenTypes as in [#hidden(Tensor, Tensor, Tensor)]
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        try (Guard.Use use = reading("logits");
                Scope scope = Scope.open()) {
            Tensor h = hidden(inputIds, attentionMask, tokenTypes);
            return scope.keep(
                    classifier == null
                            ? requireHead().forward(h)
                            : classify(classifier, pooled(h, inputIds, attentionMask)));
        }
    }

    /// Mean cross-entropy, a scalar. Labels are (B) for [TaskType#SEQ_CLS]; (B, T) for [TaskType#CAUSAL_LM], aligned
    /// with the ids (the logits at t − 1 are compared with the label at t), −100 where no loss is due.
    public Tensor loss(Tensor inputIds, @Nullable Tensor attentionMask, Tensor labels) {
        try (Guard.Use use = useOfLoss();
                Scope scope = Scope.open()) {
            return scope.keep(
                    classifier == null
                            ? nextTokenLoss(requireHead(), hidden(inputIds, attentionMask), labels)
                            : Functional.crossEntropy(
                                    logits(inputIds, attentionMask), labels, Functional.IGNORE_INDEX));
        }
    }

    /// A loss is read, but in training mode it is the start of a change, and dropout's state is one for all.
    final Guard.Use useOfLoss() {
        return isTraining() ? changing("loss") : reading("loss");
    }

    /// The layer that makes a causal model's logits of its hidden states; null if the model is not causal.
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

    /// The layer that makes the scores of the classes, the family's own: `score`, without bias, at the last token of a
    /// causal model, `classifier` behind BERT's pooler. Null for a model without classes.
    public final @Nullable Linear classifier() {
        return classifier;
    }

    /// The names of the classes by their ids, `LABEL_0`, … where nobody named them; empty for a model without classes.
    public final List<String> labels() {
        return labels;
    }

    /// @throws IllegalArgumentException if there are not as many classes
    public final void labels(List<String> names) {
        if (classifier == null || classifier.outFeatures() != names.size()) {
            throw new IllegalArgumentException("labels: " + names + " for "
                    + (classifier == null ? "no classes" : classifier.outFeatures() + " classes"));
        }
        labels = List.copyOf(names);
    }

    /// Puts a new classification head of zeros in the place of the head for the next token, if there is one, as
    /// transformers' `AutoModelForSequenceClassification` does with random numbers. All classes are equally likely
    /// until it is trained. They are called as the model's config says, if it names as many.
    ///
    /// @throws dev.loran.peft.io.InputException if the model lacks what stands before a head
    /// @throws IllegalStateException if there is a classification head
    public final Linear addClassifier(int classes) {
        return addClassifier(classes, module -> false);
    }

    /// As above, where the caller brings values for modules that the model may lack, as an adapter's file does: they
    /// are made, of zeros.
    ///
    /// @param brought whether there are values for the module of this name
    public final Linear addClassifier(int classes, Predicate<String> brought) {
        if (classifier != null) {
            throw new IllegalStateException("addClassifier: the model has classes already");
        }
        beforeClassifier(brought);
        if (head() != null) {
            removeChild(HEAD);
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

    /// Sees to what stands before a new classification head.
    ///
    /// @param brought as in [#addClassifier(int, Predicate)]
    /// @throws dev.loran.peft.io.InputException if it is missing
    protected void beforeClassifier(Predicate<String> brought) {}

    /// Takes away what [#beforeClassifier] made.
    protected void afterClassifier() {}

    /// Draws the weight of a new head as transformers does: from N(0, 0.02²).
    public static void drawHead(Tensor weight, RandomGenerator random) {
        try (Tensor drawn = Tensor.randn(
                weight.backend(), weight.dtype(), random, 0.02, weight.shape().dims())) {
            weight.copyFrom(drawn);
        }
    }

    /// Whether the classification head is one that [#addClassifier] made, and not yet part of weights that have
    /// changed.
    public final boolean hasNewClassifier() {
        return newClassifier;
    }

    /// Takes away and closes a new classification head; the model is as it was.
    public final void removeClassifier() {
        if (classifier != null && newClassifier) {
            removeChild(classifierName());
            classifier.close();
            classifier = null;
            newClassifier = false;
            labels = List.of();
            afterClassifier();
            Linear head = head();
            if (head != null) {
                child(HEAD, head);
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

    /// What the family calls its classification head.
    public String classifierName() {
        return SCORE;
    }

    /// The name of a module, or of a parameter, in the family's model with a head: all but the head itself stands below
    /// the family's prefix there (`bert.`).
    public final String belowHead(String name) {
        String prefix = family.prefix();
        return name.startsWith(prefix) || name.equals(classifierName()) || name.startsWith(classifierName() + ".")
                ? name
                : prefix + name;
    }

    /// The scores of the classes (B, labels) of what [#classifier] sees of texts, (B, C).
    ///
    /// @throws IllegalStateException for a model without classes
    public final Tensor classify(Tensor pooled) {
        if (classifier == null) {
            throw new IllegalStateException("classify: the model has no classes");
        }
        return classify(classifier, pooled);
    }

    /// In the accumulator's type: what tells classes apart is small, and so is the work.
    private static Tensor classify(Linear classifier, Tensor pooled) {
        DType type = classifier.weight().dtype();
        return Functional.cast(classifier.forward(Functional.cast(pooled, type)), type.accumulator());
    }

    /// What the head sees of hidden states (B, P + T, C): those of the last token that is shown and is no padding, as
    /// [#isPadding] tells it.
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

    /// Whether `id` is the token that the model's config names as padding (`pad_token_id`), which a head at the last
    /// token passes over wherever it stands.
    public final boolean isPadding(int id) {
        return configAsRead != null
                && configAsRead.path("pad_token_id").isInt()
                && configAsRead.path("pad_token_id").intValue() == id;
    }

    /// Gives each parameter that lies in a mapped file, or is of BF16 or F16, memory of its own in F32: before anything
    /// writes to the model's own weights in place, as full fine-tuning does. The model computes in [#dtype] as before.
    /// (Merging puts new buffers in their place and needs no such copy.)
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

    /// Mean cross-entropy of the next token: hidden (B, P + T, C), labels (B, T) aligned with the text. The logits of
    /// all positions never exist at once, unless an adapter that is more than another weight stands on the head.
    private Tensor nextTokenLoss(Linear head, Tensor hidden, Tensor labels) {
        Shape s = hidden.shape();
        int virtual = s.dim(1) - labels.shape().dim(-1);
        if (labels.shape().rank() != 2 || labels.shape().dim(0) != s.dim(0) || virtual < 0) {
            throw new ShapeException("loss: labels are " + labels.shape() + " but the hidden states are " + s
                    + " as (B, P + T, C); needs (B, T)");
        }
        // Position j answers for the token at j + 1.
        Tensor last = ignored(s.dim(0), 1);
        Tensor targets = Functional.concat(
                virtual == 0
                        ? List.of(labels.slice(1, 1, s.dim(1)), last)
                        : List.of(ignored(s.dim(0), virtual - 1), labels, last),
                1);
        Adapter<? super Linear> adapter = head.adapter();
        Projection plain = adapter == null ? head.projection(hidden.dtype()) : adapter.projection(head, hidden.dtype());
        return plain != null && plain.bias() == null && plain.lora() == null
                ? Functional.linearCrossEntropy(hidden, plain.weight(), targets, Functional.IGNORE_INDEX)
                : Functional.crossEntropy(head.forward(hidden), targets, Functional.IGNORE_INDEX);
    }

    private Tensor ignored(int rows, int cols) {
        return Tensor.full(backend(), DType.I32, Functional.IGNORE_INDEX, rows, cols);
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
