package dev.loran.peft.generation;

import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;

/// ROUGE-L: how well a text keeps the word order of another, as the harmonic mean of precision and recall of their
/// longest common subsequence. **Paper**: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section
/// 3.1, with β = 1.
public final class RougeL {
    private static final Pattern NO_WORD = Pattern.compile("[^\\p{L}\\p{N}]+");

    private RougeL() {}

    /// From 0, no word in common, to 1. Words are runs of letters and digits in lower case; two texts without words
    /// score 1.
    public static double score(String candidate, String reference) {
        List<String> a = words(candidate);
        List<String> b = words(reference);
        if (a.isEmpty() && b.isEmpty()) {
            return 1;
        }
        return 2.0 * common(a, b) / (a.size() + b.size());
    }

    private static List<String> words(String text) {
        return NO_WORD.splitAsStream(text.toLowerCase(Locale.ROOT))
                .filter(w -> !w.isEmpty())
                .toList();
    }

    /// The length of the longest common subsequence.
    private static int common(List<String> a, List<String> b) {
        int[] row = new int[b.size() + 1];
        for (String word : a) {
            int diagonal = 0;
            for (int j = 1; j < row.length; j++) {
                int above = row[j];
                row[j] = word.equals(b.get(j - 1)) ? diagonal + 1 : Math.max(above, row[j - 1]);
                diagonal = above;
            }
        }
        return row[b.size()];
    }
}
