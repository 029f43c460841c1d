package dev.loran.peft.data;

/// What the user gave cannot be used: a file, a row, an option. The message is one line that names the place
/// and says what to do; the command line prints it alone and ends with exit code 2.
public final class InputException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public InputException(String message) {
        super(message);
    }

    public InputException(String message, Throwable cause) {
        super(message, cause);
    }

    /// A problem of one line of a file, as `file:line: problem`. Lines count from 1, as editors count them.
    static InputException at(String file, long line, String problem) {
        return new InputException(file + ":" + line + ": " + problem);
    }
}
