package dev.loran.peft.task;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Target;
import dev.loran.peft.task.EmbedTask.Kind;
import java.nio.IntBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.IntStream;

/// The metrics of task `embed`. The loss is that of training, over the batches of the evaluation; its value depends on
/// their size.
///
/// For pairs: each different anchor searches among all different positives of the rows, by cosine; those that stand
/// beside it in a row are what it should find. Means over the anchors:
///
/// | metric | of an anchor |
/// |---|---|
/// | `recall@1`, `recall@10` | the share of its positives among the first k |
/// | `mrr@10` | 1 / rank of the first of its positives, or 0 if that is beyond 10 |
/// | `ndcg@10` | Σ 1 / log₂(1 + rank) of its positives up to rank 10, divided by the largest possible value |
///
/// Of equal cosines, those of other texts come first, so that vectors that are all the same find nothing.
///
/// For texts with labels: the same, where each different text searches among all others, and should find those with its
/// label; texts whose label no other one has do not search.
///
/// For scored pairs: the correlations of the cosines with the scores, `spearman` and `pearson`, as [RegressTask] has
/// them.
///
/// In memory are the vectors of all texts once, and the cosines of a block of anchors.
final class VectorMeter implements Meter {
    static final Metric NDCG = new Metric("ndcg@10", true);
    static final Metric SPEARMAN = new Metric("spearman", true);

    private static final int DEPTH = 10;
    /// Anchors, and positives, whose cosines are computed together: their vectors fit into a core's cache.
    private static final int QUERIES = 32;

    private static final int DOCUMENTS = 256;

    private final Kind kind;
    /// The factor of the cosines in the loss.
    private final double scale;
    private final int rows;
    private double loss;
    private int terms;

    // Of pairs: the places of different texts, their vectors, and the positives of each anchor.
    private final Examples examples;
    private final Map<IntBuffer, Integer> anchors = new LinkedHashMap<>();
    private final Map<IntBuffer, Integer> positives = new LinkedHashMap<>();
    private final List<TreeSet<Integer>> relevant = new ArrayList<>();
    private final List<float[]> queries = new ArrayList<>();
    private final List<float[]> documents = new ArrayList<>();

    // Of texts with labels: the label of each different text.
    private final List<Integer> labels = new ArrayList<>();
    /// The text that each query is.
    private final List<Integer> searching = new ArrayList<>();

    // Of scored pairs.
    private final double[] cosines;
    private final double[] scores;

    VectorMeter(Examples examples, double scale) {
        this.examples = examples;
        this.scale = scale;
        kind = Kind.of(examples.row(0));
        rows = examples.size();
        cosines = new double[kind == Kind.SCORES ? rows : 0];
        scores = new double[cosines.length];
    }

    /// @param vectors (texts, C)
    @Override
    public void add(Batch batch, double[] vectors) {
        int width = vectors.length / batch.batchSize();
        double[][] texts = new double[batch.batchSize()][];
        for (int t = 0; t < texts.length; t++) {
            texts[t] = unit(Arrays.copyOfRange(vectors, t * width, (t + 1) * width));
        }
        switch (kind) {
            case SCORES -> addScored(batch, texts);
            case LABELS -> addLabelled(batch, texts);
            case PAIRS, TRIPLETS -> addPairs(batch, texts);
        }
    }

    private static double[] unit(double[] x) {
        double length = Math.max(1e-12, Math.sqrt(dot(x, x)));
        return Arrays.stream(x).map(v -> v / length).toArray();
    }

    private static double dot(double[] a, double[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    // ---- pairs

    private void addPairs(Batch batch, double[][] texts) {
        int n = batch.rows().length;
        int k = kind.texts();
        float[] mask = ((Target.Floats) batch.targets().get(1)).values();
        int candidates = mask.length / n;
        for (int i = 0; i < n; i++) {
            double[] logits = new double[candidates];
            for (int c = 0; c < candidates; c++) {
                logits[c] = scale * dot(texts[i * k], texts[c % n * k + 1 + c / n]) + mask[i * candidates + c];
            }
            loss += logSumExp(logits) - logits[i];
            int row = batch.rows()[i];
            int query = place(EmbedTask.ids(examples.row(row), 0), texts[i * k], anchors, queries);
            int document = place(EmbedTask.ids(examples.row(row), 1), texts[i * k + 1], positives, documents);
            if (query == relevant.size()) {
                relevant.add(new TreeSet<>());
            }
            relevant.get(query).add(document);
        }
    }

    /// The place of a text among different ones, with its vector.
    private static int place(IntBuffer ids, double[] vector, Map<IntBuffer, Integer> places, List<float[]> vectors) {
        return places.computeIfAbsent(ids, text -> {
            float[] narrow = new float[vector.length];
            for (int i = 0; i < narrow.length; i++) {
                narrow[i] = (float) vector[i];
            }
            vectors.add(narrow);
            return vectors.size() - 1;
        });
    }

    private static double logSumExp(double[] x) {
        double max = Arrays.stream(x).max().orElse(0);
        return max + Math.log(Arrays.stream(x).map(v -> Math.exp(v - max)).sum());
    }

    private Map<String, Double> retrieval() {
        double[] sums = new double[4];
        int found = documents.size();
        for (int from = 0; from < queries.size(); from += QUERIES) {
            int to = Math.min(queries.size(), from + QUERIES);
            float[][] near = new float[to - from][found];
            for (int d = 0; d < found; d += DOCUMENTS) {
                cosines(from, d, Math.min(found, d + DOCUMENTS), near);
            }
            for (int q = from; q < to; q++) {
                if (kind == Kind.LABELS) {
                    // A text does not find itself.
                    near[q - from][searching.get(q)] = Float.NEGATIVE_INFINITY;
                }
                measure(ranks(near[q - from], relevant.get(q)), sums);
            }
        }
        Map<String, Double> metrics = new LinkedHashMap<>();
        List<String> names = List.of(NDCG.name(), "mrr@10", "recall@1", "recall@10");
        for (int m = 0; m < sums.length; m++) {
            metrics.put(names.get(m), sums[m] / Math.max(1, queries.size()));
        }
        return metrics;
    }

    /// Sets `near[q][d]` for all anchors q from `from` on, and the positives d. The inner loop is over positives, whose
    /// sums are independent of each other, so that the compiler makes vector instructions of it.
    private void cosines(int from, int first, int end, float[][] near) {
        int width = documents.getFirst().length;
        float[][] columns = new float[width][end - first];
        for (int d = first; d < end; d++) {
            for (int c = 0; c < width; c++) {
                columns[c][d - first] = documents.get(d)[c];
            }
        }
        float[] sums = new float[end - first];
        for (int q = 0; q < near.length; q++) {
            Arrays.fill(sums, 0);
            float[] query = queries.get(from + q);
            for (int c = 0; c < width; c++) {
                addScaled(query[c], columns[c], sums);
            }
            System.arraycopy(sums, 0, near[q], first, sums.length);
        }
    }

    private static void addScaled(float factor, float[] x, float[] sums) {
        for (int i = 0; i < sums.length; i++) {
            sums[i] += factor * x[i];
        }
    }

    /// The ranks of the wanted positives, counted from 1, in ascending order.
    private static int[] ranks(float[] near, Set<Integer> wanted) {
        int[] own = wanted.stream()
                .sorted(Comparator.comparingDouble((Integer d) -> -near[d]))
                .mapToInt(Integer::intValue)
                .toArray();
        int[] ranks = new int[own.length];
        for (int i = 0; i < own.length; i++) {
            int before = i;
            for (int d = 0; d < near.length; d++) {
                // Whatever is no number is the nearest to nothing.
                before += !(near[d] < near[own[i]]) && !wanted.contains(d) ? 1 : 0;
            }
            ranks[i] = before + 1;
        }
        return ranks;
    }

    private static void measure(int[] ranks, double[] sums) {
        double gain = 0;
        double ideal = 0;
        for (int i = 0; i < ranks.length && i < DEPTH; i++) {
            gain += ranks[i] <= DEPTH ? 1 / log2(1 + ranks[i]) : 0;
            ideal += 1 / log2(2 + i);
        }
        sums[0] += gain / ideal;
        sums[1] += ranks[0] <= DEPTH ? 1.0 / ranks[0] : 0;
        sums[2] += within(ranks, 1);
        sums[3] += within(ranks, DEPTH);
    }

    static double log2(double x) {
        return Math.log(x) / Math.log(2);
    }

    private static double within(int[] ranks, int depth) {
        return (double) Arrays.stream(ranks).filter(rank -> rank <= depth).count() / ranks.length;
    }

    // ---- texts with labels

    private void addLabelled(Batch batch, double[][] texts) {
        int n = texts.length;
        int[] own = new int[n];
        for (int i = 0; i < n; i++) {
            Example row = examples.row(batch.rows()[i]);
            own[i] = row.target()[0];
            if (place(EmbedTask.ids(row, 0), texts[i], positives, documents) == labels.size()) {
                labels.add(own[i]);
            }
        }
        for (int i = 0; i < n; i++) {
            int text = i;
            int[] others = IntStream.range(0, n).filter(j -> j != text).toArray();
            double[] scores = Arrays.stream(others)
                    .mapToDouble(j -> scale * dot(texts[text], texts[j]))
                    .toArray();
            double[] wanted = IntStream.range(0, others.length)
                    .filter(k -> own[others[k]] == own[text])
                    .mapToDouble(k -> scores[k])
                    .toArray();
            if (wanted.length > 0) {
                loss += logSumExp(scores) - Arrays.stream(wanted).sum() / wanted.length;
                terms++;
            }
        }
    }

    /// Lets each text search whose label another one has.
    private void search() {
        queries.clear();
        relevant.clear();
        searching.clear();
        for (int q = 0; q < documents.size(); q++) {
            TreeSet<Integer> same = new TreeSet<>();
            for (int d = 0; d < documents.size(); d++) {
                if (d != q && labels.get(d).equals(labels.get(q))) {
                    same.add(d);
                }
            }
            if (!same.isEmpty()) {
                queries.add(documents.get(q));
                relevant.add(same);
                searching.add(q);
            }
        }
    }

    // ---- scored pairs

    private void addScored(Batch batch, double[][] texts) {
        float[] own = ((Target.Floats) batch.targets().get(1)).values();
        double[] near = new double[own.length];
        for (int i = 0; i < own.length; i++) {
            near[i] = dot(texts[2 * i], texts[2 * i + 1]);
            cosines[batch.rows()[i]] = near[i];
            scores[batch.rows()[i]] = own[i];
        }
        double[] over = IntStream.range(0, own.length * own.length)
                .filter(at -> own[at / own.length] > own[at % own.length])
                .mapToDouble(at -> scale * (near[at % own.length] - near[at / own.length]))
                .toArray();
        double[] logits = Arrays.copyOf(over, over.length + 1);
        loss += own.length * logSumExp(logits);
    }

    @Override
    public Evaluation evaluation() {
        if (kind == Kind.LABELS) {
            search();
            return new Evaluation(rows, loss / Math.max(1, terms), retrieval(), NDCG);
        }
        if (kind != Kind.SCORES) {
            return new Evaluation(rows, loss / rows, retrieval(), NDCG);
        }
        Map<String, Double> metrics = new LinkedHashMap<>();
        metrics.put(SPEARMAN.name(), RegressTask.spearman(cosines, scores));
        metrics.put("pearson", RegressTask.pearson(cosines, scores));
        return new Evaluation(rows, loss / rows, metrics, SPEARMAN);
    }
}
