package dev.loran.peft.cli;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.data.InputException;
import dev.loran.peft.data.Nearest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;

/// What every command takes.
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

    /// Options of `--config` that were not typed take their values from there.
    static void readConfig(CommandSpec spec, Path file) {
        Map<String, String> values = read(file);
        TreeSet<String> unknown = new TreeSet<>(values.keySet());
        List<String> known = spec.options().stream().map(CommonOptions::name).toList();
        unknown.removeAll(known);
        if (!unknown.isEmpty()) {
            throw new InputException(file + ": " + unknown + " are no options of " + spec.qualifiedName()
                    + Nearest.hint(unknown, known));
        }
        spec.defaultValueProvider(argument -> argument instanceof OptionSpec option ? values.get(name(option)) : null);
    }

    /// What such a file says, by the options' names.
    static Map<String, String> read(Path file) {
        try {
            JsonNode json = new ObjectMapper().readTree(Files.readString(file));
            if (!json.isObject()) {
                throw new InputException(file + ": is no JSON object");
            }
            Map<String, String> values = new LinkedHashMap<>();
            json.properties().forEach(e -> {
                if (!e.getValue().isNull()) {
                    values.put(e.getKey(), e.getValue().asText());
                }
            });
            return values;
        } catch (JsonProcessingException e) {
            throw new InputException(file + ": is no JSON (" + e.getOriginalMessage() + ")", e);
        } catch (IOException e) {
            throw new InputException(file + ": cannot be read", e);
        }
    }

    /// All options of a command that have a value, by name: what `run.json` holds, and `--config` takes.
    static Map<String, Object> resolved(CommandSpec spec) {
        Map<String, Object> values = new LinkedHashMap<>();
        for (OptionSpec option : spec.options()) {
            Object value = option.getValue();
            if (value != null
                    && !option.usageHelp()
                    && !name(option).equals("json")
                    && !name(option).equals("config")) {
                values.put(
                        name(option), value instanceof Number || value instanceof Boolean ? value : value.toString());
            }
        }
        return values;
    }

    private static String name(OptionSpec option) {
        return option.longestName().substring(2);
    }
}
