package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.ClosedByInterruptException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/// A store for examples that are added one after the other and then read in any order. The most recent ones are on the
/// heap, at most 4 MiB; all earlier ones are in memory-mapped, unlinked files in the system's temporary folder, which
/// disappear with this object. Each example takes eight bytes on the heap.
///
/// An example is a sequence of ints: truncated (0 or 1), the length of the target and the target, the number of texts,
/// and for each text its length, whether it has types, its ids, its types.
final class ExampleStore {
    /// The size of a block in ints.
    private static final int BLOCK = 1 << 20;

    private static final int BUFFER_BYTES = 1 << 18;

    private final int blockInts;
    /// All blocks except the last, mapped.
    private final List<MemorySegment> blocks = new ArrayList<>();

    private int[] last = new int[64];
    private int used;
    /// The block of each example, and its offset in it.
    private long[] places = new long[16];

    private int size;

    ExampleStore() {
        this(BLOCK);
    }

    ExampleStore(int blockInts) {
        this.blockInts = blockInts;
    }

    int size() {
        return size;
    }

    /// @throws InputException if the temporary folder has no room
    void add(Example example) {
        int length = length(example);
        if (used > 0 && used + length > blockInts) {
            spill();
        }
        if (used + length > last.length) {
            last = Arrays.copyOf(last, Math.max(used + length, Math.min(blockInts, 2 * last.length)));
        }
        if (size == places.length) {
            places = Arrays.copyOf(places, 2 * size);
        }
        places[size++] = (long) blocks.size() << Integer.SIZE | used;
        put(example.truncated() ? 1 : 0);
        put(example.target().length);
        put(example.target());
        put(example.texts().size());
        for (Example.Text text : example.texts()) {
            put(text.ids().length);
            put(text.types() == null ? 0 : 1);
            put(text.ids());
            if (text.types() != null) {
                put(text.types());
            }
        }
    }

    private static int length(Example example) {
        int length = 3 + example.target().length;
        for (Example.Text text : example.texts()) {
            length = Math.addExact(length, 2 + (text.types() == null ? 1 : 2) * text.ids().length);
        }
        return length;
    }

    private void put(int value) {
        last[used++] = value;
    }

    private void put(int[] values) {
        System.arraycopy(values, 0, last, used, values.length);
        used += values.length;
    }

    private void spill() {
        boolean interrupted = false;
        try {
            while (used > 0) {
                try {
                    blocks.add(written());
                    used = 0;
                } catch (ClosedByInterruptException e) {
                    // The file was deleted with its channel; its contents are still on the heap.
                    interrupted |= Thread.interrupted();
                }
            }
        } catch (IOException e) {
            throw InputException.io(temporary(), "the rows cannot be put into a temporary file there", e);
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// Writes the ints on the heap to a file of their own and maps it.
    private MemorySegment written() throws IOException {
        Path path = Files.createTempFile("loran-rows", ".bin");
        try (FileChannel file = FileChannel.open(
                path, StandardOpenOption.READ, StandardOpenOption.WRITE, StandardOpenOption.DELETE_ON_CLOSE)) {
            ByteBuffer bytes = ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.nativeOrder());
            for (int i = 0; i < used; ) {
                int n = Math.min(used - i, BUFFER_BYTES / Integer.BYTES);
                bytes.clear().asIntBuffer().put(last, i, n);
                bytes.limit(n * Integer.BYTES);
                while (bytes.hasRemaining()) {
                    file.write(bytes);
                }
                i += n;
            }
            // Unmapped when it is no longer reachable.
            return file.map(FileChannel.MapMode.READ_ONLY, 0, (long) used * Integer.BYTES, Arena.ofAuto());
        }
    }

    private static Path temporary() {
        return Path.of(System.getProperty("java.io.tmpdir"));
    }

    // ---- reading

    /// A moving position among the ints.
    private static final class Cursor {
        private final MemorySegment block;
        private long at;

        Cursor(MemorySegment block, long at) {
            this.block = block;
            this.at = at;
        }

        int next() {
            return block.getAtIndex(ValueLayout.JAVA_INT, at++);
        }

        int[] next(int n) {
            int[] values = new int[n];
            MemorySegment.copy(block, ValueLayout.JAVA_INT, at * Integer.BYTES, values, 0, n);
            at += n;
            return values;
        }

        void skip(int n) {
            at += n;
        }
    }

    private Cursor cursor(int row) {
        if (row < 0 || row >= size) {
            throw new IndexOutOfBoundsException("row " + row + " of " + size);
        }
        int block = (int) (places[row] >>> Integer.SIZE);
        return new Cursor(block == blocks.size() ? MemorySegment.ofArray(last) : blocks.get(block), (int) places[row]);
    }

    Example get(int row) {
        Cursor in = cursor(row);
        boolean truncated = in.next() != 0;
        int[] target = in.next(in.next());
        Example.Text[] texts = new Example.Text[in.next()];
        for (int i = 0; i < texts.length; i++) {
            int length = in.next();
            boolean typed = in.next() != 0;
            int[] ids = in.next(length);
            texts[i] = new Example.Text(ids, typed ? in.next(length) : null);
        }
        return new Example(List.of(texts), target, truncated);
    }

    int[] target(int row) {
        Cursor in = cursor(row);
        in.skip(1);
        return in.next(in.next());
    }

    /// The number of ids of the longest text of a row.
    int length(int row) {
        Cursor in = cursor(row);
        in.skip(1);
        in.skip(in.next());
        int longest = 0;
        for (int texts = in.next(); texts > 0; texts--) {
            int length = in.next();
            longest = Math.max(longest, length);
            in.skip(in.next() == 0 ? length : 2 * length);
        }
        return longest;
    }
}
