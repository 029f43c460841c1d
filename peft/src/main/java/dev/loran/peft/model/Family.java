package dev.loran.peft.model;

import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// What is known of a family of models beside what its models compute: a table, which stands in the family's own file
/// ([LlamaModel#FAMILY]). [HfModels#FAMILIES] lists those that are shipped; [HfModels#load] takes families of your own.
///
/// @param modelType Hugging Face's `model_type`
/// @param title what the names of its classes in transformers begin with, such as `Llama`
/// @param classes how the names of those classes end that are read, such as `Model`; where some have a head for the
///     next token, that comes first. Empty where no class is named
/// @param prefix what a model with a head puts before the names of all that is below the head, with its dot; files may
///     leave it out or add it
/// @param buffers regular expression of names in files that are masks and tables which a model computes itself
/// @param targets the modules that a method adapts where nobody names them, by the method's `peft_type`;
///     [#FEED_FORWARD] are those whose input IA3 scales; under `BOTTLENECK` the places below a block where the adapters
///     behind attention and behind the feed-forward network are called from
/// @param maker makes its models
public record Family(
        String modelType,
        String title,
        List<String> classes,
        String prefix,
        String buffers,
        Map<String, List<String>> targets,
        Maker maker) {
    /// The key among the [#targets] of the modules whose input IA3 scales.
    public static final String FEED_FORWARD = "IA3 feedforward_modules";

    /// How the name of a class with a head for classes ends.
    static final String CLASSIFIER = "ForSequenceClassification";

    /// How the name of a class without any head ends.
    static final String BARE = "Model";

    /// Makes a model of a family.
    public interface Maker {
        /// The model of a folder, or one with random weights.
        ///
        /// @param config the folder's `config.json`; a value that changes what is computed and is not understood has to
        ///     be refused: [HfConfig#only]
        /// @param weights asked for each parameter once, in reading order
        /// @param labels classes of the head for classes; 0 for a model of another kind
        Model make(HfConfig config, Weights weights, int labels);
    }

    public Family {
        classes = List.copyOf(classes);
        targets = Map.copyOf(targets);
    }

    /// What the first of these methods that has a table adapts; null where none has.
    public @Nullable List<String> targets(List<String> methods) {
        return methods.stream()
                .map(targets::get)
                .filter(Objects::nonNull)
                .findFirst()
                .orElse(null);
    }

    /// The names that parameter `name` of a model may have in a file.
    List<String> fileNames(String name) {
        String other = name.startsWith(prefix) ? name.substring(prefix.length()) : prefix + name;
        if (!name.contains("LayerNorm.")) {
            return List.of(name, other);
        }
        // The first files, converted from TensorFlow, call such a norm's weight gamma and its bias beta.
        return List.of(name, formerly(name), other, formerly(other));
    }

    private static String formerly(String name) {
        return name.replace(".weight", ".gamma").replace(".bias", ".beta");
    }

    /// Whether a file may hold tensor `name`, which no model of the family has.
    boolean isBuffer(String name) {
        return name.matches(buffers);
    }

    /// Refuses a class of another kind.
    void check(HfConfig config) {
        if (!classes.isEmpty()) {
            config.only(
                    "architectures",
                    classes.stream().map(c -> "[\"" + title + c + "\"]").toArray(String[]::new));
        }
    }

    /// Whether a config asks for a model without any head: its class has none, and neither the files nor the table of
    /// embeddings make one.
    ///
    /// @param isTied whether the head would be the table
    boolean isBare(HfConfig config, Weights weights, boolean isTied) {
        return (title + BARE).equals(config.className()) && !isTied && !weights.has(HfModels.HEAD);
    }

    /// The family of `all` whose `model_type` the config names.
    static Family of(HfConfig config, List<Family> all) {
        config.only(
                "model_type", all.stream().map(f -> "\"" + f.modelType + "\"").toArray(String[]::new));
        String type = config.text("model_type");
        return all.stream().filter(f -> f.modelType.equals(type)).findFirst().orElseThrow();
    }
}
