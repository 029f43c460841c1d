package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonValue;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Bottleneck adapters: a small network at the output of a sublayer, which projects down to m dimensions, applies an
/// activation, and projects up again.
///
/// | placement | where | formula on the sublayer's output y and input x |
/// |---|---|---|
/// | Houlsby | after attention and after the feed-forward network | y + scale · up(f(down(y))) |
/// | Pfeiffer | after the feed-forward network | the same |
/// | parallel | beside the feed-forward network | y + scale · up(f(down(x))) |
///
/// **Papers**: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019; Pfeiffer et al., "AdapterFusion",
/// 2021; He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", 2022 (parallel, scale 4).
/// Defaults are those of AdapterHub (DoubleSeqBn, SeqBn, ParBn), and so are tensor names where it has them. Weights
/// start from N(0, initStd²) and biases at zero, so that an adapter starts near the identity.
///
/// @param placement where the adapters are inserted
/// @param reductionFactor hidden size divided by m; ignored when `bottleneckSize` is given
/// @param bottleneckSize m; null: from the reduction factor
/// @param nonLinearity f
/// @param residual whether y itself is added
/// @param scaling factor of the adapter's branch
/// @param dropout probability of dropping an element between f and up
/// @param initStd standard deviation of the initial weights
/// @param modulesToSave layers trained in full and saved with the adapter
/// @param inferenceMode see [PeftConfig#inferenceMode]
/// @param taskType see [PeftConfig#taskType]
public record BottleneckConfig(
        Placement placement,
        double reductionFactor,
        @Nullable Integer bottleneckSize,
        NonLinearity nonLinearity,
        boolean residual,
        double scaling,
        double dropout,
        double initStd,
        List<String> modulesToSave,
        boolean inferenceMode,
        @Nullable TaskType taskType)
        implements PeftConfig {

    /// Where the adapters are inserted.
    public enum Placement {
        HOULSBY,
        PFEIFFER,
        PARALLEL;

        @JsonValue
        String fileName() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /// The activation between the two layers.
    public enum NonLinearity {
        RELU(UnaryFn.RELU),
        GELU(UnaryFn.GELU),
        SWISH(UnaryFn.SILU);

        private final UnaryFn fn;

        NonLinearity(UnaryFn fn) {
            this.fn = fn;
        }

        @JsonValue
        String fileName() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    public BottleneckConfig {
        modulesToSave = List.copyOf(modulesToSave);
        check(reductionFactor > 0, "reduction_factor", reductionFactor, "positive");
        check(bottleneckSize == null || bottleneckSize >= 1, "bottleneck_size", bottleneckSize, "at least 1");
        check(dropout >= 0 && dropout < 1, "dropout", dropout, "in [0, 1)");
        check(initStd >= 0, "init_std", initStd, "at least 0");
        check(Double.isFinite(scaling), "scaling", scaling, "finite");
    }

    private static void check(boolean right, String field, @Nullable Object value, String need) {
        if (!right) {
            throw new InputException("BottleneckConfig: " + field + " is " + value + ", must be " + need);
        }
    }

    /// As [#houlsby].
    public static BottleneckConfig defaults() {
        return fromJson(new ConfigJson("BOTTLENECK", JsonNodeFactory.instance.objectNode()));
    }

    /// After attention and after the feed-forward network, reduction 16, swish.
    public static BottleneckConfig houlsby() {
        return defaults();
    }

    /// After the feed-forward network, reduction 16, relu.
    public static BottleneckConfig pfeiffer() {
        return defaults().with(n -> n.put("placement", "pfeiffer").put("non_linearity", "relu"));
    }

    /// Beside the feed-forward network, reduction 2, relu, scale 4.
    public static BottleneckConfig parallel() {
        return defaults()
                .with(n -> n.put("placement", "parallel")
                        .put("non_linearity", "relu")
                        .put("reduction_factor", 2.0)
                        .put("scaling", 4.0));
    }

    private BottleneckConfig with(Consumer<ObjectNode> change) {
        return ConfigJson.copy(this, BottleneckConfig::fromJson, change);
    }

    public BottleneckConfig withSize(int size) {
        return with(n -> n.put("bottleneck_size", size));
    }

    public BottleneckConfig withNonLinearity(NonLinearity f) {
        return with(n -> n.put("non_linearity", f.name()));
    }

    public BottleneckConfig withDropout(double p) {
        return with(n -> n.put("dropout", p));
    }

    public BottleneckConfig withInitStd(double std) {
        return with(n -> n.put("init_std", std));
    }

    public BottleneckConfig withModulesToSave(List<String> modules) {
        return with(n -> ConfigJson.put(n, "modules_to_save", modules));
    }

    public BottleneckConfig withTask(@Nullable TaskType task) {
        return with(n -> ConfigJson.putTask(n, task));
    }

    @Override
    public String peftType() {
        return "BOTTLENECK";
    }

    static BottleneckConfig fromJson(ConfigJson json) {
        return new BottleneckConfig(
                json.choice("placement", Placement.class, Placement.HOULSBY),
                json.number("reduction_factor", 16),
                json.integerOrNull("bottleneck_size"),
                json.choice("non_linearity", NonLinearity.class, NonLinearity.SWISH),
                json.bool("residual", true),
                json.number("scaling", 1),
                json.number("dropout", 0),
                json.number("init_std", 0.02),
                json.strings("modules_to_save"),
                json.bool("inference_mode", false),
                json.taskType());
    }

    @Override
    public Tuner attach(Attachment to) {
        return new BottleneckTuner(this, to);
    }

    /// m for a model of width `hidden`.
    int size(int hidden) {
        if (bottleneckSize != null) {
            return bottleneckSize;
        }
        long m = Math.round(hidden / reductionFactor);
        check(m >= 1, "reduction_factor", reductionFactor, "at most the hidden size " + hidden);
        check(m <= 64L * hidden, "reduction_factor", reductionFactor, "at least 1/64");
        return (int) m;
    }

    /// One adapter: down (m, d), up (d, m), with biases.
    static final class Bottleneck implements Block.SublayerAdapter {
        private final BottleneckConfig config;
        private final Linear down;
        private final Linear up;
        private final Model model;
        private final @Nullable DropoutMask mask;

        Bottleneck(BottleneckConfig config, int d, Attachment to, int site) {
            this.config = config;
            this.model = to.model();
            this.mask = to.dropout(config.dropout, site);
            Backend be = to.backend();
            DType type = model.dtype().accumulator();
            int m = config.size(d);
            down = Linear.random(be, type, to.random(), config.initStd, d, m, true);
            up = Linear.random(be, type, to.random(), config.initStd, m, d, true);
        }

        /// y + scale · up(f(down(y))), or up(f(down(x))) where the adapter is parallel to the sublayer.
        @Override
        public Tensor forward(Tensor output, Tensor input) {
            DType type = output.dtype();
            return Functional.bottleneck(
                    config.nonLinearity.fn,
                    config.placement == Placement.PARALLEL ? input : output,
                    config.residual ? output : null,
                    Functional.cast(down.weight(), type),
                    down.bias(type),
                    Functional.cast(up.weight(), type),
                    up.bias(type),
                    config.scaling,
                    model.isTraining() ? mask : null);
        }

        void collect(BiConsumer<String, Tensor> visitor) {
            down.namedParameters().forEach((n, t) -> visitor.accept("adapter_down.0." + n, t));
            up.namedParameters().forEach((n, t) -> visitor.accept("adapter_up." + n, t));
        }

        @Override
        public void close() {
            down.close();
            up.close();
        }
    }

    private static final class BottleneckTuner extends Tuner {
        private final Map<Block, Bottleneck> afterAttention = new LinkedHashMap<>();
        private final Map<Block, Bottleneck> afterFeedForward = new LinkedHashMap<>();
        private final Map<String, Bottleneck> byPlace = new LinkedHashMap<>();

        BottleneckTuner(BottleneckConfig config, Attachment to) {
            super(config, to);
            Model model = to.model();
            int d = model.facts().hiddenSize();
            Map<Block, String> names = new LinkedHashMap<>();
            model.namedModules().forEach((name, layer) -> {
                if (layer instanceof Block b) {
                    names.put(b, name);
                }
            });
            List<String> places = Objects.requireNonNullElse(
                    model.family().targets(List.of(config.peftType())),
                    List.of("attention_adapters", "output_adapters"));
            int site = 0;
            for (Block block : model.blocks()) {
                String name = names.get(block);
                if (config.placement == Placement.HOULSBY) {
                    Bottleneck a = new Bottleneck(config, d, to, site++);
                    afterAttention.put(block, a);
                    byPlace.put(name + "." + places.getFirst() + ".adapters", a);
                }
                Bottleneck f = new Bottleneck(config, d, to, site++);
                afterFeedForward.put(block, f);
                byPlace.put(name + "." + places.getLast() + ".adapters", f);
            }
            Heads.of(config.modulesToSave, config.taskType).place(this);
        }

        @Override
        public void activate() {
            super.activate();
            afterAttention.forEach(Block::afterAttention);
            afterFeedForward.forEach(Block::afterFeedForward);
        }

        @Override
        public void deactivate() {
            super.deactivate();
            afterAttention.keySet().forEach(b -> b.afterAttention(null));
            afterFeedForward.keySet().forEach(b -> b.afterFeedForward(null));
        }

        @Override
        public Map<String, Tensor> parameters() {
            Map<String, Tensor> all = super.parameters();
            byPlace.forEach((place, adapter) -> adapter.collect(
                    (local, t) -> all.put(key(place) + "." + attachment().name() + "." + local, t)));
            return all;
        }

        @Override
        public Map<String, Tensor> fileTensors() {
            Map<String, Tensor> all = super.fileTensors();
            byPlace.forEach((place, adapter) -> adapter.collect((local, t) -> all.put(key(place) + "." + local, t)));
            return all;
        }

        @Override
        public void close() {
            super.close();
            byPlace.values().forEach(Bottleneck::close);
        }
    }
}
