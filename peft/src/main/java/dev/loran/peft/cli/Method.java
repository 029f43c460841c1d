package dev.loran.peft.cli;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BitFitConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.ConfigJson;
import dev.loran.peft.tuner.Ia3Config;
import dev.loran.peft.tuner.LnTuningConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import dev.loran.peft.watch.Diagnosis;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// The choices of `--method`, each with its default learning rate and duration, in one place for the command line and
/// for comparisons.
///
/// | method | learning rate | usual range | epochs |
/// |---|---|---|---|
/// | full | 5e-5 | 1e-5 to 1e-4 | 3 |
/// | lora, dora | 5e-4 | 1e-4 to 5e-4 | 3 |
/// | adalora | 3e-3 | 1e-3 to 5e-3 | 5: a fifth of them before the ranks are cut, a fifth after |
/// | p-tuning, prefix | 3e-3 | 1e-3 to 5e-3 | 6: they start from random vectors before the text |
/// | prompt | 5e-3 | 1e-3 to 5e-3 | 6 |
/// | adapter | 5e-4 | 1e-4 to 1e-3 | 3 |
/// | ia3 | 5e-3 | 1e-3 to 1e-2 | 3 |
/// | ln-tuning, bitfit | 1e-3 | 5e-4 to 5e-3 | 3 |
///
/// AdaLoRA's singular values start at zero between vectors of at most unit length, and each step moves them only by the
/// learning rate: at 3e-4, they are still small after a run of 1,000 steps, which ends 4 points below LoRA on the
/// shipped task; at 3e-3, it ends level with LoRA.
enum Method {
    FULL(5e-5, "1e-5 to 1e-4", 3, "the baseline: all there is to gain, where memory and disk allow"),
    LORA(5e-4, "1e-4 to 5e-4", 3, "most tasks; free once merged"),
    DORA(5e-4, "1e-4 to 5e-4", 3, "small ranks; slower steps than lora"),
    ADALORA(3e-3, "1e-3 to 5e-3", 5, "a tight budget spread over many layers; long runs"),
    P_TUNING(3e-3, "1e-3 to 5e-3", 6, "many tasks on one frozen model; long runs"),
    PROMPT(5e-3, "1e-3 to 5e-3", 6, "the smallest files; large models"),
    PREFIX(3e-3, "1e-3 to 5e-3", 6, "generation; many tasks on one frozen model"),
    ADAPTER(5e-4, "1e-4 to 1e-3", 3, "accuracy near full at a small file; cannot be merged"),
    IA3(5e-3, "1e-3 to 1e-2", 3, "few examples; free once merged"),
    LN_TUNING(1e-3, "5e-4 to 5e-3", 3, "texts of another kind; free once merged"),
    BITFIT(1e-3, "5e-4 to 5e-3", 3, "few examples; free once merged");

    private static final ObjectMapper JSON = new ObjectMapper().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);

    /// Names used elsewhere.
    private static final Map<String, String> ALIASES = Map.of(
            "houlsby", "adapter",
            "pfeiffer", "adapter",
            "bottleneck", "adapter",
            "fine-tuning", "full",
            "sft", "full",
            "qlora", "lora",
            "layernorm", "ln-tuning",
            "soft-prompt", "prompt",
            "bias", "bitfit");

    final double learningRate;
    final int epochs;
    final String bestFor;
    private final String usualRates;

    Method(double learningRate, String usualRates, int epochs, String bestFor) {
        this.learningRate = learningRate;
        this.usualRates = usualRates;
        this.epochs = epochs;
        this.bestFor = bestFor;
    }

    /// The table above, for `--help`.
    static String[] help() {
        return Stream.concat(
                        Stream.of("", "Where --lr and --epochs are not given (in brackets the usual rates):"),
                        Arrays.stream(values())
                                .map(m -> String.format(
                                        Locale.ROOT,
                                        "  %-10s --lr %.0e (%s)  --epochs %d",
                                        m,
                                        m.learningRate,
                                        m.usualRates,
                                        m.epochs)))
                .toArray(String[]::new);
    }

    /// The rates that are usual for it.
    Diagnosis.UsualRates usualRates() {
        String[] ends = usualRates.split(" to ", -1);
        return new Diagnosis.UsualRates(Double.parseDouble(ends[0]), Double.parseDouble(ends[1]));
    }

    /// Whether its changes can be merged into the model's weights.
    boolean merges() {
        return switch (this) {
            case LORA, DORA, ADALORA, IA3, LN_TUNING, BITFIT -> true;
            case FULL, P_TUNING, PROMPT, PREFIX, ADAPTER -> false;
        };
    }

    /// Whether it trains pairs of matrices A and B.
    boolean hasLora() {
        return this == LORA || this == DORA || this == ADALORA;
    }

    /// The number of positions that it takes from the text.
    int virtualTokens(TrainingOptions o) {
        return switch (this) {
            case P_TUNING, PROMPT, PREFIX -> o.virtualTokens;
            default -> 0;
        };
    }

    /// The method with this name on the command line.
    static Method named(String name) {
        for (Method m : values()) {
            if (m.toString().equals(name)) {
                return m;
            }
        }
        List<String> known = Arrays.stream(values()).map(Method::toString).toList();
        List<String> meant =
                List.of(ALIASES.getOrDefault(name.toLowerCase(Locale.ROOT).replace('_', '-'), name));
        throw new InputException("method \"" + name + "\" is not known; choose one of " + String.join(", ", known)
                + Nearest.hint(meant, known));
    }

    /// The name on the command line.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT).replace('_', '-');
    }

    /// Fields that `--set` cannot change: what a file says of itself, and what other parts of a command have to know.
    private static final Map<String, String> NOT_SET = Map.of(
            "peft_type", "say --method",
            "task_type", "it follows from the model",
            "num_virtual_tokens", "say --virtual-tokens",
            "use_dora", "say --method dora",
            "inference_mode", "it is false while training");

    private static final Set<String> ORIGIN =
            Set.of("auto_mapping", "base_model_name_or_path", "peft_version", "revision");

    /// Checks that `--set` names only fields that at least one of `methods` has, with values that they can have.
    static void requireSettings(TrainingOptions o, List<Method> methods) {
        if (o.set.isEmpty()) {
            return;
        }
        Set<String> known = new TreeSet<>();
        for (Method m : methods) {
            PeftConfig config = m.config(o, TaskType.SEQ_CLS, 100);
            if (config != null) {
                known.addAll(fields(config));
            }
        }
        String of = methods.stream().map(Method::toString).collect(Collectors.joining(", "));
        o.set.forEach((name, value) -> {
            if (NOT_SET.containsKey(name)) {
                throw new InputException("--set " + name + "=" + value + ": cannot be set; " + NOT_SET.get(name));
            }
            if (!known.contains(name)) {
                throw new InputException("--set " + name + "=" + value + ": " + of + " has no such field"
                        + Nearest.hint(List.of(name), known)
                        + (known.isEmpty() ? "; leave it out" : "; choose one of " + String.join(", ", known)));
            }
        });
    }

    private static Set<String> fields(PeftConfig config) {
        Set<String> fields = new TreeSet<>();
        config.toJson().fieldNames().forEachRemaining(fields::add);
        fields.removeAll(ORIGIN);
        fields.removeAll(NOT_SET.keySet());
        return fields;
    }

    /// `config` with those fields of `--set` that it has, checked as those of a file.
    private static PeftConfig with(Map<String, String> set, PeftConfig config) {
        Set<String> fields = fields(config);
        ObjectNode json = config.toJson();
        set.forEach((name, value) -> {
            if (fields.contains(name)) {
                json.set(name, value(value));
            }
        });
        return set.isEmpty() ? config : PeftConfig.fromJson(new ConfigJson("--set", json));
    }

    /// What is written as JSON, and any other text as it is.
    private static JsonNode value(String typed) {
        try {
            return JSON.readTree(typed);
        } catch (JacksonException e) {
            return TextNode.valueOf(typed);
        }
    }

    /// The method's configuration for a model of `task`, with what `--set` says; null for [#FULL], which needs none.
    ///
    /// @param steps of the whole run: AdaLoRA starts to cut ranks after a fifth of them and stops a fifth before the
    ///     end
    @Nullable
    PeftConfig config(TrainingOptions o, TaskType task, int steps) {
        PeftConfig config = usual(o, task, steps);
        return config == null ? null : with(o.set, config);
    }

    private @Nullable PeftConfig usual(TrainingOptions o, TaskType task, int steps) {
        return switch (this) {
            case FULL -> null;
            case LORA -> lora(o, task);
            case DORA -> lora(o, task).withDora(true);
            case ADALORA ->
                AdaLoraConfig.defaults()
                        .withRanks(o.rank + (o.rank + 1) / 2, o.rank)
                        .withSchedule(steps / 5, steps / 5, Math.max(1, steps / 100))
                        .withLora(lora(o, task));
            case P_TUNING ->
                PromptEncoderConfig.of(o.virtualTokens)
                        .withEncoder(o.encoder(), null, 2, 0)
                        .withTask(task);
            case PROMPT -> PromptTuningConfig.of(o.virtualTokens).withTask(task);
            case PREFIX -> PrefixTuningConfig.of(o.virtualTokens).withTask(task);
            case ADAPTER -> BottleneckConfig.houlsby().withDropout(o.dropout).withTask(task);
            case IA3 -> Ia3Config.defaults().withTask(task);
            case LN_TUNING -> LnTuningConfig.defaults().withTargets(o.targets()).withTask(task);
            case BITFIT -> BitFitConfig.defaults().withTask(task);
        };
    }

    private static LoraConfig lora(TrainingOptions o, TaskType task) {
        return LoraConfig.defaults()
                .withRank(o.rank, o.alpha)
                .withDropout(o.dropout)
                .withTargets(o.targets())
                .withTask(task);
    }
}
