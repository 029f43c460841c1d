package dev.loran.peft.train;

/// Training came to numbers that are NaN or infinite. The message names the step, its rows, and the operation where
/// they began. Whatever is on the disk is from before; the command line prints the message alone and ends with exit
/// code 1.
public final class DivergedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    DivergedException(String message) {
        super(message);
    }
}
