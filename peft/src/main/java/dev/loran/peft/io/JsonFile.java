package dev.loran.peft.io;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/// Reads and writes files that contain one JSON object, such as configurations.
public final class JsonFile {
    private static final ObjectMapper JSON = new ObjectMapper();

    private JsonFile() {}

    /// The object in `file`.
    ///
    /// @throws InputException that names the file, if it does not exist or contains anything else
    public static ObjectNode read(Path file) {
        InputException.requireWhole(file);
        try {
            if (JSON.readTree(Files.readAllBytes(file)) instanceof ObjectNode object) {
                return object;
            }
            throw new InputException(file + ": is no JSON object");
        } catch (JacksonException e) {
            throw damaged(file, "JSON", e);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// The error for a file that is not written in `language`.
    public static InputException damaged(Path file, String language, JacksonException e) {
        JsonLocation place = e.getLocation();
        String line = place == null || place.getLineNr() < 1 ? "" : "line " + place.getLineNr() + ": ";
        return new InputException(file + ": is no " + language + " (" + line + problem(e) + ")", e);
    }

    /// Writes `json` to `file` atomically.
    ///
    /// @throws InputException if it cannot be written
    public static void write(Path file, JsonNode json) {
        write(file, json.toPrettyString());
    }

    /// As above, for a text, which is followed by a line break.
    public static void write(Path file, String json) {
        try {
            try {
                Files.writeString(draft(file), json + "\n");
                Files.move(draft(file), file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
            } finally {
                clean(file);
            }
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    /// Removes what a process left that was killed while writing `file`.
    public static void clean(Path file) throws IOException {
        Files.deleteIfExists(draft(file));
    }

    private static Path draft(Path file) {
        return file.resolveSibling("." + file.getFileName() + ".part");
    }

    /// The problem with a text, in one line, without the library's internal details.
    public static String problem(JacksonException e) {
        String first = e.getOriginalMessage().lines().findFirst().orElse("");
        return first.replaceAll(" \\([^()]*\\[Source: [^\\]]*\\]\\)?", "");
    }
}
