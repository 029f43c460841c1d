package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// P-tuning: a small encoder computes the embeddings of P virtual tokens before the text from its own table.
///
/// **Paper**: Liu et al., "GPT Understands, Too", 2021 (the LSTM with two linear layers, section 3.2). The multi-layer
/// perceptron is peft's default. The transformer encoder is Loran's own addition and unknown to peft, whose files hold
/// the finished prompt regardless of the encoder.
///
/// @param numVirtualTokens P
/// @param encoder the network that computes the prompt
/// @param encoderHiddenSize its inner width; null: the model's
/// @param encoderNumLayers layers of the LSTM or the transformer; the perceptron always has three
/// @param encoderDropout between LSTM layers, or in the transformer's sublayers; the perceptron has none
/// @param tokenDim width that the file was made for; null: the model's
/// @param numLayers number of layers of the model that the file was made for; null: the model's
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record PromptEncoderConfig(
        int numVirtualTokens,
        @JsonProperty("encoder_reparameterization_type") Encoder encoder,
        @Nullable Integer encoderHiddenSize,
        int encoderNumLayers,
        double encoderDropout,
        @Nullable Integer tokenDim,
        @Nullable Integer numLayers,
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// `encoder_reparameterization_type`.
    public enum Encoder {
        /// Three linear layers with ReLU in between.
        MLP,
        /// A bidirectional LSTM, then two linear layers with ReLU in between.
        LSTM,
        /// Pre-norm transformer layers over the virtual tokens, without a causal mask.
        TRANSFORMER
    }

    public PromptEncoderConfig {
        PromptTuner.checkTokens("PromptEncoderConfig", numVirtualTokens);
        modulesToSave = List.copyOf(modulesToSave);
        check(
                encoderHiddenSize == null || encoderHiddenSize >= 1,
                "encoder_hidden_size",
                encoderHiddenSize,
                "at least 1");
        check(encoderNumLayers >= 1, "encoder_num_layers", encoderNumLayers, "at least 1");
        check(encoderDropout >= 0 && encoderDropout < 1, "encoder_dropout", encoderDropout, "in [0, 1)");
    }

    private static void check(boolean right, String field, @Nullable Object value, String need) {
        if (!right) {
            throw new InputException("PromptEncoderConfig: " + field + " is " + value + ", must be " + need);
        }
    }

    /// peft's defaults: the perceptron, as wide as the model, with 20 virtual tokens (peft has no default number).
    public static PromptEncoderConfig defaults() {
        return of(20);
    }

    /// As above, with the given number of virtual tokens.
    public static PromptEncoderConfig of(int numVirtualTokens) {
        return fromJson(new ConfigJson(
                "P_TUNING", JsonNodeFactory.instance.objectNode().put("num_virtual_tokens", numVirtualTokens)));
    }

    private PromptEncoderConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, PromptEncoderConfig::fromJson, change);
    }

    public PromptEncoderConfig withVirtualTokens(int number) {
        return with(n -> n.put("num_virtual_tokens", number));
    }

    public PromptEncoderConfig withEncoder(Encoder kind, @Nullable Integer hiddenSize, int layers, double dropout) {
        return with(n -> n.put("encoder_reparameterization_type", kind.name())
                .put("encoder_hidden_size", hiddenSize)
                .put("encoder_num_layers", layers)
                .put("encoder_dropout", dropout));
    }

    public PromptEncoderConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public PromptEncoderConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "P_TUNING";
    }

    static PromptEncoderConfig fromJson(ConfigJson json) {
        json.submodules();
        return new PromptEncoderConfig(
                json.integer("num_virtual_tokens", 0),
                json.choice("encoder_reparameterization_type", Encoder.class, Encoder.MLP),
                json.integerOrNull("encoder_hidden_size"),
                json.integer("encoder_num_layers", 2),
                json.number("encoder_dropout", 0),
                json.integerOrNull("token_dim"),
                json.integerOrNull("num_layers"),
                json.strings("modules_to_save"),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        return new EncodedTokens(this, to);
    }

    /// A network from (P, width) to (P, hidden).
    private interface Network {
        Tensor forward(Tensor x);
    }

    private static final class EncodedTokens extends PromptTuner {
        private final PromptEncoderConfig config;
        private final Tensor embedding;
        private final Network network;

        EncodedTokens(PromptEncoderConfig config, Attachment to) {
            super(config, to, config.modulesToSave);
            this.config = config;
            int d = to.model().facts().hiddenSize();
            int h = config.encoderHiddenSize == null ? d : config.encoderHiddenSize;
            int p = config.numVirtualTokens;
            checkSizes(config.tokenDim, d, config.numLayers, to.model());
            checkRoom(p);
            // The table starts from N(0, 1), torch's default for embeddings, as in peft; the encoder follows.
            embedding =
                    encoderParameter("embedding.weight", normal(1, p, config.encoder == Encoder.TRANSFORMER ? h : d));
            network = switch (config.encoder) {
                case MLP -> mlp(d, h);
                case LSTM -> lstm(d, h);
                case TRANSFORMER -> transformer(d, h);
            };
        }

        private Network mlp(int d, int h) {
            Linear a = encoderLinear("mlp_head.0", d, h);
            Linear b = encoderLinear("mlp_head.2", h, h);
            Linear c = encoderLinear("mlp_head.4", h, d);
            return x -> c.forward(Functional.relu(b.forward(Functional.relu(a.forward(x)))));
        }

        private Network lstm(int d, int h) {
            List<Direction> directions = new ArrayList<>();
            for (int layer = 0; layer < config.encoderNumLayers; layer++) {
                int in = layer == 0 ? d : 2 * h;
                directions.add(new Direction(in, h, "l" + layer, false));
                directions.add(new Direction(in, h, "l" + layer + "_reverse", true));
            }
            Linear a = encoderLinear("mlp_head.0", 2 * h, 2 * h);
            Linear b = encoderLinear("mlp_head.2", 2 * h, d);
            return x -> {
                Tensor y = x;
                for (int i = 0; i < directions.size(); i += 2) {
                    y = Functional.concat(
                            List.of(
                                    directions.get(i).run(y),
                                    directions.get(i + 1).run(y)),
                            1);
                    y = i + 2 < directions.size() ? dropped(y, i / 2) : y;
                }
                return b.forward(Functional.relu(a.forward(y)));
            };
        }

        /// One direction of one LSTM layer, with gates in torch's order i, f, g, o (Hochreiter and Schmidhuber, 1997).
        private final class Direction {
            private final int h;
            private final boolean reverse;
            private final Linear input;
            private final Linear recurrent;

            Direction(int in, int h, String suffix, boolean reverse) {
                this.h = h;
                this.reverse = reverse;
                double bound = 1 / Math.sqrt(h);
                input = new Linear(
                        encoderParameter("lstm_head.weight_ih_" + suffix, uniform(bound, 4 * h, in)),
                        encoderParameter("lstm_head.bias_ih_" + suffix, uniform(bound, 4 * h)),
                        false);
                recurrent = new Linear(
                        encoderParameter("lstm_head.weight_hh_" + suffix, uniform(bound, 4 * h, h)),
                        encoderParameter("lstm_head.bias_hh_" + suffix, uniform(bound, 4 * h)),
                        false);
            }

            /// (P, in) to (P, h).
            Tensor run(Tensor x) {
                int p = x.shape().dim(0);
                Tensor gatesOfInput = input.forward(x);
                Tensor hidden = Tensor.zeros(x.backend(), x.dtype(), 1, h);
                Tensor cell = hidden;
                List<Tensor> outputs = new ArrayList<>();
                for (int i = 0; i < p; i++) {
                    int t = reverse ? p - 1 - i : i;
                    Tensor gates = gatesOfInput.slice(0, t, t + 1).add(recurrent.forward(hidden));
                    Tensor keep = Functional.sigmoid(gates.slice(1, h, 2 * h)).mul(cell);
                    Tensor write =
                            Functional.sigmoid(gates.slice(1, 0, h)).mul(Functional.tanh(gates.slice(1, 2 * h, 3 * h)));
                    cell = keep.add(write);
                    hidden = Functional.sigmoid(gates.slice(1, 3 * h, 4 * h)).mul(Functional.tanh(cell));
                    outputs.add(hidden);
                }
                if (reverse) {
                    Collections.reverse(outputs);
                }
                return Functional.concat(outputs, 0);
            }
        }

        private Network transformer(int d, int h) {
            int heads = headsFor(h);
            List<EncoderLayer> layers = new ArrayList<>();
            for (int i = 0; i < config.encoderNumLayers; i++) {
                layers.add(new EncoderLayer("layers." + i, h, heads, 2 * i));
            }
            LayerNorm norm = encoderNorm("norm", h);
            Linear out = encoderLinear("output", h, d);
            return x -> {
                Tensor y = x;
                for (EncoderLayer layer : layers) {
                    y = layer.forward(y);
                }
                return out.forward(norm.forward(y));
            };
        }

        /// Heads of about 32 dimensions, in a number that divides the width.
        private static int headsFor(int h) {
            int heads = Math.max(1, h / 32);
            while (h % heads != 0) {
                heads--;
            }
            return heads;
        }

        private LayerNorm encoderNorm(String name, int width) {
            return new LayerNorm(
                    encoderParameter(name + ".weight", Tensor.full(attachment().backend(), type(), 1, width)),
                    encoderParameter(name + ".bias", Tensor.zeros(attachment().backend(), type(), width)),
                    1e-5);
        }

        /// x + attention(norm(x)), then x + feedForward(norm(x)) with ReLU and twice the width.
        private final class EncoderLayer {
            private final int heads;
            private final int site;
            private final LayerNorm norm1;
            private final LayerNorm norm2;
            private final Linear qkv;
            private final Linear attentionOut;
            private final Linear up;
            private final Linear down;

            EncoderLayer(String name, int h, int heads, int site) {
                this.heads = heads;
                this.site = site;
                norm1 = encoderNorm(name + ".norm1", h);
                qkv = encoderLinear(name + ".self_attn.in_proj", h, 3 * h);
                attentionOut = encoderLinear(name + ".self_attn.out_proj", h, h);
                norm2 = encoderNorm(name + ".norm2", h);
                up = encoderLinear(name + ".linear1", h, 2 * h);
                down = encoderLinear(name + ".linear2", 2 * h, h);
            }

            Tensor forward(Tensor x) {
                int p = x.shape().dim(0);
                int h = x.shape().dim(1);
                Tensor all = qkv.forward(norm1.forward(x));
                Tensor attended = Functional.attention(
                                part(all, 0, p, h),
                                part(all, 1, p, h),
                                part(all, 2, p, h),
                                null,
                                null,
                                null,
                                false,
                                1 / Math.sqrt((double) h / heads))
                        .reshape(p, h);
                Tensor y = x.add(dropped(attentionOut.forward(attended), site));
                return y.add(dropped(down.forward(Functional.relu(up.forward(norm2.forward(y)))), site + 1));
            }

            private Tensor part(Tensor all, int which, int p, int h) {
                return all.slice(1, which * h, (which + 1) * h).reshape(1, p, heads, h / heads);
            }
        }

        private Tensor dropped(Tensor x, int site) {
            DropoutMask mask =
                    attachment().model().isTraining() ? attachment().dropout(config.encoderDropout, site) : null;
            return mask == null ? x : Functional.dropout(x, mask);
        }

        @Override
        Tensor encode() {
            return network.forward(embedding);
        }

        @Override
        public void activate() {
            super.activate();
            attachment().model().virtualTokens(this::prompt);
        }

        @Override
        public void deactivate() {
            super.deactivate();
            attachment().model().virtualTokens(null);
        }

        @Override
        public int virtualTokens() {
            return config.numVirtualTokens;
        }

        @Override
        public ObjectNode savedConfig() {
            Model.Facts f = attachment().model().facts();
            ObjectNode n = sizes(config.toJson(), config.numVirtualTokens, f.hiddenSize(), f.numLayers(), f.numHeads());
            n.put("encoder_hidden_size", config.encoderHiddenSize == null ? f.hiddenSize() : config.encoderHiddenSize);
            return n;
        }
    }
}
