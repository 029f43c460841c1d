package dev.loran.peft.model;

import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// Metadata of a model family, defined in the family's own file ([dev.loran.peft.model.decoder.LlamaModel#FAMILY]).
/// [dev.loran.peft.hf.HfModels#FAMILIES] lists the
/// built-in ones; [dev.loran.peft.hf.HfModels#load] also accepts user-defined families.
///
/// @param modelType Hugging Face's `model_type`
/// @param title the beginning of its class names in transformers, such as `Llama`
/// @param classes the endings of the supported class names, such as `Model`; if any has a language-model head, that one
///     comes first. Empty if there are no such classes
/// @param prefix what a model with a head puts before the names of all modules below the head, including the dot; files
///     may omit it or add it
/// @param buffers regular expression for the names in files of what no model of the family uses: masks and tables that
///     it computes itself, and heads for pretraining
/// @param targets the modules that a method adapts by default, by the method's `peft_type`; [#FEED_FORWARD] lists those
///     whose input IA3 scales; `BOTTLENECK` lists the places below a block that call the adapters after attention and
///     after the feed-forward network
/// @param maker creates its models
public record Family(
        String modelType,
        String title,
        List<String> classes,
        String prefix,
        String buffers,
        Map<String, List<String>> targets,
        Maker maker) {
    /// The key in [#targets] of the modules whose input IA3 scales.
    public static final String FEED_FORWARD = "IA3 feedforward_modules";

    /// The ending of the names of classes with a classification head.
    public static final String CLASSIFIER = "ForSequenceClassification";

    /// The ending of the names of classes with a classification head for each token.
    public static final String TOKEN_CLASSIFIER = "ForTokenClassification";

    /// The ending of the names of classes without a head.
    public static final String BARE = "Model";

    /// Creates a model of a family.
    public interface Maker {
        /// Creates the model of a folder, or one with random weights.
        ///
        /// @param config the folder's `config.json`; an unsupported value that would change the computation must be
        ///     rejected: [HfConfig#only]
        /// @param weights to be asked for each parameter once, in reading order
        /// @param labels number of classes of the classification head; 0 for a model of another kind
        Model make(HfConfig config, Weights weights, int labels);
    }

    public Family {
        classes = List.copyOf(classes);
        targets = Map.copyOf(targets);
    }

    /// The targets of the first of these methods that has any; null if none has.
    public @Nullable List<String> targets(List<String> methods) {
        return methods.stream()
                .map(targets::get)
                .filter(Objects::nonNull)
                .findFirst()
                .orElse(null);
    }

    /// The names that the model's parameter `name` may have in a file.
    public List<String> fileNames(String name) {
        String other = name.startsWith(prefix) ? name.substring(prefix.length()) : prefix + name;
        if (!name.contains("LayerNorm.")) {
            return List.of(name, other);
        }
        // The first files, converted from TensorFlow, name such a norm's weight gamma and its bias beta.
        return List.of(name, formerly(name), other, formerly(other));
    }

    private static String formerly(String name) {
        return name.replace(".weight", ".gamma").replace(".bias", ".beta");
    }

    /// Whether a file may hold tensor `name` although no model of the family uses it.
    public boolean isBuffer(String name) {
        return name.matches(buffers);
    }

    /// Rejects a class that is not supported.
    public void check(HfConfig config) {
        if (!classes.isEmpty()) {
            config.only(
                    "architectures",
                    classes.stream().map(c -> "[\"" + title + c + "\"]").toArray(String[]::new));
        }
    }

    /// Whether a config describes a model without a head: its class has none, the files hold none, and none is tied to
    /// the table of embeddings.
    ///
    /// @param head the name of the weight that a head would have
    /// @param isTied whether a head would be tied to the table
    public boolean isBare(HfConfig config, Weights weights, String head, boolean isTied) {
        return (title + BARE).equals(config.className()) && !isTied && !weights.has(head);
    }

    /// The family in `all` with the config's `model_type`.
    public static Family of(HfConfig config, List<Family> all) {
        config.only(
                "model_type", all.stream().map(f -> "\"" + f.modelType + "\"").toArray(String[]::new));
        String type = config.text("model_type");
        return all.stream().filter(f -> f.modelType.equals(type)).findFirst().orElseThrow();
    }
}
