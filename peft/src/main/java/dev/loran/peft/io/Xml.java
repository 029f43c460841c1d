package dev.loran.peft.io;

/// Text in files of markup, SVG and HTML.
public final class Xml {
    private Xml() {}

    /// `text` as the content of an element or the value of an attribute. Control characters, which XML cannot hold,
    /// become spaces.
    public static String escaped(String text) {
        return text.replace("&", "&amp;")
                .replace("<", "&lt;")
                .replace(">", "&gt;")
                .replace("\"", "&quot;")
                .replaceAll("\\p{Cntrl}", " ");
    }
}
