package dev.loran.peft.tokenizer;

/// A `tokenizer.json` that is malformed or asks for something that is not supported here, or a text that it cannot
/// be applied to. The message is one line, and starts with the place in the file: `model.merges[3]: …`.
public final class TokenizerException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    TokenizerException(String message) {
        super(oneLine(message));
    }

    /// What a file holds may be anything, a message is one line.
    private static String oneLine(String message) {
        StringBuilder line = new StringBuilder(message.length());
        for (int i = 0; i < message.length(); i++) {
            char c = message.charAt(i);
            if (Character.isISOControl(c) || c == '\u2028' || c == '\u2029') {
                line.append("\\u%04x".formatted((int) c));
            } else {
                line.append(c);
            }
        }
        return line.toString();
    }
}
