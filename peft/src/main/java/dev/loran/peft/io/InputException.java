package dev.loran.peft.io;

import dev.loran.engine.io.LfsPointer;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;

/// What the user gave cannot be used: a file, a row, an option. The message is one line that names the place
/// and says what to do; the command line prints it alone and ends with exit code 2.
public final class InputException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private static final int LONGEST = 2_000;

    public InputException(String message) {
        super(oneLine(message));
    }

    public InputException(String message, Throwable cause) {
        super(oneLine(message), cause);
    }

    /// What a file holds may stand in a message, whatever that is: control characters as `?`, and no more than can be
    /// read.
    private static String oneLine(String message) {
        String line = message.length() <= LONGEST
                ? message
                : message.substring(0, LONGEST / 2) + " … " + message.substring(message.length() - LONGEST / 2);
        return line.codePoints().anyMatch(Character::isISOControl) ? line.replaceAll("\\p{Cntrl}", "?") : line;
    }

    /// A file that is missing, or with which something failed: `file: no such file`, or `file: problem (reason)`.
    public static InputException io(Path file, String problem, IOException e) {
        boolean missing =
                e instanceof NoSuchFileException missed && file.toString().equals(missed.getFile());
        return new InputException(file + ": " + (missing ? "no such file" : problem + " (" + reason(e) + ")"), e);
    }

    /// Refuses what Git LFS keeps in place of a file.
    public static void requireWhole(Path file) {
        LfsPointer.problem(file).ifPresent(problem -> {
            throw new InputException(problem);
        });
    }

    /// Why: Java's exceptions of files often tell it by their class alone, and their message is a path.
    public static String reason(IOException e) {
        return switch (e) {
            case NoSuchFileException missing -> missing.getFile() + " does not exist";
            case AccessDeniedException denied -> denied.getFile() + ": permission denied";
            case FileAlreadyExistsException there -> there.getFile() + " is in the way";
            case FileSystemException other when other.getReason() != null -> other.getReason();
            default -> String.valueOf(e.getMessage());
        };
    }

    /// A problem of one line of a file, as `file:line: problem`. Lines count from 1, as editors count them.
    public static InputException at(String file, long line, String problem) {
        return new InputException(file + ":" + line + ": " + problem);
    }
}
