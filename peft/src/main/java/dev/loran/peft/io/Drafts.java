package dev.loran.peft.io;

import dev.loran.engine.io.MappedFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;

/// Writes files and folders into `folder` atomically, even if the process is killed at any moment: they are created in
/// a hidden folder inside `folder`, flushed to disk, and then moved. Because the hidden folder is inside, it is on the
/// same disk even if `folder` is a link or a mount, and it distinguishes what a killed process left from files of
/// others.
public record Drafts(Path folder) {
    static final String NAME = ".loran-draft";
    /// The suffix of the name of what is being replaced.
    private static final String OLD = ".old";

    /// The hidden folder in which things are created.
    private Path place() {
        return folder.resolve(NAME);
    }

    // ---- one item in a folder

    /// Creates the folder `name`, replacing an existing one.
    ///
    /// @param content writes into the folder that it is given, which exists
    public void put(String name, Consumer<Path> content) throws IOException {
        Path draft = place().resolve(name);
        Path to = folder.resolve(name);
        try {
            settle(name);
            Files.createDirectories(draft);
            content.accept(draft);
            force(draft);
            if (Files.exists(to)) {
                move(to, old(name));
            }
            move(draft, to);
            MappedFile.force(folder);
        } finally {
            settle(name);
        }
    }

    /// Removes the folder `name`, if it exists; a partly deleted folder never has this name.
    public void remove(String name) throws IOException {
        if (Files.exists(folder.resolve(name))) {
            settle(name);
            Files.createDirectories(place());
            move(folder.resolve(name), old(name));
            delete(old(name));
            deleteIfEmpty(place());
        }
    }

    /// The location of the folder `name`: if a process was killed while replacing it, the old one is elsewhere.
    public Path find(String name) {
        Path place = folder.resolve(name);
        return Files.exists(place) || !Files.exists(old(name)) ? place : old(name);
    }

    /// Completes or rolls back what was begun with `name`: afterwards there is either the new one or the old one,
    /// nothing else.
    private void settle(String name) throws IOException {
        if (!Files.exists(folder.resolve(name)) && Files.exists(old(name))) {
            move(old(name), folder.resolve(name));
        }
        delete(place().resolve(name));
        delete(old(name));
        deleteIfEmpty(place());
    }

    /// Cleans up what a killed process left in `folder`.
    ///
    /// @param names folders that were being replaced, not removed
    public void clean(String... names) throws IOException {
        for (String name : names) {
            settle(name);
        }
        delete(place());
    }

    private Path old(String name) {
        return place().resolve(name + OLD);
    }

    // ---- a folder as a whole

    /// Whether `folder` is empty, or contains only what a process left that was killed in [#fill].
    ///
    /// @param early the names that may be there before the folder is complete
    public boolean isFree(List<String> early) throws IOException {
        if (!Files.exists(folder)) {
            return true;
        }
        if (!Files.isDirectory(folder)) {
            return false;
        }
        List<String> names = names(folder);
        return names.isEmpty()
                || names.contains(NAME) && names.stream().allMatch(name -> name.equals(NAME) || early.contains(name));
    }

    /// Creates the folder that [#fill] writes into, by which the remains of a killed process are recognized. Call this
    /// before anything else is written.
    public void begin() throws IOException {
        Files.createDirectories(place());
    }

    /// Fills the folder, for which [#isFree] must hold. It is complete once it contains `last`. If it cannot be filled,
    /// call [#abandon].
    ///
    /// @param last the name of one of the files that `content` writes into the folder that it is given
    /// @param ready called before anything is moved into place
    public void fill(String last, Consumer<Path> content, Runnable ready) throws IOException {
        begin();
        for (String left : names(place())) {
            delete(place().resolve(left));
        }
        content.accept(place());
        force(place());
        ready.run();
        List<String> names = new ArrayList<>(names(place()));
        // Moving the last one completes the folder.
        names.sort(Comparator.comparing(last::equals));
        for (String name : names) {
            delete(folder.resolve(name));
            move(place().resolve(name), folder.resolve(name));
        }
        MappedFile.force(folder);
        delete(place());
    }

    /// Removes the contents of a folder that could not be filled.
    ///
    /// @param early the names of the contents, present or not
    /// @param isNew whether the folder itself was created for this
    public void abandon(List<String> early, boolean isNew) throws IOException {
        for (String name : early) {
            delete(folder.resolve(name));
        }
        // Last, because it marks the rest as incomplete.
        delete(place());
        if (isNew) {
            deleteIfEmpty(folder);
        }
    }

    // ---- files

    private static void move(Path from, Path to) throws IOException {
        Files.move(from, to, StandardCopyOption.ATOMIC_MOVE);
    }

    private static List<String> names(Path folder) throws IOException {
        try (Stream<Path> all = Files.list(folder)) {
            return all.map(f -> f.getFileName().toString()).sorted().toList();
        }
    }

    private static void deleteIfEmpty(Path folder) throws IOException {
        if (Files.isDirectory(folder) && names(folder).isEmpty()) {
            Files.delete(folder);
        }
    }

    /// Deletes a file, or a folder with all its contents, if it exists; for a link, only the link.
    public static void delete(Path folder) throws IOException {
        if (Files.exists(folder, LinkOption.NOFOLLOW_LINKS)) {
            try (Stream<Path> files = Files.walk(folder)) {
                for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(file);
                }
            }
        }
    }

    /// Flushes a folder with all its contents to disk.
    private static void force(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                MappedFile.force(file);
            }
        }
    }
}
