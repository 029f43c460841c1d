package dev.loran.peft.cli.options;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;

/// The options of every command.
public final class CommonOptions {
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    public boolean help;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    public boolean json;

    @Option(
            names = "--config",
            paramLabel = "FILE",
            description =
                    "options by name, in JSON or YAML (.yaml), such as the run.json of another run; what is typed "
                            + "wins")
    public @Nullable Path config;

    /// The option that sets fields of a method's configuration. It stands in files as an object.
    private static final String SET = "set";

    /// Makes the values in a `--config` file the defaults of options that were not typed.
    ///
    /// @return what must be typed before all else: the file's `--set`
    public static List<String> readConfig(CommandSpec spec, Path file) {
        ObjectNode json = ConfigFile.read(file);
        Map<String, String> values = values(file, json);
        List<String> known = spec.options().stream().map(CommonOptions::name).toList();
        requireKnown(file + ": ", values.keySet(), known, "options of " + spec.qualifiedName());
        spec.defaultValueProvider(argument ->
                argument instanceof OptionSpec option && !name(option).equals(SET) ? values.get(name(option)) : null);
        return settings(file, json).entrySet().stream()
                .map(e -> "--" + SET + "=" + e.getKey() + "=" + e.getValue())
                .toList();
    }

    /// The fields that a file sets: a text as it is, everything else as JSON.
    private static Map<String, String> settings(Path file, ObjectNode json) {
        JsonNode set = json.path(SET);
        if (!set.isMissingNode() && !set.isNull() && !set.isObject()) {
            throw new InputException(file + ": " + SET + " is " + set + ", needs an object of fields and their values");
        }
        Map<String, String> settings = new LinkedHashMap<>();
        set.properties()
                .forEach(e -> settings.put(
                        e.getKey(),
                        e.getValue().isTextual()
                                ? e.getValue().textValue()
                                : e.getValue().toString()));
        return settings;
    }

    /// The names in a list with commas between.
    ///
    /// @param option the option that gives it
    /// @throws InputException for an empty name
    public static List<String> names(String option, String list) {
        List<String> names = List.of(list.strip().split("\\s*,\\s*", -1));
        if (names.contains("")) {
            throw new InputException(option + " \"" + list + "\" has an empty name; part names by one comma each");
        }
        return names;
    }

    /// @throws InputException for `names` that are not in `known`; it suggests the nearest known ones
    public static void requireKnown(String where, Set<String> names, List<String> known, String what) {
        TreeSet<String> unknown = new TreeSet<>(names);
        unknown.removeAll(known);
        if (!unknown.isEmpty()) {
            throw new InputException(where + unknown + " are no " + what + Nearest.hint(unknown, known));
        }
    }

    /// The contents of such a file, keyed by option name: a list with commas between, and [#SET] as [#resolved] has
    /// it.
    public static Map<String, String> read(Path file) {
        return values(file, ConfigFile.read(file));
    }

    private static Map<String, String> values(Path file, ObjectNode json) {
        Map<String, String> values = new LinkedHashMap<>();
        json.properties().forEach(e -> {
            JsonNode value = e.getValue();
            if (e.getKey().equals(SET)) {
                values.put(SET, settings(file, json).toString());
            } else if (value.isArray() && value.valueStream().allMatch(one -> one.isValueNode() && !one.isNull())) {
                values.put(e.getKey(), value.valueStream().map(JsonNode::asText).collect(Collectors.joining(",")));
            } else if (!value.isValueNode()) {
                throw new InputException(file + ": " + e.getKey() + " is " + value + ", needs one value");
            } else if (!value.isNull()) {
                values.put(e.getKey(), value.asText());
            }
        });
        return values;
    }

    /// Options that belong to a single command line: another run with the same options has its own.
    private static final List<String> NOT_OF_THE_RUN =
            List.of("json", "config", "out", "overwrite", "quiet", "verbose");

    /// All options of a command that have a value, by name: the contents of `run.json`, which `--config` accepts.
    public static Map<String, Object> resolved(CommandSpec spec) {
        Map<String, Object> values = new LinkedHashMap<>();
        for (OptionSpec option : spec.options()) {
            Object value = option.getValue();
            if (value == null || value instanceof Map<?, ?> map && map.isEmpty()) {
                continue;
            }
            if (!option.usageHelp() && !NOT_OF_THE_RUN.contains(name(option))) {
                boolean asItIs = value instanceof Number || value instanceof Boolean || value instanceof Map;
                values.put(name(option), asItIs ? value : value.toString());
            }
        }
        return values;
    }

    /// Adapts options that a command shares with others: what the help says of them, because their default or their
    /// meaning is another one there, and which of them it does not have.
    ///
    /// @param words what to say of an option, by its name with dashes
    public static CommandSpec adapt(CommandSpec spec, Map<String, String> words, List<String> without) {
        // All are taken out and added again, so that they stay in order.
        for (OptionSpec option : List.copyOf(spec.options())) {
            spec.remove(option);
            String description = words.get(option.longestName());
            if (!without.contains(option.longestName())) {
                spec.addOption(
                        description == null
                                ? option
                                : option.toBuilder().description(description).build());
            }
        }
        return spec;
    }

    /// Refuses to mix runs with different options in one folder: the options that all of them share are stored there,
    /// in `file`. Creates the folder if necessary.
    ///
    /// @param what the runs together, for messages
    /// @param replace whether the runs there are to be replaced, whatever their options
    /// @throws InputException if the folder holds those of others, or anything else
    public static void requireSame(Path file, String what, boolean replace, Map<String, Object> options) {
        ObjectNode now = JsonNodeFactory.instance.objectNode();
        options.forEach((name, value) -> {
            if (!name.equals("out") && !name.equals("threads")) {
                now.put(name, String.valueOf(value));
            }
        });
        Path folder = Objects.requireNonNull(file.getParent());
        if (Files.exists(file) && replace) {
            JsonFile.write(file, now);
            return;
        }
        if (Files.exists(file)) {
            ObjectNode before = JsonFile.read(file);
            Stream.concat(before.properties().stream(), now.properties().stream())
                    .map(Map.Entry::getKey)
                    .filter(name -> !before.path(name).equals(now.path(name)))
                    .findFirst()
                    .ifPresent(name -> {
                        throw new InputException(
                                "%s: holds a %s with %s %s, not %s; choose another --out, or the same options"
                                        .formatted(folder, what, name, said(before.path(name)), said(now.path(name))));
                    });
            return;
        }
        try {
            if (Files.exists(folder) && !RunFolder.isEmpty(folder)) {
                throw new InputException(folder + ": holds other files; choose a new or empty folder for the " + what);
            }
            Files.createDirectories(folder);
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be made a " + what + "'s folder", e);
        }
        JsonFile.write(file, now);
    }

    private static String said(JsonNode value) {
        return value.isMissingNode() ? "not given" : value.asText();
    }

    /// The option as it is typed, without the dashes.
    public static String name(OptionSpec option) {
        return option.longestName().substring(2);
    }
}
