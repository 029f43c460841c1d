package dev.loran.peft.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.io.InputException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.SeekableByteChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.function.Consumer;

/// Reads `metrics.jsonl` as it grows: each [#next] reads the lines that were added since the one before. Not for
/// several threads.
///
/// A line is read once it is complete. A partial last line, which a run that trains has not finished yet or a killed
/// run left, waits.
public final class MetricsReader {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int CHUNK = 1 << 20;
    /// How many bytes before the position must be the same as they were.
    private static final int REMEMBERED = 128;

    private final Path file;
    private long position;
    private int lines;
    private byte[] before = {};

    MetricsReader(Path file) {
        this.file = file;
    }

    /// How many lines were read.
    public int lines() {
        return lines;
    }

    /// Reads the lines since the last call. If what was read is no longer in the file, because the run was resumed from
    /// a checkpoint or replaced, it reads again from the first line.
    ///
    /// @param again called before the first line in that case
    /// @param each called with the object of each line: of a step, of an evaluation, or of the end of a run that
    ///     diverged
    /// @throws InputException if the file is missing or damaged; the lines before the damage have been read
    public void next(Runnable again, Consumer<JsonNode> each) {
        try (SeekableByteChannel in = Files.newByteChannel(file)) {
            if (hasChanged(in)) {
                position = 0;
                lines = 0;
                before = new byte[0];
                again.run();
            }
            // What comes while this reads is for the next call.
            long end = in.size();
            byte[] chunk = {};
            long at = position;
            while (at < end) {
                byte[] more = read(in, at, (int) Math.min(CHUNK, end - at));
                at += more.length;
                byte[] joined = Arrays.copyOf(chunk, chunk.length + more.length);
                System.arraycopy(more, 0, joined, chunk.length, more.length);
                chunk = complete(joined, each);
            }
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    private boolean hasChanged(SeekableByteChannel in) throws IOException {
        return in.size() < position || !Arrays.equals(read(in, position - before.length, before.length), before);
    }

    private static byte[] read(SeekableByteChannel in, long at, int size) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(size);
        in.position(at);
        while (bytes.hasRemaining()) {
            if (in.read(bytes) < 0) {
                throw new EOFException("it became shorter as it was read");
            }
        }
        return bytes.array();
    }

    /// Passes on the complete lines of `chunk`, which begins at the position, and moves the position behind them.
    ///
    /// @return the rest
    private byte[] complete(byte[] chunk, Consumer<JsonNode> each) {
        int from = 0;
        for (int i = 0; i < chunk.length; i++) {
            if (chunk[i] == '\n') {
                each.accept(parsed(chunk, from, i));
                lines++;
                before = Arrays.copyOfRange(chunk, Math.max(0, i + 1 - REMEMBERED), i + 1);
                position += i + 1 - from;
                from = i + 1;
            }
        }
        return Arrays.copyOfRange(chunk, from, chunk.length);
    }

    private JsonNode parsed(byte[] bytes, int from, int to) {
        try {
            JsonNode json = JSON.readTree(new String(bytes, from, to - from, StandardCharsets.UTF_8));
            boolean known = json.has("eval_loss") || json.has("loss") || json.has(MetricsFile.DIVERGED);
            if (json.path("step").isInt() && known) {
                return json;
            }
        } catch (JsonProcessingException e) {
            // Reported below.
        }
        throw InputException.at(file.toString(), lines + 1, "is no line of a run's metrics; the file is damaged");
    }
}
