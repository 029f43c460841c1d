package dev.loran.peft.io;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/// Guesses what a nonexistent name was meant to be: the known name with the fewest edits, if those are few.
public final class Nearest {
    private Nearest() {}

    /// The nearest of `known`, the first of equals; empty if none is near, that is, if more than half of the letters
    /// differ. Case, and whether words are separated by `-`, `_` or nothing, do not matter; a name that the other
    /// begins or ends with is near.
    public static Optional<String> to(String name, Collection<String> known) {
        String plain = plain(name);
        return known.stream()
                .filter(k -> isNear(plain, plain(k)))
                .min(Comparator.comparingInt(k -> distance(plain, plain(k))));
    }

    /// `; did you mean …?` with the nearest name to each, or nothing if none is near.
    public static String hint(Collection<String> names, Collection<String> known) {
        List<String> meant = new ArrayList<>();
        names.forEach(name -> to(name, known).filter(m -> !meant.contains(m)).ifPresent(meant::add));
        return meant.isEmpty() ? "" : "; did you mean " + String.join(", ", meant) + "?";
    }

    private static String plain(String name) {
        return name.toLowerCase(Locale.ROOT).replace("-", "").replace("_", "");
    }

    private static boolean isNear(String a, String b) {
        boolean part = Math.min(a.length(), b.length()) > 2
                && (a.startsWith(b) || a.endsWith(b) || b.startsWith(a) || b.endsWith(a));
        return part || edits(a, b) * 2 <= Math.max(a.length(), b.length());
    }

    /// A longer or shorter form of a name is nearer than any other name.
    private static int distance(String a, String b) {
        return a.startsWith(b) || b.startsWith(a) ? Math.min(1, edits(a, b)) : edits(a, b);
    }

    /// The number of insertions, deletions, replacements and swaps of adjacent letters between two names: Damerau, "A
    /// technique for computer detection and correction of spelling errors", 1964, with each letter edited at most once.
    public static int edits(String a, String b) {
        int[][] d = new int[a.length() + 1][b.length() + 1];
        for (int i = 0; i <= a.length(); i++) {
            for (int j = 0; j <= b.length(); j++) {
                if (i == 0 || j == 0) {
                    d[i][j] = i + j;
                    continue;
                }
                int replaced = d[i - 1][j - 1] + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                d[i][j] = Math.min(replaced, Math.min(d[i - 1][j], d[i][j - 1]) + 1);
                boolean swapped =
                        i > 1 && j > 1 && a.charAt(i - 1) == b.charAt(j - 2) && a.charAt(i - 2) == b.charAt(j - 1);
                if (swapped) {
                    d[i][j] = Math.min(d[i][j], d[i - 2][j - 2] + 1);
                }
            }
        }
        return d[a.length()][b.length()];
    }
}
