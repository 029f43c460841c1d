package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonIgnore;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Prefix tuning: P trainable keys and values precede the text's own in the attention of every layer. Rotary embeddings
/// are not applied to them, and the text starts at position P.
///
/// **Paper**: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021; the projection is from
/// section 4.3. With grouped-query attention a prefix has as many heads as the keys. It is a segment of the attention
/// kernel and works with gradient checkpointing.
///
/// @param numVirtualTokens P
/// @param prefixProjection whether the prefix is computed from a smaller table by two linear layers with tanh in
///     between
/// @param encoderHiddenSize width between them; null: the width of the keys
/// @param init how a prefix without projection is initialized
/// @param tokenDim width of the keys that the file was made for; null: the model's
/// @param numLayers number of layers of the model that the file was made for; null: the model's
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record PrefixTuningConfig(
        int numVirtualTokens,
        boolean prefixProjection,
        @Nullable Integer encoderHiddenSize,
        @JsonIgnore Init init,
        @Nullable Integer tokenDim,
        @Nullable Integer numLayers,
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// How a prefix without projection is initialized.
    public sealed interface Init {
        /// N(0, std²). peft's std is 1, which makes training start badly; 0.02 is that of a transformer's own weights.
        record Random(double std) implements Init {}

        /// Zero keys and values: each query initially spends part of its attention on zero values.
        record Zero() implements Init {}

        /// The keys and values that the model itself computes for a text, with its tokens repeated or truncated to P:
        /// the paper's real words (section 7.4).
        record Activations(List<Integer> tokens) implements Init {
            public Activations {
                tokens = List.copyOf(tokens);
                if (tokens.isEmpty()) {
                    throw new InputException("PrefixTuningConfig: the initial text has no tokens");
                }
            }
        }
    }

    public PrefixTuningConfig {
        PromptTuner.checkTokens("PrefixTuningConfig", numVirtualTokens);
        modulesToSave = List.copyOf(modulesToSave);
        if (encoderHiddenSize != null && encoderHiddenSize < 1) {
            throw new InputException(
                    "PrefixTuningConfig: encoder_hidden_size is " + encoderHiddenSize + ", must be at least 1");
        }
        if (prefixProjection && init instanceof Init.Activations) {
            throw new InputException(
                    "PrefixTuningConfig: a projected prefix cannot start from activations; leave the projection out");
        }
    }

    /// 20 keys and values per layer, without projection, from N(0, 0.02²).
    public static PrefixTuningConfig defaults() {
        return of(20);
    }

    /// As above, with the given number of keys and values.
    public static PrefixTuningConfig of(int numVirtualTokens) {
        return fromJson(new ConfigJson(
                "PREFIX_TUNING", JsonNodeFactory.instance.objectNode().put("num_virtual_tokens", numVirtualTokens)));
    }

    private PrefixTuningConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, json -> read(json, init), change);
    }

    public PrefixTuningConfig withVirtualTokens(int number) {
        return with(n -> n.put("num_virtual_tokens", number));
    }

    public PrefixTuningConfig withProjection(@Nullable Integer hiddenSize) {
        return with(n -> n.put("prefix_projection", true).put("encoder_hidden_size", hiddenSize));
    }

    public PrefixTuningConfig withInit(Init start) {
        return ConfigJson.copy(this, json -> read(json, start), n -> {});
    }

    public PrefixTuningConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public PrefixTuningConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "PREFIX_TUNING";
    }

    static PrefixTuningConfig fromJson(ConfigJson json) {
        return read(json, new Init.Random(0.02));
    }

    private static PrefixTuningConfig read(ConfigJson json, Init init) {
        json.submodules();
        // Records the table's initialization, which the trained values in the file replace.
        json.string("init_weights", "");
        return new PrefixTuningConfig(
                json.integer("num_virtual_tokens", 0),
                json.bool("prefix_projection", false),
                json.integerOrNull("encoder_hidden_size"),
                init,
                json.integerOrNull("token_dim"),
                json.integerOrNull("num_layers"),
                json.strings("modules_to_save"),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        return new PrefixTuner(this, to);
    }

    private static final class PrefixTuner extends PromptTuner {
        private final PrefixTuningConfig config;
        private final Tensor embedding;
        private final @Nullable Linear first;
        private final @Nullable Linear second;

        PrefixTuner(PrefixTuningConfig config, Attachment to) {
            super(config, to, config.modulesToSave);
            this.config = config;
            Model.Facts f = to.model().facts();
            int kvDim = f.numKvHeads() * f.headDim();
            int width = 2 * f.numLayers() * kvDim;
            int p = config.numVirtualTokens;
            checkSizes(config.tokenDim, kvDim, config.numLayers, to.model());
            checkRoom(p);
            if (config.prefixProjection) {
                int inner = config.encoderHiddenSize == null ? kvDim : config.encoderHiddenSize;
                embedding = encoderParameter("embedding.weight", normal(1, p, kvDim));
                first = encoderLinear("transform.0", kvDim, inner);
                second = encoderLinear("transform.2", inner, width);
            } else {
                embedding = encoderParameter("embedding.weight", initial(p, width));
                first = null;
                second = null;
            }
        }

        private Tensor initial(int p, int width) {
            return switch (config.init) {
                case Init.Random r -> normal(r.std(), p, width);
                case Init.Zero z -> Tensor.zeros(attachment().backend(), type(), p, width);
                case Init.Activations a -> activations(a.tokens(), p, width);
            };
        }

        /// (P, 2 · layers · kvDim): for each layer the keys, then the values, that the model computes for `tokens`.
        private Tensor activations(List<Integer> tokens, int p, int width) {
            int[] ids = new int[p];
            for (int i = 0; i < p; i++) {
                ids[i] = tokens.get(i % tokens.size());
            }
            Model model = attachment().model();
            List<Block.Prefix> made = model.keysAndValues(ids);
            List<Tensor> columns = new ArrayList<>();
            for (Block.Prefix kv : made) {
                columns.add(kv.keys().reshape(p, -1));
                columns.add(kv.values().reshape(p, -1));
            }
            Tensor table = Functional.concat(columns, 1);
            if (!table.shape().equals(Shape.of(p, width))) {
                throw new IllegalStateException(
                        "prefix: activations are " + table.shape() + ", needs (" + p + ", " + width + ")");
            }
            return Merge.wide(table);
        }

        @Override
        Tensor encode() {
            return first == null || second == null
                    ? embedding
                    : second.forward(Functional.tanh(first.forward(embedding)));
        }

        /// The prompt (P, 2L · kvDim), split into keys and values of each layer, (P, kvHeads, D).
        private List<Block.Prefix> prefixes() {
            Model.Facts f = attachment().model().facts();
            int kvDim = f.numKvHeads() * f.headDim();
            int p = config.numVirtualTokens;
            Tensor prompt = prompt();
            List<Block.Prefix> all = new ArrayList<>();
            for (int layer = 0; layer < f.numLayers(); layer++) {
                int from = 2 * layer * kvDim;
                all.add(new Block.Prefix(
                        prompt.slice(1, from, from + kvDim).reshape(p, f.numKvHeads(), f.headDim()),
                        prompt.slice(1, from + kvDim, from + 2 * kvDim).reshape(p, f.numKvHeads(), f.headDim())));
            }
            return all;
        }

        @Override
        public void activate() {
            super.activate();
            attachment().model().prefixes(this::prefixes);
        }

        @Override
        public void deactivate() {
            super.deactivate();
            attachment().model().prefixes(null);
        }

        @Override
        public int virtualTokens() {
            return config.numVirtualTokens;
        }

        @Override
        public ObjectNode savedConfig() {
            Model.Facts f = attachment().model().facts();
            int kvDim = f.numKvHeads() * f.headDim();
            ObjectNode n = sizes(config.toJson(), config.numVirtualTokens, kvDim, f.numLayers(), f.numKvHeads());
            n.put("encoder_hidden_size", config.encoderHiddenSize == null ? kvDim : config.encoderHiddenSize);
            return n;
        }
    }
}
