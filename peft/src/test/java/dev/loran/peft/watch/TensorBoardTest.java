package dev.loran.peft.watch;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Event files, read back by a parser of their own.
class TensorBoardTest {
    @TempDir
    Path folder;

    /// The fields of a message by number: a long, a double, a float, or the bytes of strings and messages.
    private static Map<Integer, List<Object>> fields(byte[] message) {
        Map<Integer, List<Object>> fields = new TreeMap<>();
        ByteBuffer in = ByteBuffer.wrap(message).order(ByteOrder.LITTLE_ENDIAN);
        while (in.hasRemaining()) {
            int key = (int) varint(in);
            Object value = switch (key & 7) {
                case 0 -> varint(in);
                case 1 -> in.getDouble();
                case 5 -> in.getFloat();
                case 2 -> {
                    byte[] bytes = new byte[(int) varint(in)];
                    in.get(bytes);
                    yield bytes;
                }
                default -> throw new IllegalArgumentException("wire type " + (key & 7));
            };
            fields.computeIfAbsent(key >> 3, k -> new ArrayList<>()).add(value);
        }
        return fields;
    }

    private static long varint(ByteBuffer in) {
        long value = 0;
        for (int shift = 0; ; shift += 7) {
            byte b = in.get();
            value |= (long) (b & 0x7f) << shift;
            if (b >= 0) {
                return value;
            }
        }
    }

    /// CRC-32C bit by bit: the reflected polynomial 0x82F63B78.
    private static int crc(byte[] bytes) {
        int crc = -1;
        for (byte b : bytes) {
            crc ^= b & 0xff;
            for (int i = 0; i < 8; i++) {
                crc = crc >>> 1 ^ ((crc & 1) == 0 ? 0 : 0x82F63B78);
            }
        }
        return ~crc;
    }

    private static int masked(byte[] bytes) {
        int crc = crc(bytes);
        return (crc >>> 15 | crc << 17) + 0xa282ead8;
    }

    private static List<Map<Integer, List<Object>>> events(Path file) throws IOException {
        List<Map<Integer, List<Object>>> events = new ArrayList<>();
        ByteBuffer in = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        while (in.hasRemaining()) {
            byte[] length = new byte[8];
            in.get(length);
            assertThat(in.getInt()).isEqualTo(masked(length));
            byte[] data = new byte
                    [(int) ByteBuffer.wrap(length)
                            .order(ByteOrder.LITTLE_ENDIAN)
                            .getLong()];
            in.get(data);
            assertThat(in.getInt()).isEqualTo(masked(data));
            events.add(fields(data));
        }
        return events;
    }

    private List<Path> files() throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.sorted().toList();
        }
    }

    /// The check values of RFC 3720, B.4, and the mask of zero.
    @Test
    void checksums() {
        assertThat(crc(new byte[32])).isEqualTo(0x8a9136aa);
        byte[] ones = new byte[32];
        java.util.Arrays.fill(ones, (byte) 0xff);
        assertThat(crc(ones)).isEqualTo(0x62a8ab43);
        assertThat(EventFile.maskedCrc(ones)).isEqualTo(masked(ones));
        assertThat(EventFile.maskedCrc(new byte[0])).isEqualTo(0xa282ead8);
        // The first twelve bytes of files that TensorBoard's own writer makes: a record of 24 bytes.
        byte[] length = HexFormat.of().parseHex("1800000000000000");
        assertThat(EventFile.maskedCrc(length)).isEqualTo(0x224b7fa3);
    }

    private static Object first(Map<Integer, List<Object>> message, int field) {
        return requireNonNull(message.get(field)).getFirst();
    }

    @Test
    void scalarsAreReadBack() throws IOException {
        try (EventFile file = new EventFile(folder, 1)) {
            file.scalars(1, Map.of("train/loss", 0.75));
            file.scalars(300, Map.of("eval/accuracy", 0.5));
        }
        List<Map<Integer, List<Object>>> events = events(files().getFirst());
        assertThat(events).hasSize(4);
        assertThat(new String((byte[]) first(events.get(0), 3), StandardCharsets.UTF_8))
                .isEqualTo("brain.Event:2");
        assertThat((double) first(events.get(0), 1)).isCloseTo(System.currentTimeMillis() / 1e3, within(100.0));
        assertThat(events.get(1).get(2)).containsExactly(1L);
        assertThat(fields((byte[]) first(events.get(1), 7)).get(1)).containsExactly(1L);
        assertThat(events.get(3).get(2)).containsExactly(300L);
        Map<Integer, List<Object>> value = fields((byte[]) first(fields((byte[]) first(events.get(3), 5)), 1));
        assertThat(new String((byte[]) first(value, 1), StandardCharsets.UTF_8)).isEqualTo("eval/accuracy");
        assertThat(value.get(2)).containsExactly(0.5f);
    }

    @Test
    void aResumedRunGoesOnInAFileThatComesLater() throws IOException {
        new TensorBoard(folder).begun(0, 10);
        Path first = files().getFirst();
        new TensorBoard(folder).begun(4, 10);
        assertThat(files()).hasSize(2).first().isEqualTo(first);
        assertThat(events(files().getLast()).get(1).get(2)).containsExactly(5L);
    }
}
