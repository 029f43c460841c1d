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

/// A file that is read, and that no interrupt closes: a [FileChannel] closes itself when a thread that is interrupted
/// uses it, for all other threads too. Here the work is done all the same, and the thread is interrupted afterwards as
/// before.
///
/// Safe for several threads.
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

    /// What another file in its place would have otherwise.
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

    /// The `count` bytes from byte `from` on, or as many as there are.
    ByteBuffer bytes(long from, int count) throws IOException {
        return uninterrupted(c -> {
            ByteBuffer b = ByteBuffer.allocate(count);
            while (b.hasRemaining() && c.read(b, from + b.position()) >= 0) {}
            return b.flip();
        });
    }

    /// The `count` bytes from byte `from` on, mapped read-only for as long as `arena` lives.
    public MemorySegment map(long from, long count, Arena arena) throws IOException {
        return uninterrupted(c -> c.map(FileChannel.MapMode.READ_ONLY, from, count, arena));
    }

    /// Closes the file; mappings stay.
    @Override
    public synchronized void close() throws IOException {
        closed = true;
        channel.close();
    }

    /// Brings a file, or the names in a folder, onto the disk.
    public static void force(Path path) throws IOException {
        boolean isFolder = Files.isDirectory(path);
        // A folder can be opened, and needs to be forced, on POSIX systems alone.
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
