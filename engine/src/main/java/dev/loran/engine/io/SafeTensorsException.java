package dev.loran.engine.io;

/// A file that was given cannot be read as safetensors: it is missing or damaged, or holds something else than what was
/// asked for: an input error. The message is one line for the user: file, tensor, fault.
public final class SafeTensorsException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private static final int LONGEST = 2_000;

    public SafeTensorsException(String message) {
        super(oneLine(message));
    }

    SafeTensorsException(String message, Throwable cause) {
        super(oneLine(message), cause);
    }

    /// Names come from the file and may hold anything: no control characters, and no more than can be read.
    private static String oneLine(String message) {
        String line = message.replaceAll("\\p{Cntrl}", "?");
        return line.length() <= LONGEST
                ? line
                : line.substring(0, LONGEST / 2) + " … " + line.substring(line.length() - LONGEST / 2);
    }
}
