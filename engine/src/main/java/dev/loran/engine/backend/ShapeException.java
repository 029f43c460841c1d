package dev.loran.engine.backend;

/// Thrown when a shape does not fit an operation; the message names the operation, the argument and both shapes.
public final class ShapeException extends IllegalArgumentException {
    private static final long serialVersionUID = 1L;

    public ShapeException(String message) {
        super(message);
    }
}
