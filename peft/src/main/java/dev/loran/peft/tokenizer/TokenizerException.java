package dev.loran.peft.tokenizer;

/// A `tokenizer.json` that is malformed or asks for something that is not supported here, or a text that it cannot
/// be applied to. The message is one line, and starts with the place in the file: `model.merges[3]: …`.
public final class TokenizerException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    TokenizerException(String message) {
        super(message);
    }
}
