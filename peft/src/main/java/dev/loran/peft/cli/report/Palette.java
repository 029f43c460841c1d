package dev.loran.peft.cli.report;

import java.awt.Color;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

/// The colours of the report, each for a light and for a dark page. Figures are drawn with the light ones; on the page
/// they become variables of its style.
public enum Palette {
    PAPER(0xfdfdfd, 0x12161c),
    INK(0x1c2129, 0xe4e8ee),
    MUTED(0x5a6472, 0x9aa5b4),
    GRID(0xd9dee5, 0x333b47),
    GOOD(0x1a7f4b, 0x4cc38a),
    BAD(0xb3261e, 0xff8a80),
    BLUE(0x2667b5, 0x6ba8f0),
    ORANGE(0xcf6a12, 0xf0a04b),
    GREEN(0x2e8540, 0x5fc477),
    RED(0xc0363c, 0xf2777c),
    PURPLE(0x7b4fa8, 0xb491e0),
    TEAL(0x0e8290, 0x4fc4d1),
    BROWN(0x8a5a3c, 0xc99a7b),
    PINK(0xc2468f, 0xf08cc4),
    OLIVE(0x76801a, 0xbcc653),
    SLATE(0x4a5668, 0xa7b4c8),
    GOLD(0x9a7400, 0xe3bb3f);

    /// The colours that tell methods apart, in order.
    public static final List<Palette> SERIES =
            List.of(BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, BROWN, PINK, OLIVE, SLATE, GOLD);

    /// The colours of a heat map, from the lowest value: they differ in lightness, on light and dark pages alike.
    static final Color[] HEAT = {new Color(0x2b1b52), new Color(0x2f6d8e), new Color(0x45b57b), new Color(0xf5e34b)};

    final Color light;
    private final int dark;

    Palette(int light, int dark) {
        this.light = new Color(light);
        this.dark = dark;
    }

    /// The colour of the method at `index`; repeats after eleven.
    public static Palette series(int index) {
        return SERIES.get(index % SERIES.size());
    }

    /// The name of its variable, as `--blue`.
    public String variable() {
        return "--" + name().toLowerCase(Locale.ROOT);
    }

    /// The declarations of all variables.
    public static String variables(boolean dark) {
        return Arrays.stream(values())
                .map(p -> String.format(
                        Locale.ROOT, "%s:#%06x", p.variable(), dark ? p.dark : p.light.getRGB() & 0xffffff))
                .collect(Collectors.joining(";"));
    }

    /// The same SVG with variables in place of these colours.
    static String withVariables(String svg) {
        String page = svg;
        for (Palette p : values()) {
            Color c = p.light;
            page = page.replace(
                    "rgb(%d,%d,%d)".formatted(c.getRed(), c.getGreen(), c.getBlue()), "var(" + p.variable() + ")");
        }
        return page;
    }
}
