package dev.loran.peft.train;

/// Training produced NaN or infinite values. The message names the step, its rows, and the operation where they first
/// appeared. Whatever is on disk was written before that. The command line prints only the message and exits with code
/// 1.
public final class DivergedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int step;

    /// @param step the last step that was tried, numbered from 1
    DivergedException(String message, int step) {
        super(message);
        this.step = step;
    }

    int step() {
        return step;
    }
}
