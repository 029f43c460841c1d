package dev.loran.engine.io;

/// Thrown when a given file cannot be read as safetensors because it is missing or damaged, or holds something other
/// than what was requested: an input error. The message is a single line for the user, naming the file, the tensor and
/// the fault.
public final class SafeTensorsException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private static final int LONGEST = 2_000;

    public SafeTensorsException(String message) {
        super(oneLine(message));
    }

    SafeTensorsException(String message, Throwable cause) {
        super(oneLine(message), cause);
    }

    /// Names come from the file and may contain anything, so control characters are replaced and the length is limited.
    private static String oneLine(String message) {
        String line = message.replaceAll("\\p{Cntrl}", "?");
        return line.length() <= LONGEST
                ? line
                : line.substring(0, LONGEST / 2) + " … " + line.substring(line.length() - LONGEST / 2);
    }
}
