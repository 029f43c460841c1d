package dev.loran.peft.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.peft.data.OnnxWeights;
import dev.loran.peft.data.Rows;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.task.LmTask;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class JsonFileTest {
    @TempDir
    Path folder;

    @Test
    void whatIsWrittenIsReadAndReplacesWhatWasThere() throws IOException {
        Path file = Files.writeString(folder.resolve("a.json"), "old");
        ObjectNode json = JsonNodeFactory.instance.objectNode().put("r", 8).put("text", "Ä");
        JsonFile.write(file, json);
        assertThat(JsonFile.read(file)).isEqualTo(json);
        try (var files = Files.list(folder)) {
            assertThat(files).containsExactly(file);
        }
        // With the permissions of any other file of the user, not those of a private one.
        assertThat(Files.getPosixFilePermissions(file))
                .isEqualTo(Files.getPosixFilePermissions(Files.writeString(folder.resolve("plain"), "")));
    }

    @Test
    void whatIsNoObjectIsRefusedByItsFile() throws IOException {
        Path file = folder.resolve("a.json");
        assertThatThrownBy(() -> JsonFile.read(file)).hasMessage(file + ": no such file");
        refused(file, "[1]", ": is no JSON object");
        refused(file, "", ": is no JSON object");
        refused(file, "{\"a\": ", ": is no JSON (line 1: Unexpected end-of-input within/between Object entries)");
        refused(file, "{", ": is no JSON (line 1: Unexpected end-of-input: expected close marker for Object)");
        Files.write(file, new byte[] {'{', '"', (byte) 0xff, '"', ':', '1', '}'});
        assertThatThrownBy(() -> JsonFile.read(file))
                .hasMessage(file + ": is no JSON (line 1: Invalid UTF-8 start byte 0xff)");
        Files.write(file, "\ufeff{\"a\": 1}".getBytes(StandardCharsets.UTF_8));
        assertThat(JsonFile.read(file).path("a").intValue()).isEqualTo(1);
    }

    private static void refused(Path file, String text, String problem) throws IOException {
        Files.writeString(file, text);
        assertThatThrownBy(() -> JsonFile.read(file))
                .isInstanceOf(InputException.class)
                .hasMessage(file + problem);
    }

    @Test
    void reasonsAreToldInWords() {
        assertThat(InputException.reason(new AccessDeniedException("/a"))).isEqualTo("/a: permission denied");
        assertThat(InputException.reason(new FileSystemException("/a", null, "No space left on device")))
                .isEqualTo("No space left on device");
        assertThat(InputException.reason(new IOException("Is a directory"))).isEqualTo("Is a directory");
        Path below = folder.resolve("none/a.json");
        assertThatThrownBy(() -> JsonFile.write(below, JsonNodeFactory.instance.objectNode()))
                .hasMessage(below + ": cannot be written (" + folder.resolve("none/.a.json.part") + " does not exist)");
        assertThat(InputException.io(Path.of("/a"), "cannot be read", new NoSuchFileException("/a")))
                .hasMessage("/a: no such file");
    }

    @Test
    void aPointerOfGitLfsIsCalledOneWhateverFileItStandsFor() throws IOException {
        String pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
        for (String name : List.of("config.json", "tokenizer.json", "model.onnx", "rows.jsonl")) {
            Path file = Files.writeString(folder.resolve(name), pointer);
            assertThatThrownBy(() -> {
                        switch (name) {
                            case "config.json" -> JsonFile.read(file);
                            case "tokenizer.json" -> Tokenizer.load(folder).close();
                            case "model.onnx" -> OnnxWeights.open(file).close();
                            default -> Rows.read(file, new LmTask());
                        }
                    })
                    .as(name)
                    .isInstanceOf(InputException.class)
                    .hasMessage(
                            file + ": is a Git LFS pointer, not the file itself; run git lfs pull where it came from");
        }
        for (String name : List.of("model.safetensors", "model.safetensors.index.json")) {
            Path file = Files.writeString(folder.resolve(name), pointer);
            assertThatThrownBy(() -> SafeTensors.openModel(folder))
                    .as(name)
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessageContaining(name + ": is a Git LFS pointer");
            Files.delete(file);
        }
    }
}
