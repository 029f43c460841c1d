package dev.loran.peft.tokenizer;

/// A `tokenizer.json` is malformed or requests something unsupported, or it cannot be applied to a text. The message is
/// a single line that starts with the location in the file: `model.merges[3]: …`.
public final class TokenizerException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    TokenizerException(String message) {
        super(oneLine(message));
    }

    /// A file's content is arbitrary, but a message is a single line.
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
