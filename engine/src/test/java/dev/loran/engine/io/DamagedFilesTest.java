package dev.loran.engine.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Everything that can be wrong with a file is reported in one line.
class DamagedFilesTest {
    @TempDir
    private Path folder;

    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingLeaks() {
        assertThat(backend.liveBuffers()).isZero();
        backend.close();
    }

    private Path file(String header, byte[] data) throws IOException {
        return Crafted.file(folder, header, data);
    }

    private Path bytes(byte[] bytes) throws IOException {
        return Files.write(folder.resolve("f"), bytes);
    }

    private void refused(Path file, String message) {
        assertThatThrownBy(() -> SafeTensors.open(file).close())
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage(file + message);
    }

    @Test
    void aDamagedStartIsRefused() throws IOException {
        refused(folder.resolve("absent"), ": no such file");
        refused(bytes(new byte[7]), ": 7 bytes are too few for a safetensors file, it is truncated or something else");
        refused(
                bytes("PK\3\4PK\3\4".getBytes(StandardCharsets.US_ASCII)),
                ": header length 289157608118635344 is not between 2 and 100000000; this is no safetensors file");
        refused(
                bytes(new byte[] {-1, -1, -1, -1, -1, -1, -1, -1}),
                ": header length 18446744073709551615 is not between 2 and 100000000; this is no safetensors file");
        refused(
                bytes(new byte[] {9, 0, 0, 0, 0, 0, 0, 0, '{', '}'}),
                ": header length 9 exceeds the file of 10 bytes, which is truncated or something else");
        refused(bytes(new byte[] {2, 0, 0, 0, 0, 0, 0, 0, '{', -1}), ": header: no UTF-8 text");
        assertThatThrownBy(() -> SafeTensors.open(folder).close())
                .isInstanceOf(SafeTensorsException.class)
                .hasMessageStartingWith(folder + ": cannot be read: ");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "'dtype':'F8_E4M3','shape':[2],'data_offsets':[0,2]|dtype F8_E4M3 cannot be read ([F64, F32, BF16, F16, I64, I32, I8, U8, BOOL] can)",
                "'shape':[2],'data_offsets':[0,8]|dtype null cannot be read ([F64, F32, BF16, F16, I64, I32, I8, U8, BOOL] can)",
                "'dtype':'F32','data_offsets':[0,8]|shape is missing",
                "'dtype':'F32','shape':[2]|data_offsets is missing",
                "'dtype':'F32','shape':2,'data_offsets':[0,8]|shape is no array",
                "'dtype':'F32','shape':[-2],'data_offsets':[0,8]|shape holds -2, which is no length",
                "'dtype':'F32','shape':[2.0],'data_offsets':[0,8]|shape holds 2.0, which is no length",
                "'dtype':'F32','shape':[null],'data_offsets':[0,8]|shape holds null, which is no length",
                "'dtype':'F32','shape':[2],'data_offsets':[0,8,8]|data_offsets needs 2 numbers, has 3",
                "'dtype':'F32','shape':[2],'data_offsets':[8,0]|data_offsets [8, 0] do not lie within the file's 8 bytes of data; it is damaged or truncated",
                "'dtype':'F32','shape':[4],'data_offsets':[0,16]|data_offsets [0, 16] do not lie within the file's 8 bytes of data; it is damaged or truncated",
                "'dtype':'F32','shape':[3],'data_offsets':[0,8]|shape (3) of F32 needs 12 bytes, data_offsets give 8",
                "'dtype':'F32','shape':[4294967296],'data_offsets':[0,8]|dimension 4294967296 is too large (at most 2147483647)",
                "'dtype':'F32','shape':[2147483647,2147483647,4],'data_offsets':[0,8]|shape of 3 dimensions overflows",
                "'dtype':'F64','shape':[2147483647,2147483647],'data_offsets':[0,8]|shape of 2 dimensions overflows",
                "'dtype':'F32','shape':[2],'data_offsets':[0,8],'scale':1|unknown field scale",
            })
    void aDamagedEntryIsRefused(String entry, String message) throws IOException {
        Path file = file("{\"x\":{" + entry.replace('\'', '"') + "}}", new byte[8]);
        refused(file, ": tensor x: " + message);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{'x':[0,4],'y':[2,6]}|tensor y: overlaps the tensor before it by 2 bytes",
                "{'x':[0,4],'y':[0,4]}|tensor y: overlaps the tensor before it by 4 bytes",
                "{'x':[0,4],'y':[5,9]}|tensor y: is preceded by a hole of 1 bytes",
                "{'x':[1,5],'y':[5,9]}|tensor x: is preceded by a hole of 1 bytes",
                "{'x':[0,4],'y':[4,8]}|1 bytes after the last tensor belong to none",
                "{}|9 bytes after the last tensor belong to none",
                "{'x':[0,4],'x':[4,8]}|header: no valid JSON at character 57: key \"x\" stands twice in an object",
            })
    void tensorsFillTheFileExactly(String places, String message) throws IOException {
        String header = places.replace('\'', '"')
                .replaceAll("\\[.,.]", "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":$0}");
        refused(file(header, new byte[9]), ": " + message);
    }

    @Test
    void otherFaultsOfTheHeaderAreRefused() throws IOException {
        refused(file("{\"x\":1}", new byte[0]), ": tensor x: is no object");
        refused(file("{\"__metadata__\":[]}", new byte[0]), ": __metadata__ is no object");
        refused(file("{\"__metadata__\":{\"a\":1}}", new byte[0]), ": __metadata__: value of a is no string");
        refused(
                file("{}  x", new byte[0]),
                ": header: no valid JSON at character 4: text goes on after the end of the object");
    }

    @Test
    void anEmptyFileOfTensorsIsLegal() throws IOException {
        try (SafeTensors file = SafeTensors.open(file("{}  ", new byte[0]))) {
            assertThat(file.names()).isEmpty();
        }
        Path written = folder.resolve("none.safetensors");
        SafeTensors.write(written, Map.of(), Map.of());
        try (SafeTensors file = SafeTensors.open(written)) {
            assertThat(file.names()).isEmpty();
        }
        assertThat(Files.size(written)).isEqualTo(16);
    }

    @Test
    void aBooleanIsZeroOrOne() throws IOException {
        Path path = file("{\"x\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}", new byte[] {1, 7});
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThatThrownBy(() -> file.tensor(backend, "x", DType.I32))
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessage(path + ": tensor x: element 1 is 7, no BOOL");
        }
    }

    /// Bytes are flipped, removed, duplicated and inserted, mostly in headers, where they do harm. A file must be read
    /// or rejected, and every rejection must be the same exception.
    @Test
    void mutatedFilesAreReadOrRefused() throws IOException {
        SplittableRandom random = new SplittableRandom(20);
        int refused = 0;
        int read = 0;
        for (String name : List.of("native.safetensors", "integers.safetensors")) {
            byte[] valid = Files.readAllBytes(Crafted.resource(folder, name));
            for (int i = 0; i < 500; i++) {
                Path file = bytes(mutate(valid, random));
                try {
                    readAll(file, backend);
                    read++;
                } catch (SafeTensorsException e) {
                    assertThat(e.getMessage()).startsWith(file.toString()).doesNotContain("\n");
                    refused++;
                }
            }
        }
        assertThat(refused).isGreaterThan(500);
        assertThat(read).isGreaterThan(20);
    }

    private static void readAll(Path path, Backend backend) {
        try (SafeTensors file = SafeTensors.open(path)) {
            for (String name : file.names()) {
                if (name.equals("too_large.i64")) {
                    continue;
                }
                try (Tensor t =
                        file.tensor(backend, name, file.entry(name).dtype().dtype())) {
                    assertThat(t.toDoubles()).hasSize((int) t.shape().size());
                }
            }
        }
    }

    private static byte[] mutate(byte[] valid, SplittableRandom random) {
        byte[] b = valid.clone();
        String tokens = "0123456789[]{}\":,-.eE\\u nt\0";
        for (int k = random.nextInt(1, 4); k > 0; k--) {
            int at = random.nextInt(b.length);
            switch (random.nextInt(6)) {
                case 0 -> b[at] = (byte) random.nextInt(256);
                case 1 -> b[at] ^= (byte) (1 << random.nextInt(8));
                case 2 -> b[at] = (byte) tokens.charAt(random.nextInt(tokens.length()));
                case 3 -> b[random.nextInt(Math.min(8, b.length))] = (byte) random.nextInt(256);
                case 4 -> b = Arrays.copyOf(b, 1 + at);
                default -> {
                    // A piece is duplicated and the header's length adjusted, so that the damage lies deeper.
                    int n = Math.min(random.nextInt(1, 40), b.length - at);
                    ByteBuffer longer = ByteBuffer.allocate(b.length + n).order(ByteOrder.LITTLE_ENDIAN);
                    longer.put(b, 0, at + n).put(b, at, b.length - at);
                    if (longer.limit() >= 8) {
                        longer.putLong(0, longer.getLong(0) + n);
                    }
                    b = longer.array();
                }
            }
        }
        return b;
    }
}
