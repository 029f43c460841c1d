package dev.loran.engine.backend;

/// Thrown when a dtype does not fit an operation or a backend; the message names the operation, the dtype and what
/// would fit.
public final class DTypeException extends IllegalArgumentException {
    private static final long serialVersionUID = 1L;

    public DTypeException(String message) {
        super(message);
    }
}
