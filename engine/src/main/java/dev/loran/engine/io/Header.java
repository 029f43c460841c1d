package dev.loran.engine.io;

import dev.loran.engine.Shape;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// The validated header of a safetensors file: entries in order of their position, which cover the rest of the file
/// without gap or overlap.
record Header(Map<String, SafeTensors.Entry> entries, Map<String, String> metadata) {
    /// The format's own limit, which also serves as this library's limit for an index file.
    static final long MAX_BYTES = 100_000_000;

    static final String METADATA = "__metadata__";

    /// Reads and checks the header of `file`, which is open as `opened`.
    static Header read(Path file, MappedFile opened) throws IOException {
        long size = opened.size();
        if (size < 8) {
            throw new SafeTensorsException(file + ": " + size
                    + " bytes are too few for a safetensors file, it is truncated or something else");
        }
        long length = opened.bytes(0, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
        if (length < 2 || length > MAX_BYTES) {
            throw new SafeTensorsException(file + ": header length " + Long.toUnsignedString(length)
                    + " is not between 2 and " + MAX_BYTES + "; this is no safetensors file");
        }
        if (length > size - 8) {
            throw new SafeTensorsException(file + ": header length " + length + " exceeds the file of " + size
                    + " bytes, which is truncated or something else");
        }
        return new Checks(file, 8 + length, size).header(decode(file + ": header", opened.bytes(8, (int) length)));
    }

    /// Decodes UTF-8 strictly; `where` is the prefix of the error message.
    static String decode(String where, ByteBuffer utf8) {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(utf8).toString();
        } catch (CharacterCodingException e) {
            throw new SafeTensorsException(where + ": no UTF-8 text", e);
        }
    }

    /// Returns `value` as a map of strings.
    static Map<String, String> strings(String what, @Nullable Object value) {
        if (!(value instanceof Map<?, ?> map)) {
            throw new SafeTensorsException(what + " is no object");
        }
        Map<String, String> strings = new LinkedHashMap<>();
        for (Map.Entry<?, ?> e : map.entrySet()) {
            if (!(e.getKey() instanceof String key) || !(e.getValue() instanceof String text)) {
                throw new SafeTensorsException(what + ": value of " + e.getKey() + " is no string");
            }
            strings.put(key, text);
        }
        return strings;
    }

    /// Checks the header of one file, whose tensors lie in bytes `start` to `end` of `file`.
    private record Checks(Path file, long start, long end) {
        Header header(String text) {
            Map<String, String> metadata = Map.of();
            List<SafeTensors.Entry> entries = new ArrayList<>();
            for (Map.Entry<String, @Nullable Object> e :
                    Json.object(file + ": header", text).entrySet()) {
                if (e.getKey().equals(METADATA)) {
                    metadata = strings(file + ": " + METADATA, e.getValue());
                } else {
                    entries.add(entry(e.getKey(), e.getValue()));
                }
            }
            entries.sort(
                    Comparator.comparingLong(SafeTensors.Entry::offset).thenComparingLong(e -> e.offset() + e.bytes()));
            return new Header(contiguous(entries), metadata);
        }

        private SafeTensors.Entry entry(String name, @Nullable Object value) {
            if (!(value instanceof Map<?, ?> fields)) {
                throw error(name, "is no object");
            }
            for (Object key : fields.keySet()) {
                if (!List.of("dtype", "shape", "data_offsets").contains(key)) {
                    throw error(name, "unknown field " + key);
                }
            }
            FileDType dtype = dtype(name, fields.get("dtype"));
            long[] dims = longs(name, "shape", fields.get("shape"));
            long[] offsets = longs(name, "data_offsets", fields.get("data_offsets"));
            if (offsets.length != 2) {
                throw error(name, "data_offsets needs 2 numbers, has " + offsets.length);
            }
            if (offsets[0] > offsets[1] || offsets[1] > end - start) {
                throw error(
                        name,
                        "data_offsets " + List.of(offsets[0], offsets[1]) + " do not lie within the file's "
                                + (end - start) + " bytes of data; it is damaged or truncated");
            }
            Shape shape = shape(name, dims);
            long needed = multiply(name, dims, shape.size(), dtype.bytes());
            if (offsets[1] - offsets[0] != needed) {
                throw error(
                        name,
                        "shape " + shape + " of " + dtype + " needs " + needed + " bytes, data_offsets give "
                                + (offsets[1] - offsets[0]));
            }
            return new SafeTensors.Entry(name, dtype, shape, file, start + offsets[0]);
        }

        private FileDType dtype(String name, @Nullable Object value) {
            for (FileDType d : FileDType.values()) {
                if (d.name().equals(value)) {
                    return d;
                }
            }
            throw error(name, "dtype " + value + " cannot be read (" + List.of(FileDType.values()) + " can)");
        }

        private long[] longs(String name, String field, @Nullable Object value) {
            if (!(value instanceof List<?> list)) {
                throw error(name, field + " is " + (value == null ? "missing" : "no array"));
            }
            long[] longs = new long[list.size()];
            for (int i = 0; i < longs.length; i++) {
                if (!(list.get(i) instanceof Long n) || n < 0) {
                    throw error(name, field + " holds " + list.get(i) + ", which is no length");
                }
                longs[i] = n;
            }
            return longs;
        }

        private Shape shape(String name, long[] dims) {
            int[] ints = new int[dims.length];
            long product = 1;
            for (int i = 0; i < dims.length; i++) {
                if (dims[i] > Integer.MAX_VALUE) {
                    throw error(name, "dimension " + dims[i] + " is too large (at most " + Integer.MAX_VALUE + ")");
                }
                product = multiply(name, dims, product, dims[i]);
                ints[i] = (int) dims[i];
            }
            return Shape.of(ints);
        }

        private long multiply(String name, long[] dims, long a, long b) {
            if (b != 0 && a > Long.MAX_VALUE / b) {
                throw error(name, "shape of " + dims.length + " dimensions overflows");
            }
            return a * b;
        }

        private Map<String, SafeTensors.Entry> contiguous(List<SafeTensors.Entry> sorted) {
            Map<String, SafeTensors.Entry> byName = new LinkedHashMap<>();
            long at = start;
            for (SafeTensors.Entry e : sorted) {
                if (e.offset() < at) {
                    throw error(e.name(), "overlaps the tensor before it by " + (at - e.offset()) + " bytes");
                }
                if (e.offset() > at) {
                    throw error(e.name(), "is preceded by a hole of " + (e.offset() - at) + " bytes");
                }
                at += e.bytes();
                byName.put(e.name(), e);
            }
            if (at != end) {
                throw new SafeTensorsException(
                        file + ": " + (end - at) + " bytes after the last tensor belong to none");
            }
            return byName;
        }

        private SafeTensorsException error(String name, String what) {
            return new SafeTensorsException(file + ": tensor " + name + ": " + what);
        }
    }
}
