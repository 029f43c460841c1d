package dev.loran.engine.io;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.StringJoiner;
import java.util.TreeMap;
import java.util.concurrent.ThreadLocalRandom;

/// The writing side of [SafeTensors].
final class FileWriter {
    /// Number of elements converted and written at a time.
    private static final long CHUNK = 1 << 20;

    /// Wide types first; among types of the same width, in the order used by the format's own library.
    private static final List<DType> ORDER = List.of(DType.F64, DType.F32, DType.I32, DType.BF16, DType.F16, DType.I8);

    private FileWriter() {}

    static void write(Path file, Map<String, SafeTensors.Part> parts, Map<String, String> metadata) {
        Path place = file.toAbsolutePath();
        Path temporary = place.resolveSibling("." + place.getFileName() + "."
                + Long.toHexString(ThreadLocalRandom.current().nextLong()) + ".tmp");
        try {
            Files.createFile(temporary);
            // A stream and not a channel, because an interrupt would close a channel.
            try (FileOutputStream out = new FileOutputStream(temporary.toFile())) {
                writeAll(out, file, parts, metadata);
                out.getFD().sync();
            }
            Files.move(temporary, place, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        } catch (IOException e) {
            throw new UncheckedIOException("safetensors: " + file + " cannot be written: " + e.getMessage(), e);
        } finally {
            discard(temporary);
        }
    }

    /// Removes the temporary file that an error left behind; after the rename there is none.
    private static void discard(Path temporary) {
        try {
            Files.deleteIfExists(temporary);
        } catch (IOException e) {
            throw new UncheckedIOException("safetensors: " + temporary + " cannot be removed: " + e.getMessage(), e);
        }
    }

    private static void writeAll(
            OutputStream out, Path file, Map<String, SafeTensors.Part> parts, Map<String, String> metadata)
            throws IOException {
        List<Map.Entry<String, SafeTensors.Part>> sorted = new ArrayList<>(parts.entrySet());
        sorted.sort(Comparator.comparingInt((Map.Entry<String, SafeTensors.Part> e) ->
                        ORDER.indexOf(e.getValue().dtype()))
                .thenComparing(Map.Entry.comparingByKey()));
        out.write(header(sorted, metadata));
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment staging = arena.allocate(CHUNK * 8, 64);
            byte[] copy = new byte[1 << 16];
            for (Map.Entry<String, SafeTensors.Part> e : sorted) {
                SafeTensors.Part part = e.getValue();
                try (Tensor tensor = part.tensor().get()) {
                    check(file, e.getKey(), part, tensor);
                    writeElements(out, tensor, part.dtype(), staging, copy);
                }
            }
        }
    }

    private static void check(Path file, String name, SafeTensors.Part part, Tensor tensor) {
        if (!tensor.shape().equals(part.shape())) {
            throw new IllegalArgumentException("safetensors: " + file + ": tensor " + name + " was announced as "
                    + part.shape() + " but is " + tensor.shape());
        }
        if (tensor.dtype() != part.dtype()
                && !(tensor.dtype().isFloating() && part.dtype().isFloating())) {
            throw new DTypeException("safetensors: " + file + ": tensor " + name + " is " + tensor.dtype()
                    + " and cannot be written as " + part.dtype());
        }
    }

    /// Length and text of the header, padded with spaces so that the tensor data starts at a multiple of 8.
    private static byte[] header(List<Map.Entry<String, SafeTensors.Part>> sorted, Map<String, String> metadata) {
        StringJoiner json = new StringJoiner(",", "{", "}");
        if (!metadata.isEmpty()) {
            StringJoiner texts = new StringJoiner(",", "{", "}");
            new TreeMap<>(metadata).forEach((k, v) -> texts.add(Json.quote(k) + ":" + Json.quote(v)));
            json.add(Json.quote(Header.METADATA) + ":" + texts);
        }
        long at = 0;
        for (Map.Entry<String, SafeTensors.Part> e : sorted) {
            if (e.getKey().equals(Header.METADATA)) {
                throw new IllegalArgumentException("safetensors: a tensor cannot be named " + Header.METADATA);
            }
            SafeTensors.Part part = e.getValue();
            long end = at + part.shape().size() * part.dtype().bytes();
            String dims = Arrays.toString(part.shape().dims()).replace(" ", "");
            json.add(Json.quote(e.getKey()) + ":{\"dtype\":\"" + part.dtype() + "\",\"shape\":" + dims
                    + ",\"data_offsets\":[" + at + "," + end + "]}");
            at = end;
        }
        byte[] text = json.toString().getBytes(StandardCharsets.UTF_8);
        int padded = (text.length + 7) / 8 * 8;
        ByteBuffer bytes = ByteBuffer.allocate(8 + padded).order(ByteOrder.LITTLE_ENDIAN);
        bytes.putLong(padded).put(text);
        while (bytes.hasRemaining()) {
            bytes.put((byte) ' ');
        }
        return bytes.array();
    }

    private static void writeElements(OutputStream out, Tensor tensor, DType dtype, MemorySegment staging, byte[] copy)
            throws IOException {
        Backend backend = tensor.backend();
        Buffer elements = tensor.buffer().isRowMajor()
                ? tensor.buffer().retain()
                : backend.restore(
                        tensor.buffer(), tensor.shape().rows(), tensor.shape().cols());
        try {
            for (long from = 0; from < elements.size(); from += CHUNK) {
                long n = Math.min(CHUNK, elements.size() - from);
                MemorySegment bytes = staging.asSlice(0, n * dtype.bytes());
                Buffer chunk = elements.slice(from, n);
                if (dtype == tensor.dtype()) {
                    backend.read(bytes, chunk);
                } else {
                    Buffer converted = backend.allocate(dtype, n);
                    backend.cast(converted, chunk);
                    backend.read(bytes, converted);
                    converted.release();
                }
                for (long at = 0; at < bytes.byteSize(); at += copy.length) {
                    int count = (int) Math.min(copy.length, bytes.byteSize() - at);
                    MemorySegment.copy(bytes, ValueLayout.JAVA_BYTE, at, copy, 0, count);
                    out.write(copy, 0, count);
                }
            }
        } finally {
            elements.release();
        }
    }
}
