package dev.loran.engine.io;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedByInterruptException;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;

/// A file for reading that survives interrupts. A [FileChannel] closes itself, for all threads, when an interrupted
/// thread uses it. Here the operation is completed anyway, and the thread's interrupt status is restored afterwards.
///
/// Thread-safe.
public final class MappedFile implements AutoCloseable {
    private final Path path;
    private final Object identity;
    private FileChannel channel;
    private boolean closed;

    private MappedFile(Path path) throws IOException {
        this.path = path;
        this.channel = FileChannel.open(path, StandardOpenOption.READ);
        this.identity = identity(path);
    }

    /// Opens `path`.
    public static MappedFile open(Path path) throws IOException {
        return new MappedFile(path);
    }

    /// Something that would differ if another file took its place.
    private static Object identity(Path path) throws IOException {
        BasicFileAttributes file = Files.readAttributes(path, BasicFileAttributes.class);
        return file.fileKey() == null ? file.creationTime() : file.fileKey();
    }

    private interface Work<T> {
        T on(FileChannel channel) throws IOException;
    }

    private synchronized <T> T uninterrupted(Work<T> work) throws IOException {
        if (closed) {
            throw new ClosedChannelException();
        }
        boolean interrupted = Thread.interrupted();
        try {
            while (true) {
                try {
                    return work.on(channel);
                } catch (ClosedByInterruptException e) {
                    interrupted |= Thread.interrupted();
                    channel = FileChannel.open(path, StandardOpenOption.READ);
                    if (!identity.equals(identity(path))) {
                        throw new IOException("was replaced while it was read", e);
                    }
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// Number of bytes.
    public long size() throws IOException {
        return uninterrupted(FileChannel::size);
    }

    /// Returns `count` bytes starting at byte `from`, or as many as there are.
    ByteBuffer bytes(long from, int count) throws IOException {
        return uninterrupted(c -> {
            ByteBuffer b = ByteBuffer.allocate(count);
            while (b.hasRemaining() && c.read(b, from + b.position()) >= 0) {}
            return b.flip();
        });
    }

    /// Maps `count` bytes starting at byte `from`, read-only, for as long as `arena` lives.
    public MemorySegment map(long from, long count, Arena arena) throws IOException {
        return uninterrupted(c -> c.map(FileChannel.MapMode.READ_ONLY, from, count, arena));
    }

    /// Closes the file; mappings remain valid.
    @Override
    public synchronized void close() throws IOException {
        closed = true;
        channel.close();
    }

    /// Forces a file, or the directory entries of a folder, to disk.
    public static void force(Path path) throws IOException {
        boolean isFolder = Files.isDirectory(path);
        // Only POSIX systems allow a folder to be opened, and only there does it need to be forced.
        if (isFolder && !path.getFileSystem().getSeparator().equals("/")) {
            return;
        }
        OpenOption option = isFolder ? StandardOpenOption.READ : StandardOpenOption.WRITE;
        boolean interrupted = Thread.interrupted();
        try {
            while (true) {
                try (FileChannel channel = FileChannel.open(path, option)) {
                    channel.force(true);
                    return;
                } catch (ClosedByInterruptException e) {
                    interrupted |= Thread.interrupted();
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
