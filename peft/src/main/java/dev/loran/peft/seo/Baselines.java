package dev.loran.peft.seo;

import dev.loran.peft.data.Row;
import dev.loran.peft.generation.RougeL;
import dev.loran.peft.generation.TextLimit;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Function;
import java.util.regex.Pattern;

/// What can be had without a model, by which any model is to be measured.
///
/// - `most frequent`: always the most frequent class of the rows to train on.
/// - `first sentence`: the text's own beginning, cut to the limit.
/// - `nearest neighbor`: the answer of the most similar row to train on, by the cosine of their TF-IDF vectors.
///   **Source**: Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988; with the smoothed
///   ln((1 + N) / (1 + n)) + 1 for the inverse document frequency, and ln(1 + count) for that of the term.
public final class Baselines {
    private static final Pattern NO_WORD = Pattern.compile("[^\\p{L}\\p{N}]+");

    private final List<String> sources = new ArrayList<>();
    private final List<String> answers = new ArrayList<>();
    private final Map<String, Double> rarity = new HashMap<>();
    private final List<Map<String, Double>> vectors = new ArrayList<>();

    Baselines(List<Row> train) {
        for (Row row : train) {
            sources.add(source(row));
            answers.add(answer(row));
        }
        Map<String, Integer> documents = new HashMap<>();
        sources.forEach(text -> new HashSet<>(words(text)).forEach(word -> documents.merge(word, 1, Integer::sum)));
        documents.forEach((word, n) -> rarity.put(word, Math.log((1.0 + train.size()) / (1 + n)) + 1));
        sources.forEach(text -> vectors.add(vector(text)));
    }

    /// The metrics of each baseline on the rows held out: `accuracy` for classes; `rouge_l` and `mean_chars` for texts.
    public static Map<String, Map<String, Double>> of(SeoTask task) {
        List<Row> heldOut = task.heldOut();
        Baselines baselines = new Baselines(task.train());
        Map<String, Map<String, Double>> all = new LinkedHashMap<>();
        if (task.maxChars() == 0) {
            String frequent = baselines.mostFrequent();
            all.put("most frequent", accuracy(heldOut, text -> frequent));
            all.put("nearest neighbor", accuracy(heldOut, baselines::nearest));
        } else {
            int limit = task.maxChars();
            all.put("first sentence", scores(heldOut, text -> TextLimit.cut(firstSentence(text), limit)));
            all.put("nearest neighbor", scores(heldOut, text -> TextLimit.cut(baselines.nearest(text), limit)));
        }
        return all;
    }

    private static Map<String, Double> accuracy(List<Row> rows, Function<String, String> baseline) {
        long right = rows.stream()
                .filter(row -> baseline.apply(source(row)).equals(answer(row)))
                .count();
        return Map.of("accuracy", right / (double) rows.size());
    }

    private static Map<String, Double> scores(List<Row> rows, Function<String, String> baseline) {
        double score = 0;
        double length = 0;
        for (Row row : rows) {
            String text = baseline.apply(source(row));
            score += RougeL.score(text, answer(row));
            length += TextLimit.length(text);
        }
        Map<String, Double> metrics = new LinkedHashMap<>();
        metrics.put("rouge_l", score / rows.size());
        metrics.put("mean_chars", length / rows.size());
        return metrics;
    }

    /// That of the text which an instruction, on a line of its own, is about.
    static String firstSentence(String source) {
        return TextLimit.firstSentence(source.substring(source.indexOf('\n') + 1));
    }

    private String mostFrequent() {
        Map<String, Integer> counts = new HashMap<>();
        answers.forEach(answer -> counts.merge(answer, 1, Integer::sum));
        return Collections.max(
                        counts.entrySet(),
                        Map.Entry.<String, Integer>comparingByValue()
                                .thenComparing(Map.Entry.<String, Integer>comparingByKey()
                                        .reversed()))
                .getKey();
    }

    /// The answer of the first of the most similar rows.
    String nearest(String text) {
        Map<String, Double> query = vector(text);
        int best = 0;
        double most = -1;
        for (int i = 0; i < vectors.size(); i++) {
            double similarity = dot(query, vectors.get(i));
            if (similarity > most) {
                most = similarity;
                best = i;
            }
        }
        return answers.get(best);
    }

    private static double dot(Map<String, Double> a, Map<String, Double> b) {
        double sum = 0;
        for (Map.Entry<String, Double> e : a.entrySet()) {
            sum += e.getValue() * b.getOrDefault(e.getKey(), 0.0);
        }
        return sum;
    }

    /// Of unit length; words that no row to train on has are left out.
    private Map<String, Double> vector(String text) {
        Map<String, Integer> counts = new LinkedHashMap<>();
        words(text).forEach(word -> counts.merge(word, 1, Integer::sum));
        Map<String, Double> vector = new LinkedHashMap<>();
        counts.forEach((word, count) -> {
            Double rare = rarity.get(word);
            if (rare != null) {
                vector.put(word, Math.log1p(count) * rare);
            }
        });
        double norm = Math.sqrt(dot(vector, vector));
        vector.replaceAll((word, weight) -> weight / norm);
        return vector;
    }

    private static List<String> words(String text) {
        return NO_WORD.splitAsStream(text.toLowerCase(Locale.ROOT))
                .filter(word -> !word.isEmpty())
                .toList();
    }

    private static String source(Row row) {
        return switch (row) {
            case Row.Classify classify -> classify.text();
            case Row.Generate generate -> generate.source();
            default -> throw new IllegalArgumentException("baselines: no baseline for a " + row.getClass());
        };
    }

    private static String answer(Row row) {
        return switch (row) {
            case Row.Classify classify -> classify.label();
            case Row.Generate generate -> generate.target();
            default -> throw new IllegalArgumentException("baselines: no answer in a " + row.getClass());
        };
    }
}
