package dev.loran.peft.io;

import dev.loran.engine.io.LfsPointer;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;

/// Thrown if input from the user cannot be used: a file, a row, an option. The message is one line that names the place
/// and says what to do; the command line prints only the message and exits with code 2.
public final class InputException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private static final int LONGEST = 2_000;

    public InputException(String message) {
        super(oneLine(message));
    }

    public InputException(String message, Throwable cause) {
        super(oneLine(message), cause);
    }

    /// Makes a message safe to print, as it may quote the contents of a file: replaces control characters with `?`, and
    /// limits the length.
    private static String oneLine(String message) {
        String line = message.length() <= LONGEST
                ? message
                : message.substring(0, LONGEST / 2) + " … " + message.substring(message.length() - LONGEST / 2);
        return line.codePoints().anyMatch(Character::isISOControl) ? line.replaceAll("\\p{Cntrl}", "?") : line;
    }

    /// A file that is missing or could not be processed: `file: no such file`, or `file: problem (reason)`.
    public static InputException io(Path file, String problem, IOException e) {
        boolean missing =
                e instanceof NoSuchFileException missed && file.toString().equals(missed.getFile());
        return new InputException(file + ": " + (missing ? "no such file" : problem + " (" + reason(e) + ")"), e);
    }

    /// Refuses a Git LFS pointer in place of a file.
    public static void requireWhole(Path file) {
        LfsPointer.problem(file).ifPresent(problem -> {
            throw new InputException(problem);
        });
    }

    /// The reason. Java's file exceptions often convey it only by their class, with a path as the message.
    public static String reason(IOException e) {
        return switch (e) {
            case NoSuchFileException missing -> missing.getFile() + " does not exist";
            case AccessDeniedException denied -> denied.getFile() + ": permission denied";
            case FileAlreadyExistsException there -> there.getFile() + " is in the way";
            case FileSystemException other when other.getReason() != null -> other.getReason();
            default -> String.valueOf(e.getMessage());
        };
    }

    /// A problem in a line of a file, as `file:line: problem`. Lines are numbered from 1, as in editors.
    public static InputException at(String file, long line, String problem) {
        return new InputException(file + ":" + line + ": " + problem);
    }
}
