package dev.loran.engine.io;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Supplier;

/// Reads the tensors of one safetensors file, or of the several files of a model, through memory mappings, and writes
/// such files. A file is checked completely when it is opened: length and text of the header; every dtype, shape and
/// offset; no duplicate tensor, no gap, no overlap, nothing after the last tensor.
///
/// ```java
/// try (SafeTensors file = SafeTensors.openModel(folder)) {
///     weight = file.tensor(backend, "encoder.layer.0.output.dense.weight", DType.F32);
/// }
/// ```
///
/// **Ownership**: every tensor is mapped separately, and its mapping belongs to its user: the buffer of a tensor made
/// by [#tensor], which unmaps it when its last reference is released, or the arena given to [#map]. Closing this object
/// closes the files and leaves tensors and mappings intact. While a file is mapped it must not be truncated; replacing
/// it by renaming, as [#write] does, is safe.
///
/// Values are little-endian, as on every machine this library runs on.
public final class SafeTensors implements AutoCloseable {
    /// The metadata that [#write] stores if the caller gives none, as PyTorch users expect it.
    public static final Map<String, String> PYTORCH = Map.of("format", "pt");

    private static final int CHUNK = 1 << 18;

    private final String where;
    private final Map<String, Entry> entries;
    private final Map<String, String> metadata;
    private final Map<Path, MappedFile> files;

    private SafeTensors(
            String where, Map<String, Entry> entries, Map<String, String> metadata, Map<Path, MappedFile> files) {
        this.where = where;
        this.entries = Collections.unmodifiableMap(entries);
        this.metadata = Collections.unmodifiableMap(metadata);
        this.files = files;
    }

    /// One tensor of a file.
    ///
    /// @param file the file that holds it
    /// @param offset position of its first byte in that file
    public record Entry(String name, FileDType dtype, Shape shape, Path file, long offset) {
        /// Number of bytes in the file.
        public long bytes() {
            return shape.size() * dtype.bytes();
        }
    }

    /// A tensor yet to be written. It is created when its turn comes and closed afterwards, so a model larger than
    /// memory can be written tensor by tensor.
    ///
    /// @param dtype the type in the file; floating-point types are converted from what `tensor` supplies
    /// @param shape the shape of what `tensor` supplies
    /// @param tensor creates the tensor; the writer closes it
    public record Part(DType dtype, Shape shape, Supplier<Tensor> tensor) {
        /// An existing tensor, converted to `dtype`; the writer leaves it open.
        public static Part of(Tensor tensor, DType dtype) {
            return new Part(dtype, tensor.shape(), tensor::detach);
        }
    }

    // ---- opening

    /// Opens one file.
    ///
    /// @throws SafeTensorsException if it cannot be read or is damaged
    public static SafeTensors open(Path file) {
        Map<Path, MappedFile> files = new HashMap<>();
        return closingOnFailure(files, () -> {
            Header h = openFile(file, files);
            return new SafeTensors(file.toString(), h.entries(), h.metadata(), files);
        });
    }

    /// Opens the tensors of a Hugging Face model folder: `model.safetensors` or, if there is none, the files listed in
    /// `model.safetensors.index.json`. The index decides which file a tensor is read from; tensors that the index does
    /// not name are ignored.
    ///
    /// @throws SafeTensorsException if neither exists, if the index is malformed or points outside the folder, or if a
    ///     file is missing, is damaged, or lacks a tensor that the index lists
    public static SafeTensors openModel(Path folder) {
        Path single = folder.resolve("model.safetensors");
        Path index = folder.resolve("model.safetensors.index.json");
        if (Files.exists(single)) {
            return open(single);
        }
        if (!Files.exists(index)) {
            throw new SafeTensorsException(
                    folder + ": holds neither model.safetensors nor model.safetensors.index.json" + pickled(folder));
        }
        Map<Path, MappedFile> files = new HashMap<>();
        return closingOnFailure(files, () -> openShards(folder, index, files));
    }

    private static SafeTensors openShards(Path folder, Path index, Map<Path, MappedFile> files) {
        Map<String, Entry> entries = new LinkedHashMap<>();
        Map<String, String> metadata = new LinkedHashMap<>();
        Map<Path, Header> headers = new HashMap<>();
        weightMap(index).forEach((tensor, fileName) -> {
            Path file = inside(folder, index, fileName);
            Header h = headers.computeIfAbsent(file, f -> openFile(f, files));
            Entry e = h.entries().get(tensor);
            if (e == null) {
                throw new SafeTensorsException(
                        file + ": tensor " + tensor + " is missing, though " + index + " says that it is here");
            }
            entries.put(tensor, e);
            h.metadata().forEach(metadata::putIfAbsent);
        });
        return new SafeTensors(folder.toString(), entries, metadata, files);
    }

    private static Map<String, String> weightMap(Path index) {
        requireWhole(index);
        try {
            if (Files.size(index) > Header.MAX_BYTES) {
                throw new SafeTensorsException(index + ": larger than " + Header.MAX_BYTES + " bytes");
            }
            String text = Header.decode(index.toString(), ByteBuffer.wrap(Files.readAllBytes(index)));
            return Header.strings(
                    index + ": weight_map", Json.object(index.toString(), text).get("weight_map"));
        } catch (IOException e) {
            throw unreadable(index, e);
        }
    }

    private static String pickled(Path folder) {
        String pickle = "pytorch_model.bin";
        return Files.exists(folder.resolve(pickle))
                ? "; " + pickle + " is a pickle, which could run anything when read: save the model as safetensors"
                : "";
    }

    private static Path inside(Path folder, Path index, String fileName) {
        try {
            Path file = folder.resolve(fileName).normalize();
            if (!fileName.isEmpty()
                    && file.startsWith(folder.normalize())
                    && !Path.of(fileName).isAbsolute()) {
                return file;
            }
        } catch (InvalidPathException e) {
            throw new SafeTensorsException(index + ": " + Json.quote(fileName) + " is no file name", e);
        }
        throw new SafeTensorsException(index + ": " + Json.quote(fileName) + " leads out of the folder");
    }

    private static void requireWhole(Path file) {
        LfsPointer.problem(file).ifPresent(problem -> {
            throw new SafeTensorsException(problem);
        });
    }

    private static Header openFile(Path file, Map<Path, MappedFile> files) {
        requireWhole(file);
        try {
            MappedFile opened = MappedFile.open(file);
            files.put(file, opened);
            return Header.read(file, opened);
        } catch (IOException e) {
            throw unreadable(file, e);
        }
    }

    private static SafeTensors closingOnFailure(Map<Path, MappedFile> files, Supplier<SafeTensors> opening) {
        boolean opened = false;
        try {
            SafeTensors result = opening.get();
            opened = true;
            return result;
        } finally {
            if (!opened) {
                closeAll(files);
            }
        }
    }

    private static void closeAll(Map<Path, MappedFile> files) {
        for (MappedFile f : files.values()) {
            try {
                f.close();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    private static SafeTensorsException unreadable(Path file, IOException e) {
        String why = e instanceof NoSuchFileException ? "no such file" : "cannot be read: " + e.getMessage();
        return new SafeTensorsException(file + ": " + why, e);
    }

    /// Closes the files; tensors and mappings remain valid.
    @Override
    public void close() {
        closeAll(files);
    }

    // ---- contents

    /// The names of the tensors, in order of their position in the file or, for a model with an index, in the order of
    /// the index.
    public Set<String> names() {
        return entries.keySet();
    }

    /// The metadata entries of the header; if there are several files, those of all of them, the first occurrence of
    /// each name winning.
    public Map<String, String> metadata() {
        return metadata;
    }

    /// Returns the entry of tensor `name`.
    ///
    /// @throws SafeTensorsException if there is none
    public Entry entry(String name) {
        Entry e = entries.get(name);
        if (e == null) {
            String some = String.join(", ", names().stream().limit(5).toList());
            throw new SafeTensorsException(where + ": has no tensor " + name + " among its " + entries.size() + " ("
                    + some + (entries.size() > 5 ? ", …" : "") + ")");
        }
        return e;
    }

    // ---- reading

    /// Maps the bytes of tensor `name`, read-only, for as long as `arena` lives; their alignment is whatever the file
    /// has.
    public MemorySegment map(String name, Arena arena) {
        Entry e = entry(name);
        MappedFile file = Objects.requireNonNull(files.get(e.file()));
        try {
            return file.map(e.offset(), e.bytes(), arena);
        } catch (ClosedChannelException closed) {
            throw new IllegalStateException(
                    "safetensors: " + e.file() + " was closed before " + name + " was read", closed);
        } catch (IOException failed) {
            throw unreadable(e.file(), failed);
        }
    }

    /// Reads tensor `name` as `dtype`. The tensor belongs to no scope; the caller closes it. Floating-point types
    /// convert to one another, rounded to nearest even; I32, I64, U8 and BOOL can be read as I32, and I8 as I8.
    ///
    /// If the file holds `dtype` itself, suitably aligned, and the backend supports it, the mapping is used in place:
    /// loading costs nothing, and **the tensor must not be written to**. This suits frozen weights; use [#copy] for
    /// those to be trained.
    ///
    /// @throws SafeTensorsException if there is no such tensor, it does not convert, or a value does not fit
    public Tensor tensor(Backend backend, String name, DType dtype) {
        return read(backend, name, dtype, true);
    }

    /// As [#tensor], but always in separate memory, which may be written to.
    public Tensor copy(Backend backend, String name, DType dtype) {
        return read(backend, name, dtype, false);
    }

    private Tensor read(Backend backend, String name, DType dtype, boolean inPlace) {
        Entry e = entry(name);
        DType stored = e.dtype().dtype();
        if (stored != dtype && !(stored.isFloating() && dtype.isFloating())) {
            throw new SafeTensorsException(
                    e.file() + ": tensor " + name + ": is " + e.dtype() + " and cannot be read as " + dtype);
        }
        if (!e.dtype().isNative()) {
            return Tensor.own(e.shape(), ints(backend, e));
        }
        if (stored == dtype) {
            return Tensor.own(e.shape(), stored(backend, e, inPlace));
        }
        Buffer raw = stored(backend, e, true);
        try {
            Buffer converted = backend.allocate(dtype, raw.size());
            backend.cast(converted, raw);
            return Tensor.own(e.shape(), converted);
        } finally {
            raw.release();
        }
    }

    /// The bytes of `e` unchanged: the mapping itself if it may be used, else a copy.
    private Buffer stored(Backend backend, Entry e, boolean inPlace) {
        DType dtype = e.dtype().dtype();
        // Mappings start at a page boundary, so the offset in the file determines the alignment.
        if (inPlace && e.bytes() > 0 && e.offset() % dtype.bytes() == 0) {
            return mapped(backend, e);
        }
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes = map(e.name(), arena);
            Buffer copy = backend.allocate(dtype, e.shape().size());
            backend.write(copy, bytes);
            return copy;
        }
    }

    private Buffer mapped(Backend backend, Entry e) {
        // Shared, because other threads read the buffer and may release it.
        Arena arena = Arena.ofShared();
        boolean wrapped = false;
        try {
            Buffer buffer = backend.wrap(e.dtype().dtype(), map(e.name(), arena), arena::close);
            wrapped = true;
            return buffer;
        } finally {
            if (!wrapped) {
                arena.close();
            }
        }
    }

    /// Reads I64, U8 and BOOL as I32, in chunks.
    private Buffer ints(Backend backend, Entry e) {
        Buffer result = backend.allocate(DType.I32, e.shape().size());
        boolean done = false;
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes = map(e.name(), arena);
            MemorySegment chunk = arena.allocate(4L * Math.min(CHUNK, Math.max(1, result.size())), 8);
            for (long from = 0; from < result.size(); from += CHUNK) {
                long n = Math.min(CHUNK, result.size() - from);
                for (long i = 0; i < n; i++) {
                    chunk.setAtIndex(ValueLayout.JAVA_INT, i, intAt(bytes, e, from + i));
                }
                backend.write(result.slice(from, n), chunk.asSlice(0, 4 * n));
            }
            done = true;
            return result;
        } finally {
            if (!done) {
                result.release();
            }
        }
    }

    private static int intAt(MemorySegment bytes, Entry e, long i) {
        long value = e.dtype() == FileDType.I64
                ? bytes.getAtIndex(ValueLayout.JAVA_LONG_UNALIGNED, i)
                : bytes.get(ValueLayout.JAVA_BYTE, i) & 0xff;
        if (value != (int) value || e.dtype() == FileDType.BOOL && value > 1) {
            throw new SafeTensorsException(e.file() + ": tensor " + e.name() + ": element " + i + " is " + value
                    + (e.dtype() == FileDType.BOOL ? ", no BOOL" : ", which does not fit I32"));
        }
        return (int) value;
    }

    // ---- writing

    /// Writes `tensors` under their names, each in its own dtype, with the metadata [#PYTORCH].
    public static void write(Path file, Map<String, Tensor> tensors) {
        write(file, tensors, PYTORCH);
    }

    /// Writes `tensors` under their names, each in its own dtype. The file appears complete or not at all: it is
    /// written next to its destination, forced to disk and renamed, replacing any existing file.
    ///
    /// @throws UncheckedIOException if it cannot be written; an existing file is then untouched
    public static void write(Path file, Map<String, Tensor> tensors, Map<String, String> metadata) {
        Map<String, Part> parts = new LinkedHashMap<>();
        tensors.forEach((name, tensor) -> parts.put(name, Part.of(tensor, tensor.dtype())));
        writeParts(file, parts, metadata);
    }

    /// As [#write(Path, Map, Map)], with tensors that are created one after the other while the file is written: at any
    /// time, no more than one of them and a small chunk exist. The bytes are those that the format's own library
    /// writes: wide types first, so that every tensor is aligned, and sorted by name within a type.
    ///
    /// @throws IllegalArgumentException if a part creates a tensor of a different shape than announced
    public static void writeParts(Path file, Map<String, Part> parts, Map<String, String> metadata) {
        FileWriter.write(file, parts, metadata);
    }

    @Override
    public String toString() {
        return "SafeTensors " + where + " (" + entries.size() + " tensors)";
    }
}
