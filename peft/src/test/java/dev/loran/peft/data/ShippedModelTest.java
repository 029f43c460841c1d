package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ShippedModelTest {
    private static final List<String> FILES =
            List.of("config.json", "model.safetensors", "tokenizer.json", "README.md");

    @TempDir
    private Path place;

    private Path resources;
    private Path cache;

    /// A class path with files of that name; the program reads no more than their bytes.
    @BeforeEach
    void resources() throws IOException, NoSuchAlgorithmException {
        cache = place.resolve("cache");
        resources = Files.createDirectories(place.resolve("jar").resolve("dev/loran/peft/data/loran-tiny"));
        StringBuilder sums = new StringBuilder();
        for (String file : FILES) {
            byte[] bytes = ("the " + file).getBytes(StandardCharsets.UTF_8);
            Files.write(resources.resolve(file), bytes);
            String sum = HexFormat.of()
                    .formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
            sums.append(sum).append("  ").append(file).append('\n');
        }
        Files.writeString(resources.resolve("SHA256SUMS"), sums);
    }

    private Path folder() throws IOException {
        try (URLClassLoader classPath =
                new URLClassLoader(new URL[] {place.resolve("jar").toUri().toURL()}, null)) {
            return ShippedModel.folder(cache, classPath);
        }
    }

    @Test
    void theFilesAreCopiedToTheCacheOnce() throws IOException {
        Path folder = folder();
        assertThat(folder.getFileName().toString()).matches("loran-tiny-[0-9a-f]{12}");
        for (String file : FILES) {
            assertThat(folder.resolve(file)).hasContent("the " + file);
        }
        Files.delete(resources.resolve("model.safetensors"));
        assertThat(folder()).as("not needed again").isEqualTo(folder);
        try (Stream<Path> files = Files.list(cache)) {
            assertThat(files).as("no drafts stay behind").containsExactly(folder);
        }
    }

    @Test
    void aDamagedFileIsRefusedAndNothingStaysBehind() throws IOException {
        Files.writeString(resources.resolve("model.safetensors"), "other weights");
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessageContaining("model.safetensors")
                .hasMessageContaining("SHA-256");
        assertThat(cache).isEmptyDirectory();
    }

    @Test
    void filesStayInTheirFolder() throws IOException {
        Files.writeString(resources.resolve("SHA256SUMS"), "00  ../evil\n");
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessageContaining("holds a line that is none: 00  ../evil");
    }

    @Test
    void aBuildWithoutTheModelSaysHowToMakeIt() throws IOException {
        Files.delete(resources.resolve("SHA256SUMS"));
        assertThatThrownBy(this::folder)
                .isInstanceOf(InputException.class)
                .hasMessage("loran-tiny: this build of Loran does not contain it; make it with "
                        + "benchmarks/loran-tiny.sh, and build again");
    }
}
