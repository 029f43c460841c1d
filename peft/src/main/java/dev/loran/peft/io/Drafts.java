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

/// What is written into `folder` appears there whole or not at all, though its process may be killed at any moment:
/// it is made in a hidden folder inside, brought onto the disk, and moved. Being inside, that folder is on the same
/// disk also where `folder` is a link or a mount, and it tells what is left of a killed process from what others put
/// there.
public record Drafts(Path folder) {
    static final String NAME = ".loran-draft";
    /// After the name of what is being replaced.
    private static final String OLD = ".old";

    /// Where things are made.
    private Path place() {
        return folder.resolve(NAME);
    }

    // ---- one thing in a folder

    /// Makes the folder `name`; one that was there is replaced.
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

    /// Removes the folder `name`, if it exists; what is left of one never has its name.
    public void remove(String name) throws IOException {
        if (Files.exists(folder.resolve(name))) {
            settle(name);
            Files.createDirectories(place());
            move(folder.resolve(name), old(name));
            delete(old(name));
            deleteIfEmpty(place());
        }
    }

    /// Where the folder `name` is: in a process that was killed while it was replaced the old one has another place.
    public Path find(String name) {
        Path place = folder.resolve(name);
        return Files.exists(place) || !Files.exists(old(name)) ? place : old(name);
    }

    /// Ends what was begun with `name`, well or not: there is the new one, or the old one, and nothing besides.
    private void settle(String name) throws IOException {
        if (!Files.exists(folder.resolve(name)) && Files.exists(old(name))) {
            move(old(name), folder.resolve(name));
        }
        delete(place().resolve(name));
        delete(old(name));
        deleteIfEmpty(place());
    }

    /// Ends what a killed process left in `folder`.
    ///
    /// @param names of those that were replaced by others, not removed
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

    /// Whether nothing is in `folder`, or only what a process left that was killed in [#fill].
    ///
    /// @param early what may be there before it is whole
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

    /// Makes the folder that [#fill] writes into, by which what is left of a killed process is known: to be called
    /// before anything else is written.
    public void begin() throws IOException {
        Files.createDirectories(place());
    }

    /// Fills the folder, which [#isFree]. It is whole once it has `last`. Where it cannot be filled, [#abandon] it.
    ///
    /// @param last the name of one of the files that `content` writes into the folder that it is given
    /// @param ready called before anything is moved to its place
    public void fill(String last, Consumer<Path> content, Runnable ready) throws IOException {
        begin();
        for (String left : names(place())) {
            delete(place().resolve(left));
        }
        content.accept(place());
        force(place());
        ready.run();
        List<String> names = new ArrayList<>(names(place()));
        // The last one's place is the end.
        names.sort(Comparator.comparing(last::equals));
        for (String name : names) {
            delete(folder.resolve(name));
            move(place().resolve(name), folder.resolve(name));
        }
        MappedFile.force(folder);
        delete(place());
    }

    /// Removes what was made of a folder that could not be filled.
    ///
    /// @param early what is there of it, or may be
    /// @param isNew whether the folder itself was made for it
    public void abandon(List<String> early, boolean isNew) throws IOException {
        for (String name : early) {
            delete(folder.resolve(name));
        }
        // At the end: by it the rest is known.
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

    /// Deletes a file, or a folder with all that is in it, if it exists; of a link, the link.
    public static void delete(Path folder) throws IOException {
        if (Files.exists(folder, LinkOption.NOFOLLOW_LINKS)) {
            try (Stream<Path> files = Files.walk(folder)) {
                for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(file);
                }
            }
        }
    }

    /// Brings a folder with all that is in it onto the disk.
    private static void force(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                MappedFile.force(file);
            }
        }
    }
}
