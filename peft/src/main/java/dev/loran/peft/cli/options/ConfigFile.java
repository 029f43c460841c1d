package dev.loran.peft.cli.options;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import com.fasterxml.jackson.dataformat.yaml.YAMLParser;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/// A file that a user writes: one object, in YAML if the name ends in `.yaml` or `.yml`, else in JSON.
///
/// YAML is read as plain values: tags name no Java types. Anchors and aliases are refused, so that a small file cannot
/// stand for a large one.
public final class ConfigFile {
    private static final ObjectMapper YAML = new ObjectMapper(YAMLFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);

    private ConfigFile() {}

    /// The object in `file`.
    ///
    /// @throws InputException that names the file, and the line if it is damaged
    public static ObjectNode read(Path file) {
        if (!file.toString().matches("(?i).*\\.ya?ml")) {
            return JsonFile.read(file);
        }
        InputException.requireWhole(file);
        try {
            byte[] text = Files.readAllBytes(file);
            requireNoAliases(file, text);
            if (YAML.readTree(text) instanceof ObjectNode object) {
                return object;
            }
            throw new InputException(file + ": is no YAML object; write one \"name: value\" per line");
        } catch (JacksonException e) {
            throw JsonFile.damaged(file, "YAML", e);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    private static void requireNoAliases(Path file, byte[] text) throws IOException {
        try (YAMLParser parser = (YAMLParser) YAML.getFactory().createParser(text)) {
            while (parser.nextToken() != null) {
                if (parser.isCurrentAlias() || parser.getObjectId() != null) {
                    throw InputException.at(
                            file.toString(),
                            parser.currentTokenLocation().getLineNr(),
                            "anchors and aliases (& and *) are not supported; write the value itself");
                }
            }
        }
    }
}
