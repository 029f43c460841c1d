package dev.loran.engine.backend;

/// Thrown when a backend cannot do what was asked: out of memory, a failing device call, memory used after release.
public final class BackendException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public BackendException(String message) {
        super(message);
    }

    public BackendException(String message, Throwable cause) {
        super(message, cause);
    }
}
