package dev.loran.engine.io;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Objects;

/// Files assembled byte by byte.
final class Crafted {
    private Crafted() {}

    /// Writes a file with the given header and tensor bytes.
    static Path file(Path folder, String header, byte[] data) throws IOException {
        byte[] text = header.getBytes(StandardCharsets.UTF_8);
        ByteBuffer b = ByteBuffer.allocate(8 + text.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
        b.putLong(text.length).put(text).put(data);
        return Files.write(folder.resolve("f"), b.array());
    }

    /// Copies a test resource into `folder`.
    static Path resource(Path folder, String name) throws IOException {
        Path file = folder.resolve(name);
        try (InputStream in = Objects.requireNonNull(Crafted.class.getResourceAsStream("/safetensors/" + name), name)) {
            Files.copy(in, file);
        }
        return file;
    }
}
