package dev.loran.peft.chat;

/// Thrown for a template that cannot be read, or that fails or refuses what it is to render. The message is one line
/// with the template's name and the line in it.
public final class TemplateException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    TemplateException(String message) {
        super(message);
    }

    TemplateException(String name, int line, String problem) {
        super(name + ":" + line + ": " + problem);
    }

    /// The message.
    public String problem() {
        return String.valueOf(getMessage());
    }

    /// A problem whose line is not known yet.
    static final class Problem extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Problem(String message) {
            super(message, null, false, false);
        }
    }
}
