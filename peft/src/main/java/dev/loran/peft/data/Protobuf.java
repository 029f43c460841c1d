package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/// Reads the fields of one protocol buffers message in order. Every length and offset is checked against the enclosing
/// message; one that does not fit is an [InputException] that names the file and the byte.
///
/// ```
/// while (message.next()) {
///     switch (message.field()) {
///         case 1 -> name = message.string();
///         case 2 -> child = message.message();
///         default -> {}   // fields that are not needed are skipped
///     }
/// }
/// ```
final class Protobuf {
    private static final int VARINT = 0;
    private static final int FIXED64 = 1;
    private static final int LENGTH_DELIMITED = 2;
    private static final int FIXED32 = 5;

    private final MemorySegment bytes;
    private final String file;
    /// The offset of the message in the file, for error messages.
    private final long origin;

    private long position;
    private int field;
    private int wireType;
    private long number;
    private MemorySegment content = MemorySegment.NULL;
    private long contentOrigin;

    Protobuf(MemorySegment bytes, String file) {
        this(bytes, file, 0);
    }

    private Protobuf(MemorySegment bytes, String file, long origin) {
        this.bytes = bytes;
        this.file = file;
        this.origin = origin;
    }

    /// Moves to the next field; false at the end of the message.
    boolean next() {
        if (position == bytes.byteSize()) {
            return false;
        }
        long key = readVarint();
        wireType = (int) (key & 7);
        if (key >>> 3 == 0 || key >>> 3 > 0x1fff_ffff) {
            throw bad("there is no field number " + (key >>> 3));
        }
        field = (int) (key >>> 3);
        switch (wireType) {
            case VARINT -> number = readVarint();
            case FIXED64 -> advance(Long.BYTES);
            case FIXED32 -> advance(Integer.BYTES);
            case LENGTH_DELIMITED -> {
                long length = readVarint();
                contentOrigin = origin + position;
                long start = position;
                advance(length);
                content = bytes.asSlice(start, length);
            }
            default -> throw bad("wire type " + wireType + " is not known");
        }
        return true;
    }

    int field() {
        return field;
    }

    /// Whether the field is length-delimited: a string, bytes, a message, or packed numbers.
    boolean isDelimited() {
        return wireType == LENGTH_DELIMITED;
    }

    /// The integer of the field.
    long integer() {
        require(VARINT, "an integer");
        return number;
    }

    /// The bytes of the field: a view of the file, not a copy.
    MemorySegment bytes() {
        require(LENGTH_DELIMITED, "bytes");
        return content;
    }

    /// The text of the field.
    String string() {
        return new String(bytes().toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
    }

    /// The message of the field.
    Protobuf message() {
        return new Protobuf(bytes(), file, contentOrigin);
    }

    /// The integers of a packed field.
    long[] packedIntegers() {
        Protobuf packed = message();
        long[] numbers = new long[Math.toIntExact(packed.bytes.byteSize())];
        int count = 0;
        while (packed.position < packed.bytes.byteSize()) {
            numbers[count++] = packed.readVarint();
        }
        return Arrays.copyOf(numbers, count);
    }

    private long readVarint() {
        long value = 0;
        for (int shift = 0; shift < Long.SIZE; shift += 7) {
            if (position == bytes.byteSize()) {
                throw bad("the message ends inside a number");
            }
            byte b = bytes.get(ValueLayout.JAVA_BYTE, position++);
            value |= (b & 0x7fL) << shift;
            if (b >= 0) {
                return value;
            }
        }
        throw bad("a number is longer than ten bytes");
    }

    private void advance(long length) {
        if (length < 0 || length > bytes.byteSize() - position) {
            throw bad("a field of " + Long.toUnsignedString(length) + " bytes, but its message has only "
                    + (bytes.byteSize() - position) + " more");
        }
        position += length;
    }

    private void require(int expected, String what) {
        if (wireType != expected) {
            throw bad("field " + field + " should hold " + what + ", but has wire type " + wireType);
        }
    }

    private InputException bad(String problem) {
        return new InputException(file + ": byte " + (origin + position) + ": " + problem + "; the file is damaged");
    }
}
