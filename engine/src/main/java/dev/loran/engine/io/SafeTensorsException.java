package dev.loran.engine.io;

/// A file that was given cannot be read as safetensors: it is missing or damaged, or holds something else than what was
/// asked for: an input error. The message is one line for the user: file, tensor, fault.
public final class SafeTensorsException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public SafeTensorsException(String message) {
        super(oneLine(message));
    }

    SafeTensorsException(String message, Throwable cause) {
        super(oneLine(message), cause);
    }

    /// Names come from the file and may hold anything.
    private static String oneLine(String message) {
        return message.replaceAll("\\p{Cntrl}", "?");
    }
}
