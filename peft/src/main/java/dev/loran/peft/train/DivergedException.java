package dev.loran.peft.train;

/// Training produced NaN or infinite values. The message names the step, its rows, and the operation where they first
/// appeared. Whatever is on disk was written before that. The command line prints only the message and exits with code
/// 1.
public final class DivergedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    DivergedException(String message) {
        super(message);
    }
}
