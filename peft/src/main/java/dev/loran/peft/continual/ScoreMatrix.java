package dev.loran.peft.continual;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.Xml;
import dev.loran.peft.task.Metric;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.function.IntToDoubleFunction;
import java.util.stream.IntStream;

/// The scores R(i, j) on the held-out rows of task j after training on task i, and what follows from them. NaN stands
/// for a score that cannot be measured, such as that of a task none of whose classes the head has yet; a mean leaves it
/// out, and is NaN itself if nothing is left.
///
/// **Papers**: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017 (average, transfer);
/// Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018 (forgetting).
///
/// @param tasks their names, T of them
/// @param metric what a score is
/// @param initial (T) the scores before any training
/// @param scores (T, T) R; not copied
public record ScoreMatrix(List<String> tasks, Metric metric, double[] initial, double[][] scores) {
    public ScoreMatrix {
        tasks = List.copyOf(tasks);
        int n = tasks.size();
        boolean square = scores.length == n && initial.length == n;
        for (double[] row : scores) {
            square &= row.length == n;
        }
        if (!square) {
            throw new IllegalArgumentException("ScoreMatrix: the scores do not fit " + n + " tasks");
        }
    }

    private int size() {
        return tasks.size();
    }

    private double last(int task) {
        return scores[size() - 1][task];
    }

    /// How much better `a` is than `b`.
    private double gain(double a, double b) {
        return metric.higherIsBetter() ? a - b : b - a;
    }

    /// The mean over the tasks in `[from, to)` for which `value` is a number.
    private static double mean(int from, int to, IntToDoubleFunction value) {
        return IntStream.range(from, to)
                .mapToDouble(value)
                .filter(v -> !Double.isNaN(v))
                .average()
                .orElse(Double.NaN);
    }

    /// ACC: the mean of R(T, j) over all tasks j.
    public double average() {
        return mean(0, size(), this::last);
    }

    /// F: the mean, over all tasks but the last, of the best score before the last task, less R(T, j). Positive if
    /// tasks were forgotten.
    public double forgetting() {
        return mean(0, size() - 1, task -> {
            double most = Double.NaN;
            for (int after = 0; after < size() - 1; after++) {
                double lost = gain(scores[after][task], last(task));
                most = Double.isNaN(most) || lost > most ? lost : most;
            }
            return most;
        });
    }

    /// BWT: the mean of R(T, j) − R(j, j) over all tasks but the last. Negative if later tasks made earlier ones worse.
    public double backwardTransfer() {
        return mean(0, size() - 1, task -> gain(last(task), scores[task][task]));
    }

    /// FWT: the mean of R(j − 1, j) − initial(j) over all tasks but the first. Positive if earlier tasks helped with
    /// one that was not trained yet.
    public double forwardTransfer() {
        return mean(1, size(), task -> gain(scores[task - 1][task], initial[task]));
    }

    // ---- output

    /// The scores, null for those that cannot be measured, and the four numbers.
    public ObjectNode toJson() {
        ObjectNode json = JsonNodeFactory.instance.objectNode();
        put(json.putArray("initial"), initial);
        ArrayNode matrix = json.putArray("matrix");
        for (double[] row : scores) {
            put(matrix.addArray(), row);
        }
        put(json, "average", average());
        put(json, "forgetting", forgetting());
        put(json, "backward_transfer", backwardTransfer());
        put(json, "forward_transfer", forwardTransfer());
        return json;
    }

    private static void put(ObjectNode json, String name, double value) {
        json.put(name, Double.isNaN(value) ? null : (Double) value);
    }

    static void put(ArrayNode json, double[] values) {
        for (double value : values) {
            json.add(Double.isNaN(value) ? null : (Double) value);
        }
    }

    /// The scores as rows of cells, with the headings first.
    public List<List<String>> table() {
        List<List<String>> lines = new ArrayList<>();
        List<String> head = new ArrayList<>(List.of("after"));
        IntStream.rangeClosed(1, size()).forEach(i -> head.add(String.valueOf(i)));
        head.add("task");
        lines.add(head);
        for (int i = 0; i < size(); i++) {
            List<String> line = new ArrayList<>(List.of(String.valueOf(i + 1)));
            for (double score : scores[i]) {
                line.add(shown(score));
            }
            line.add(tasks.get(i));
            lines.add(line);
        }
        return lines;
    }

    private static String shown(double score) {
        return Double.isNaN(score) ? "-" : String.format(Locale.ROOT, "%.3f", score);
    }

    /// A heat map of the scores as a self-contained SVG file: a row for each task trained on, a column for each task
    /// measured, dark for the best score in the matrix.
    public String toSvg(String title) {
        int cell = 64;
        int left = 72;
        int top = 64;
        double[] all = IntStream.range(0, size())
                .boxed()
                .flatMapToDouble(i -> Arrays.stream(scores[i]))
                .filter(v -> !Double.isNaN(v))
                .toArray();
        double worst =
                Arrays.stream(all).reduce((a, b) -> gain(a, b) < 0 ? a : b).orElse(0);
        double best =
                Arrays.stream(all).reduce((a, b) -> gain(a, b) > 0 ? a : b).orElse(1);
        int width = Math.max(left + size() * cell + 16, 16 + 8 * title.length());
        StringBuilder svg = new StringBuilder(String.format(
                Locale.ROOT,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\""
                        + " font-size=\"13\">%n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n"
                        + "<text x=\"16\" y=\"24\">%s</text>%n",
                width,
                top + size() * cell + 16,
                Xml.escaped(title)));
        for (int i = 0; i < size(); i++) {
            svg.append(
                    text(left - 12, top + i * cell + cell / 2 + 5, "end", "black", "after " + (i + 1), tasks.get(i)));
            svg.append(text(left + i * cell + cell / 2, top - 8, "middle", "black", "task " + (i + 1), tasks.get(i)));
            for (int j = 0; j < size(); j++) {
                double score = scores[i][j];
                double share = best == worst ? 1 : (score - worst) / (best - worst);
                boolean none = Double.isNaN(score);
                svg.append(String.format(
                        Locale.ROOT,
                        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"white\"/>%n",
                        left + j * cell,
                        top + i * cell,
                        cell,
                        cell,
                        none ? "#f4f4f4" : color(share)));
                String ink = none || share < 0.55 ? "black" : "white";
                int y = top + i * cell + cell / 2 + 5;
                svg.append(text(left + j * cell + cell / 2, y, "middle", ink, shown(score), tasks.get(j)));
            }
        }
        return svg.append("</svg>").toString();
    }

    private static String text(int x, int y, String anchor, String ink, String text, String tip) {
        return String.format(
                Locale.ROOT,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" fill=\"%s\">%s<title>%s</title></text>%n",
                x,
                y,
                anchor,
                ink,
                Xml.escaped(text),
                Xml.escaped(tip));
    }

    /// From a pale to a dark blue.
    private static String color(double share) {
        return String.format(
                "#%02x%02x%02x",
                (int) Math.round(222 - 214 * share), (int) Math.round(235 - 187 * share), (int)
                        Math.round(247 - 140 * share));
    }
}
