package dev.loran.peft.cli;

import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.io.Nearest;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;

/// The options of every command.
final class CommonOptions {
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    boolean json;

    @Option(
            names = "--config",
            paramLabel = "FILE",
            description = "a JSON object of options by name, such as the run.json of another run; what is typed wins")
    @Nullable
    Path config;

    /// Makes the values in the `--config` file the defaults of options that were not typed.
    static void readConfig(CommandSpec spec, Path file) {
        Map<String, String> values = read(file);
        List<String> known = spec.options().stream().map(CommonOptions::name).toList();
        requireKnown(file + ": ", values.keySet(), known, "options of " + spec.qualifiedName());
        spec.defaultValueProvider(argument -> argument instanceof OptionSpec option ? values.get(name(option)) : null);
    }

    /// @throws InputException for `names` that are not in `known`; it suggests the nearest known ones
    static void requireKnown(String where, Set<String> names, List<String> known, String what) {
        TreeSet<String> unknown = new TreeSet<>(names);
        unknown.removeAll(known);
        if (!unknown.isEmpty()) {
            throw new InputException(where + unknown + " are no " + what + Nearest.hint(unknown, known));
        }
    }

    /// The contents of such a file, keyed by option name.
    static Map<String, String> read(Path file) {
        Map<String, String> values = new LinkedHashMap<>();
        JsonFile.read(file).properties().forEach(e -> {
            if (!e.getValue().isValueNode()) {
                throw new InputException(file + ": " + e.getKey() + " is " + e.getValue() + ", needs one value");
            }
            if (!e.getValue().isNull()) {
                values.put(e.getKey(), e.getValue().asText());
            }
        });
        return values;
    }

    /// Options that belong to a single command line: another run with the same options has its own.
    private static final List<String> NOT_OF_THE_RUN = List.of("json", "config", "out", "overwrite");

    /// All options of a command that have a value, by name: the contents of `run.json`, which `--config` accepts.
    static Map<String, Object> resolved(CommandSpec spec) {
        Map<String, Object> values = new LinkedHashMap<>();
        for (OptionSpec option : spec.options()) {
            Object value = option.getValue();
            if (value != null && !option.usageHelp() && !NOT_OF_THE_RUN.contains(name(option))) {
                values.put(
                        name(option), value instanceof Number || value instanceof Boolean ? value : value.toString());
            }
        }
        return values;
    }

    /// The option as it is typed, without the dashes.
    static String name(OptionSpec option) {
        return option.longestName().substring(2);
    }
}
