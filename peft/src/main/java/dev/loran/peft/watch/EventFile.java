package dev.loran.peft.watch;

import dev.loran.peft.io.InputException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import java.util.zip.CRC32C;

/// An event file of TensorBoard, each record on disk before the next.
///
/// A record is, in little-endian order, the length of its data (8 bytes), the masked CRC32C of these 8 bytes (4 bytes),
/// the data, and the masked CRC32C of the data (4 bytes). The data is the protobuf message `tensorflow.Event`, of which
/// these fields are written:
///
/// | message | field | number | type |
/// |---|---|---|---|
/// | `Event` | `wall_time` | 1 | double |
/// | | `step` | 2 | varint |
/// | | `file_version` | 3 | string, in the first record only |
/// | | `summary` | 5 | `Summary`, whose field 1 is repeated: `Value` |
/// | | `session_log` | 7 | `SessionLog`, whose field 1 is `START` (1) |
/// | `Value` | `tag` | 1 | string |
/// | | `simple_value` | 2 | float |
final class EventFile implements AutoCloseable {
    private static final int VARINT = 0;
    private static final int EIGHT_BYTES = 1;
    private static final int BYTES = 2;
    private static final int FOUR_BYTES = 5;

    private final Path file;
    private final OutputStream out;

    /// Begins a file in `folder`, whose name comes after those of the files there.
    ///
    /// @param firstStep the first step that will be written: TensorBoard drops those of earlier files from it on
    EventFile(Path folder, int firstStep) {
        double now = System.currentTimeMillis() / 1e3;
        try {
            Files.createDirectories(folder);
            long before;
            try (Stream<Path> files = Files.list(folder)) {
                before = files.count();
            }
            file = folder.resolve(String.format(Locale.ROOT, "events.out.tfevents.%010d.loran.%d", (long) now, before));
            out = Files.newOutputStream(file);
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be written", e);
        }
        record(new Message().number(1, now).bytes(3, "brain.Event:2".getBytes(StandardCharsets.UTF_8)));
        record(new Message()
                .number(1, now)
                .varint(2, firstStep)
                .bytes(7, new Message().varint(1, 1).bytes()));
    }

    /// Writes scalars of one step.
    void scalars(int step, Map<String, Double> values) {
        Message summary = new Message();
        values.forEach((tag, value) -> summary.bytes(
                1,
                new Message()
                        .bytes(1, tag.getBytes(StandardCharsets.UTF_8))
                        .single(2, value.floatValue())
                        .bytes()));
        record(new Message()
                .number(1, System.currentTimeMillis() / 1e3)
                .varint(2, step)
                .bytes(5, summary.bytes()));
    }

    private void record(Message event) {
        byte[] data = event.bytes();
        byte[] length = ByteBuffer.allocate(8)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(data.length)
                .array();
        ByteBuffer all = ByteBuffer.allocate(data.length + 16).order(ByteOrder.LITTLE_ENDIAN);
        all.put(length).putInt(maskedCrc(length)).put(data).putInt(maskedCrc(data));
        try {
            out.write(all.array());
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    /// The CRC32C of `bytes`, rotated right by 15 bits, plus a constant, as TFRecord files hold it.
    static int maskedCrc(byte[] bytes) {
        CRC32C crc = new CRC32C();
        crc.update(bytes);
        return Integer.rotateRight((int) crc.getValue(), 15) + 0xa282ead8;
    }

    @Override
    public void close() {
        try {
            out.close();
        } catch (IOException e) {
            throw InputException.io(file, "cannot be written", e);
        }
    }

    /// The fields of a protobuf message.
    private static final class Message {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();

        byte[] bytes() {
            return out.toByteArray();
        }

        private void varint(long value) {
            long rest = value;
            while ((rest & ~0x7FL) != 0) {
                out.write((int) (rest & 0x7F | 0x80));
                rest >>>= 7;
            }
            out.write((int) rest);
        }

        private Message field(int number, int type, byte[] value) {
            varint((long) number << 3 | type);
            out.writeBytes(value);
            return this;
        }

        Message varint(int number, long value) {
            varint((long) number << 3 | VARINT);
            varint(value);
            return this;
        }

        Message number(int number, double value) {
            return field(number, EIGHT_BYTES, little(8).putDouble(value).array());
        }

        Message single(int number, float value) {
            return field(number, FOUR_BYTES, little(4).putFloat(value).array());
        }

        Message bytes(int number, byte[] value) {
            varint((long) number << 3 | BYTES);
            varint(value.length);
            out.writeBytes(value);
            return this;
        }

        private static ByteBuffer little(int size) {
            return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
        }
    }
}
