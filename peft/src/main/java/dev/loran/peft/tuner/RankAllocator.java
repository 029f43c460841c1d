package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.tuner.AdaLoraConfig.SvdLinear;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// AdaLoRA on a model, after peft's RankAllocator: the smoothed importance of every entry, and the choice of live
/// triplets.
final class RankAllocator extends Tuner {
    private static final String RANK_PATTERN = "rank_pattern.";
    private static final String SMOOTH = "exp_avg_ipt.";
    private static final String SPREAD = "exp_avg_unc.";

    private final AdaLoraConfig config;
    private final Map<String, SvdLinear> layers = new LinkedHashMap<>();
    /// Smoothed sensitivity and uncertainty of each parameter, by its name; released after the last allocation.
    private final Map<String, Tensor> sensitivity = new LinkedHashMap<>();
    private final Map<String, Tensor> uncertainty = new LinkedHashMap<>();
    private @Nullable Map<String, List<Boolean>> rankPattern;
    private boolean compacted;
    private int total;

    RankAllocator(AdaLoraConfig config, Attachment to) {
        super(config, to);
        this.config = config;
        this.rankPattern = config.rankPattern() == null ? null : new LinkedHashMap<>(config.rankPattern());
        this.compacted = rankPattern != null;
        this.total = config.totalStep() == null ? 0 : config.totalStep();
    }

    void add(String module, Linear linear) {
        List<Boolean> live = rankPattern == null ? null : live(rankPattern, module + ".lora_E");
        if (rankPattern != null && live == null) {
            throw new InputException("rank_pattern: there is no entry for " + module + ".lora_E");
        }
        int r = live == null
                ? config.initR()
                : (int) live.stream().filter(b -> b).count();
        double scaling = config.lora().loraAlpha() / (config.initR() + 1e-5);
        SvdLinear adapter = new SvdLinear(
                linear,
                r,
                scaling,
                attachment(),
                attachment().dropout(config.lora().loraDropout(), layers.size()));
        layers.put(module, adapter);
        place(module, linear, adapter);
    }

    /// The entry for `name`; files for a model with a head may use the name with the family's prefix.
    private @Nullable List<Boolean> live(Map<String, List<Boolean>> pattern, String name) {
        List<Boolean> below = pattern.remove(attachment().model().belowHead(name));
        if (below != null) {
            pattern.put(name, below);
        }
        return pattern.get(name);
    }

    private Map<String, List<Boolean>> inFile(Map<String, List<Boolean>> pattern) {
        Map<String, List<Boolean>> all = new LinkedHashMap<>();
        pattern.forEach((name, live) -> all.put(key(name).substring(prefix().length()), live));
        return all;
    }

    /// Live triplets of each adapted layer, by module name.
    @Override
    public Map<String, Integer> ranks() {
        Map<String, Integer> ranks = new LinkedHashMap<>();
        layers.forEach((module, layer) -> ranks.put(module, (int)
                Arrays.stream(layer.loraE.toDoubles()).filter(e -> e != 0).count()));
        return ranks;
    }

    /// Weight times the mean over all A and B; layers without triplets count as 0.
    @Override
    public @Nullable Tensor penalty() {
        Tensor sum = null;
        for (SvdLinear layer : layers.values()) {
            if (layer.rank() > 0) {
                sum = sum == null ? layer.penalty() : sum.add(layer.penalty());
            }
        }
        return sum == null || config.orthRegWeight() == 0
                ? null
                : sum.scale(config.orthRegWeight() / (2 * layers.size()));
    }

    @Override
    public void beginTraining(int totalSteps) {
        if (rankPattern != null) {
            // Ranks that were already reduced stay as they are, however long training continues.
            return;
        }
        total = config.totalStep() == null ? totalSteps : config.totalStep();
        if (total != totalSteps) {
            throw new InputException("AdaLoraConfig: total_step is " + total + " but training takes " + totalSteps
                    + " steps; leave total_step out, or make them equal");
        }
        AdaLoraConfig.checkSchedule(config.tinit(), config.tfinal(), total);
    }

    /// All steps except those that allocate or read a mask back.
    @Override
    public boolean repeats(int step) {
        int last = total - config.tfinal();
        return compacted || rankPattern == null && step < last && !allocates(step);
    }

    private boolean allocates(int step) {
        return step > config.tinit() && step % config.deltaT() == 0;
    }

    @Override
    public void afterStep(int step, @Nullable Buffer gradScale, Optimizer optimizer) {
        int last = total - config.tfinal();
        if (compacted) {
            return;
        }
        if (rankPattern != null) {
            Map<String, List<Boolean>> pattern = rankPattern;
            layers.forEach((module, layer) -> mask(layer, flags(pattern, module)));
        } else if (step < last) {
            updateImportance(gradScale);
            if (allocates(step)) {
                allocate(budget(step));
            }
        } else if (step == last) {
            rankPattern = allocate(budget(step));
            releaseStatistics();
            if (config.shrink()) {
                compact(optimizer);
            }
        }
    }

    /// b(t) of the paper's equation 12, over all layers.
    private int budget(int step) {
        int initial = config.initR() * layers.size();
        int target = config.targetR() * layers.size();
        if (step <= config.tinit()) {
            return initial;
        }
        double left = 1 - (double) (step - config.tinit()) / (total - config.tfinal() - config.tinit());
        return (int) ((initial - target) * (left * left * left) + target);
    }

    /// See [dev.loran.engine.backend.OptimizerKernels#importance].
    private void updateImportance(@Nullable Buffer gradScale) {
        parametersOfLayers().forEach((name, p) -> {
            Tensor grad = p.grad();
            if (grad == null) {
                return;
            }
            Tensor smooth = sensitivity.computeIfAbsent(name, k -> zeros(p));
            Tensor spread = uncertainty.computeIfAbsent(name, k -> zeros(p));
            p.backend()
                    .optimizer()
                    .importance(
                            smooth.buffer(),
                            spread.buffer(),
                            p.buffer(),
                            grad.buffer(),
                            gradScale,
                            config.beta1(),
                            config.beta2());
        });
    }

    private static Tensor zeros(Tensor like) {
        Buffer b = like.backend().allocate(like.dtype(), like.shape().size());
        like.backend().fill(b, 0);
        return Tensor.own(like.shape(), b);
    }

    private Map<String, Tensor> parametersOfLayers() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        layers.forEach((module, layer) -> layer.collect((local, t) -> all.put(module + "." + local, t)));
        return all;
    }

    /// Sets E to zero where a triplet's score does not exceed the k-th smallest of all, k = all − budget.
    private Map<String, List<Boolean>> allocate(int budget) {
        Map<String, double[]> scores = new LinkedHashMap<>();
        layers.forEach((module, layer) -> scores.put(module, scores(module, layer)));
        double[] sorted = scores.values().stream()
                .flatMapToDouble(Arrays::stream)
                .sorted()
                .toArray();
        int k = sorted.length - budget;
        double threshold = k <= 0 ? Double.NEGATIVE_INFINITY : sorted[k - 1];
        Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
        layers.forEach((module, layer) -> {
            List<Boolean> live = Arrays.stream(scores.get(module))
                    .mapToObj(s -> s > threshold)
                    .toList();
            pattern.put(module + ".lora_E", live);
            mask(layer, live);
        });
        return pattern;
    }

    /// Score of each triplet: Ī·Ū of E's entry, plus its mean over A's row, plus its mean over B's column.
    private double[] scores(String module, SvdLinear layer) {
        String name = attachment().name();
        int r = layer.rank();
        double[] score = new double[r];
        float[] e = entryScores(module + ".lora_E." + name, layer.loraE);
        float[] a = entryScores(module + ".lora_A." + name, layer.loraA);
        float[] b = entryScores(module + ".lora_B." + name, layer.loraB);
        int in = layer.loraA.shape().cols();
        int out = layer.loraB.shape().rows();
        for (int i = 0; i < r; i++) {
            double row = 0;
            double column = 0;
            for (int j = 0; j < in; j++) {
                row += a[i * in + j];
            }
            for (int j = 0; j < out; j++) {
                column += b[j * r + i];
            }
            score[i] = e[i] + row / in + column / out;
        }
        return score;
    }

    private float[] entryScores(String name, Tensor parameter) {
        float[] scores = new float[Math.toIntExact(parameter.shape().size())];
        Tensor smooth = sensitivity.get(name);
        Tensor spread = uncertainty.get(name);
        if (smooth != null && spread != null) {
            float[] s = smooth.toFloats();
            float[] u = spread.toFloats();
            for (int i = 0; i < scores.length; i++) {
                scores[i] = s[i] * u[i];
            }
        }
        return scores;
    }

    private static void mask(SvdLinear layer, List<Boolean> live) {
        double[] e = layer.loraE.toDoubles();
        for (int i = 0; i < e.length; i++) {
            e[i] = live.get(i) ? e[i] : 0;
        }
        try (Tensor masked = Tensor.of(layer.loraE.backend(), layer.loraE.dtype(), e, e.length, 1)) {
            layer.loraE.copyFrom(masked);
        }
    }

    private static List<Boolean> flags(Map<String, List<Boolean>> pattern, String module) {
        return Objects.requireNonNull(pattern.get(module + ".lora_E"), module);
    }

    private static int[] kept(List<Boolean> live) {
        return IntStream.range(0, live.size()).filter(live::get).toArray();
    }

    /// Removes the pruned triplets from A, B, E and their moments.
    private void compact(Optimizer optimizer) {
        Map<String, List<Boolean>> pattern = Objects.requireNonNull(rankPattern);
        String name = attachment().name();
        layers.forEach((module, layer) -> {
            int[] keep = kept(flags(pattern, module));
            String full = key(module) + ".";
            optimizer.resize(full + "lora_A." + name, layer.loraA, 0, keep);
            optimizer.resize(full + "lora_B." + name, layer.loraB, 1, keep);
            optimizer.resize(full + "lora_E." + name, layer.loraE, 0, keep);
        });
        compacted = true;
    }

    private void releaseStatistics() {
        sensitivity.values().forEach(Tensor::close);
        uncertainty.values().forEach(Tensor::close);
        sensitivity.clear();
        uncertainty.clear();
    }

    /// After the last allocation only the live triplets, as peft writes them; before it, all.
    @Override
    public Map<String, Tensor> fileTensors() {
        Map<String, Tensor> all = super.fileTensors();
        if (rankPattern == null || compacted) {
            return all;
        }
        Map<String, List<Boolean>> pattern = rankPattern;
        layers.forEach((module, layer) -> {
            int[] keep = kept(flags(pattern, module));
            String full = key(module) + ".";
            all.put(full + "lora_A", rows(layer.loraA, keep));
            all.put(full + "lora_B", columns(layer.loraB, keep));
            all.put(full + "lora_E", rows(layer.loraE, keep));
        });
        return all;
    }

    private static Tensor rows(Tensor t, int... keep) {
        int cols = t.shape().cols();
        double[] all = t.toDoubles();
        double[] some = new double[keep.length * cols];
        for (int i = 0; i < keep.length; i++) {
            System.arraycopy(all, keep[i] * cols, some, i * cols, cols);
        }
        return Tensor.of(t.backend(), t.dtype(), some, keep.length, cols);
    }

    private static Tensor columns(Tensor t, int... keep) {
        int rows = t.shape().rows();
        int cols = t.shape().cols();
        double[] all = t.toDoubles();
        double[] some = new double[rows * keep.length];
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < keep.length; j++) {
                some[i * keep.length + j] = all[i * cols + keep[j]];
            }
        }
        return Tensor.of(t.backend(), t.dtype(), some, rows, keep.length);
    }

    @Override
    public ObjectNode savedConfig() {
        return config.withTotalStep(total == 0 ? null : (Integer) total)
                .withRankPattern(rankPattern == null ? null : inFile(rankPattern))
                .toJson();
    }

    /// Before the last allocation the statistics, after it which triplets are live (1).
    @Override
    public Map<String, Tensor> trainingState() {
        Map<String, Tensor> state = new LinkedHashMap<>();
        if (rankPattern != null) {
            rankPattern.forEach((name, live) -> {
                int[] flags = live.stream().mapToInt(b -> b ? 1 : 0).toArray();
                state.put(RANK_PATTERN + name, Tensor.ofInts(attachment().backend(), flags, flags.length));
            });
        }
        sensitivity.forEach((name, t) -> state.put(SMOOTH + name, t));
        uncertainty.forEach((name, t) -> state.put(SPREAD + name, t));
        return state;
    }

    @Override
    public Map<String, Shape> shapes(Map<String, Tensor> state) {
        Map<String, Tensor> own = parametersOfLayers();
        Map<String, List<Boolean>> pattern = pattern(state);
        state.forEach((key, t) -> {
            String name = key.substring(key.indexOf('.') + 1);
            Tensor of = own.get(name);
            boolean known = key.startsWith(RANK_PATTERN)
                    ? pattern.containsKey(name) && t.shape().equals(Shape.of(config.initR()))
                    : (key.startsWith(SMOOTH) || key.startsWith(SPREAD))
                            && of != null
                            && of.shape().equals(t.shape());
            if (!known) {
                throw new IllegalArgumentException(title() + ": training state has " + key + " of " + t.shape()
                        + ", which does not belong to this adapter");
            }
        });
        if (!pattern.isEmpty() && pattern.size() != layers.size()) {
            throw new IllegalArgumentException(
                    title() + ": training state knows the ranks of " + pattern.keySet() + " alone");
        }
        Map<String, Shape> shapes = new LinkedHashMap<>();
        if (!pattern.isEmpty() && config.shrink() && !compacted) {
            String name = attachment().name();
            layers.forEach((module, layer) -> {
                int r = kept(flags(pattern, module)).length;
                String full = prefix() + module + ".";
                shapes.put(full + "lora_A." + name, layer.loraA.shape().withDim(0, r));
                shapes.put(full + "lora_B." + name, layer.loraB.shape().withDim(1, r));
                shapes.put(full + "lora_E." + name, layer.loraE.shape().withDim(0, r));
            });
        }
        return shapes;
    }

    /// Which triplets are live according to `state`, by the names of `E`; empty before the last allocation.
    private Map<String, List<Boolean>> pattern(Map<String, Tensor> state) {
        Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
        layers.keySet().forEach(module -> {
            Tensor live = state.get(RANK_PATTERN + module + ".lora_E");
            if (live != null) {
                pattern.put(
                        module + ".lora_E",
                        Arrays.stream(live.toDoubles()).mapToObj(b -> b != 0).toList());
            }
        });
        return pattern;
    }

    @Override
    public void loadTrainingState(Map<String, Tensor> state) {
        Map<String, List<Boolean>> pattern = pattern(state);
        if (!pattern.isEmpty()) {
            rankPattern = pattern;
            if (config.shrink() && !compacted) {
                layers.forEach((module, layer) -> layer.reshape(kept(flags(pattern, module)).length));
                compacted = true;
            }
        }
        parametersOfLayers().forEach((name, p) -> {
            Tensor smooth = state.get(SMOOTH + name);
            Tensor spread = state.get(SPREAD + name);
            if (smooth != null && spread != null) {
                sensitivity.computeIfAbsent(name, k -> zeros(p)).copyFrom(smooth);
                uncertainty.computeIfAbsent(name, k -> zeros(p)).copyFrom(spread);
            }
        });
    }

    @Override
    public void close() {
        releaseStatistics();
        super.close();
    }
}
