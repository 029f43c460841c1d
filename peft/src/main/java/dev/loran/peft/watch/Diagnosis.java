package dev.loran.peft.watch;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.Spike;
import dev.loran.peft.train.SpikeWatch;
import dev.loran.peft.watch.Finding.Area;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/// What was wrong with a run, finished or not, by what it wrote: its options, its metrics, its results, and the facts
/// known when it began.
///
/// | finding | rule |
/// |---|---|
/// | `diverged` | the run ended because its loss or its gradients were no longer finite |
/// | `rate_too_high` | the loss rose by 10 %, or once by 50 %, or a step in a hundred spikes, or steps were left out |
/// | `spikes` | fewer spikes ([SpikeWatch]) |
/// | `always_clipped` | 9 of 10 steps after the warm-up had gradients above `--max-grad-norm` |
/// | `rate_too_low` | the rate is below the method's usual ones, and the loss fell by less than 10 % |
/// | `too_few_parameters` | the loss stayed above half of its start, and fell by less than 3 % in the last quarter |
/// | `not_done` | the loss still fell by 10 % from the third quarter of the steps to the last |
/// | `overfitting` | the held-out loss rose by 2 % over its lowest value while the training loss fell |
/// | `majority_class` | the accuracy is at most two standard errors above the share of the most frequent class |
/// | `unbalanced` | nine of ten rows have the same class |
/// | `without_gradient` | no gradient reached an adapted module |
/// | `truncated` | more than a tenth of the texts were cut; serious above half |
/// | `unknown_tokens` | more than 2 % of the tokens are not in the vocabulary; serious above 10 % |
/// | `memory_nearly_full` | the run needed, or was planned to need, 85 % of the memory |
/// | `slow_data` | reading rows took more than a fifth of the time |
/// | `slowing_down` | a token took 1.5 times as long in the later half of the steps |
///
/// The loss at the start and at the end is the median of a tenth of the steps, at least 5.
///
/// @param findings the serious ones first
/// @param notChecked what could not be checked, because the run did not record it
public record Diagnosis(List<Finding> findings, List<String> notChecked) {
    /// The learning rates that are usual for the run's method.
    public record UsualRates(double low, double high) {}

    /// Reads a run's folder.
    ///
    /// @throws dev.loran.peft.io.InputException if it is no run's folder, or a file there is damaged
    public static Diagnosis of(RunFolder run, UsualRates usual) {
        Examination examination = new Examination(run, usual);
        examination.all();
        examination.findings.sort(Comparator.comparing(f -> !f.serious()));
        return new Diagnosis(List.copyOf(examination.findings), List.copyOf(examination.notChecked));
    }

    /// The files of a run, and what is found in them.
    private static final class Examination {
        /// Fewer steps than this show no course.
        private static final int LEAST_STEPS = 40;

        private static final int FEW = 5;

        final List<Finding> findings = new ArrayList<>();
        final List<String> notChecked = new ArrayList<>();
        private final UsualRates usual;
        private final ObjectNode options;
        private final ObjectNode facts;
        private final ObjectNode result;
        private final List<JsonNode> steps = new ArrayList<>();
        private final List<JsonNode> evaluations = new ArrayList<>();
        private final @Nullable String diverged;
        private final double[] losses;
        private final double start;
        private final double end;
        private boolean overfits;
        private boolean unstable;

        Examination(RunFolder run, UsualRates usual) {
            this.usual = usual;
            this.options = JsonFile.read(run.optionsFile());
            this.facts = run.facts();
            this.result = run.result();
            this.diverged = run.diverged();
            run.metrics().forEach(line -> (line.has("eval_loss") ? evaluations : steps).add(line));
            this.losses = steps.stream()
                    .map(s -> s.path("loss"))
                    .filter(JsonNode::isNumber)
                    .mapToDouble(JsonNode::doubleValue)
                    .toArray();
            int few = Math.min(losses.length, Math.max(FEW, losses.length / 10));
            this.start = median(Arrays.copyOf(losses, few));
            this.end = median(Arrays.copyOfRange(losses, losses.length - few, losses.length));
        }

        void all() {
            if (diverged != null) {
                found(
                        "diverged",
                        Area.STABILITY,
                        true,
                        diverged,
                        text(
                                "--lr %s; if it is a single batch: a lower --max-grad-norm, or --skip-bad-steps 3",
                                shown(Math.min(rate() / 3, usual.high))));
            }
            overfitting();
            if (losses.length < LEAST_STEPS) {
                notChecked.add("the course of the loss: %d steps are too few, %d are enough"
                        .formatted(losses.length, LEAST_STEPS));
            } else {
                instability();
                clipping();
                learning();
                slowing();
            }
            classes();
            gradients();
            texts();
            memory();
            data();
        }

        private void found(String name, Area area, boolean serious, String evidence, String advice) {
            findings.add(new Finding(name, area, serious, evidence, advice));
        }

        // ---- instability

        private void instability() {
            SpikeWatch watch = new SpikeWatch();
            TreeMap<Integer, Spike> spikes = new TreeMap<>();
            for (JsonNode s : steps) {
                Spike spike = watch.next(number(s, "loss"), number(s, "grad_norm"));
                if (spike != null) {
                    spikes.put(s.path("step").asInt(), spike);
                }
            }
            List<String> why = new ArrayList<>();
            double first = median(Arrays.copyOf(losses, FEW));
            double highest = highest();
            if (end > 1.1 * start) {
                why.add(text("the loss rose from %.3g to %.3g", start, end));
            } else if (highest > 1.5 * first) {
                why.add(text("the loss rose from %.3g to %.3g before it fell to %.3g", first, highest, end));
            }
            int leftOut = steps.size() - losses.length;
            if (leftOut > 0) {
                why.add(text("%d steps had no finite loss", leftOut));
            }
            String jumps = spikes.isEmpty()
                    ? ""
                    : text(
                            "%d of %,d steps jumped (%s; first at step %d: %s)",
                            spikes.size(),
                            steps.size(),
                            some(spikes.keySet().stream().toList()),
                            spikes.firstKey(),
                            spikes.firstEntry().getValue());
            boolean many = spikes.size() >= Math.max(3, steps.size() / 100);
            if (many) {
                why.add(jumps);
            }
            unstable = !why.isEmpty();
            if (unstable) {
                double lower = Math.min(rate() / 3, usual.high);
                found(
                        "rate_too_high",
                        Area.STABILITY,
                        true,
                        String.join("; ", why),
                        text(
                                "--lr %s (it was %s; usual are %s to %s), or a longer --warmup",
                                shown(lower), shown(rate()), shown(usual.low), shown(usual.high)));
            } else if (!spikes.isEmpty()) {
                found(
                        "spikes",
                        Area.STABILITY,
                        false,
                        jumps,
                        "look at the rows of these steps (spikes/ in the run's folder); if they are sound, a lower"
                                + " --lr, a longer --warmup or a lower --max-grad-norm");
            }
        }

        /// The highest median of a tenth of the steps.
        private double highest() {
            int size = Math.max(FEW, losses.length / 10);
            double highest = 0;
            for (int from = 0; from + size <= losses.length; from += Math.max(1, size / 5)) {
                highest = Math.max(highest, median(Arrays.copyOfRange(losses, from, from + size)));
            }
            return highest;
        }

        private static String some(List<Integer> numbers) {
            int shown = 5;
            String first = String.join(
                    ", ", numbers.stream().limit(shown).map(String::valueOf).toList());
            return numbers.size() > shown ? first + ", …" : first;
        }

        private void clipping() {
            double limit = options.path("max-grad-norm").asDouble(1);
            double peak = steps.stream().mapToDouble(s -> number(s, "lr")).max().orElse(0);
            List<JsonNode> warm =
                    steps.stream().dropWhile(s -> number(s, "lr") < 0.99 * peak).toList();
            double[] norms = warm.stream()
                    .mapToDouble(s -> number(s, "grad_norm"))
                    .filter(Double::isFinite)
                    .toArray();
            long clipped = Arrays.stream(norms).filter(n -> n > limit).count();
            if (norms.length >= 20 && clipped >= 0.9 * norms.length) {
                found(
                        "always_clipped",
                        Area.STABILITY,
                        false,
                        text(
                                "%.0f %% of the steps after the warm-up were clipped: the gradients' norm has a median "
                                        + "of %.3g, and the limit is %s",
                                100.0 * clipped / norms.length, median(norms), shown(limit)),
                        text(
                                "--max-grad-norm %s, so that only unusual steps are clipped%s",
                                shown(2 * median(norms)), unstable ? "; but first a lower --lr" : ""));
            }
        }

        // ---- learning

        private void learning() {
            if (unstable || overfits) {
                return;
            }
            double third = mean(losses, losses.length / 2, 3 * losses.length / 4);
            double last = mean(losses, 3 * losses.length / 4, losses.length);
            String course = text("the loss fell from %.3g to %.3g in %,d steps", start, end, losses.length);
            if (end > 0.9 * start && rate() < usual.low) {
                found(
                        "rate_too_low",
                        Area.RESULTS,
                        true,
                        course + text(" at a rate of %s", shown(rate())),
                        text("--lr %s: usual are %s to %s", shown(usual.high), shown(usual.low), shown(usual.high)));
            } else if (last < 0.9 * third) {
                found(
                        "not_done",
                        Area.RESULTS,
                        false,
                        text("the loss still fell, from %.3g in the third quarter to %.3g in the last", third, last),
                        rate() < usual.low
                                ? text("--lr %s, or more --epochs", shown(usual.low))
                                : "more --epochs (loran train --resume RUN --epochs N goes on)");
            } else if (end > 0.5 * start && last > 0.97 * third) {
                found(
                        "too_few_parameters",
                        Area.RESULTS,
                        false,
                        course + text(", and hardly in the later half: from %.3g to %.3g", third, last),
                        morePower());
            }
        }

        private String morePower() {
            String method = options.path("method").asText("");
            String targets = options.path("targets").asText("").equals("all-linear") ? "" : ", or --targets all-linear";
            return switch (method) {
                case "lora", "dora", "adalora" ->
                    "--rank %d%s".formatted(2 * options.path("rank").asInt(8), targets);
                case "p-tuning", "prompt", "prefix" ->
                    "--virtual-tokens %d, or --method lora"
                            .formatted(2 * options.path("virtual-tokens").asInt(20));
                case "full" -> "another --lr, or a larger model: all parameters of this one train";
                default -> "--method lora, which trains more parameters";
            };
        }

        private void overfitting() {
            JsonNode lowest = evaluations.stream()
                    .min(Comparator.comparingDouble(e -> number(e, "eval_loss")))
                    .orElse(null);
            if (lowest == null) {
                notChecked.add("overfitting: no rows were held out (--eval)");
                return;
            }
            JsonNode last = evaluations.getLast();
            double before = lossNear(lowest.path("step").asInt());
            double after = lossNear(last.path("step").asInt());
            overfits = number(last, "eval_loss") > 1.02 * number(lowest, "eval_loss") && after < before;
            if (overfits) {
                found(
                        "overfitting",
                        Area.RESULTS,
                        true,
                        text(
                                "the held-out loss was lowest after step %d (%.3g) and rose to %.3g, while the training"
                                        + " loss fell from %.3g to %.3g",
                                lowest.path("step").asInt(),
                                number(lowest, "eval_loss"),
                                number(last, "eval_loss"),
                                before,
                                after),
                        "fewer --epochs, or --patience 2 (best/ holds the parameters from before the rise); more rows;"
                                + " a higher --dropout or --weight-decay");
            }
        }

        /// The median loss of up to 20 steps that end with `step`.
        private double lossNear(int step) {
            double[] near = steps.stream()
                    .filter(s ->
                            s.path("step").asInt() <= step && s.path("step").asInt() > step - 20)
                    .mapToDouble(s -> number(s, "loss"))
                    .filter(Double::isFinite)
                    .toArray();
            return median(near);
        }

        private void classes() {
            JsonNode held = facts.path("held_out");
            double rows = held.path("rows").asDouble();
            double share = held.path("majority").asDouble() / Math.max(1, rows);
            double accuracy = evaluations.stream()
                    .mapToDouble(e -> number(e, "eval_accuracy"))
                    .filter(Double::isFinite)
                    .max()
                    .orElse(Double.NaN);
            double error = 2 * Math.sqrt(share * (1 - share) / Math.max(1, rows));
            if (share > 0 && accuracy <= share + error) {
                found(
                        "majority_class",
                        Area.RESULTS,
                        true,
                        text(
                                "the best accuracy, %.3f, is no better than always answering the most frequent class: "
                                        + "%.3f ± %.3f of the %,.0f held-out rows have it",
                                accuracy, share, error, rows),
                        "check that the texts say what the labels mean; then a higher --lr or more --epochs; then as"
                                + " many rows of each class");
            }
            double train = facts.path("train").path("majority").asDouble()
                    / Math.max(1, facts.path("train").path("rows").asDouble());
            if (train >= 0.9) {
                found(
                        "unbalanced",
                        Area.RESULTS,
                        false,
                        text("%.1f %% of the rows to train on have the same class", 100 * train),
                        "more rows of the other classes; judge by macro_f1, not by accuracy");
            }
        }

        private void gradients() {
            JsonNode without = result.path("without_gradient");
            if (!without.isEmpty()) {
                found(
                        "without_gradient",
                        Area.RESULTS,
                        true,
                        "no gradient reached "
                                + String.join(
                                        ", ",
                                        without.valueStream()
                                                .limit(5)
                                                .map(JsonNode::asText)
                                                .toList())
                                + (without.size() > 5 ? " and %d more".formatted(without.size() - 5) : "")
                                + ": the loss does not depend on them",
                        "leave them out of --targets (loran targets MODEL lists what there is)");
            }
        }

        // ---- texts

        private void texts() {
            JsonNode rows = facts.path("train");
            if (rows.isMissingNode()) {
                notChecked.add("classes, truncation and unknown tokens: the run has no facts.json");
                return;
            }
            double cut = rows.path("truncated").asDouble()
                    / Math.max(1, rows.path("rows").asDouble());
            int length = options.path("max-length").asInt();
            int most = facts.path("max_positions").asInt();
            if (cut > 0.1) {
                found(
                        "truncated",
                        Area.RESULTS,
                        cut > 0.5,
                        text("%.0f %% of the texts are longer than the %d tokens that were read", 100 * cut, length),
                        length < most
                                ? text("--max-length %d (the model has %d positions)", Math.min(most, 2 * length), most)
                                : text("a model with more than %d positions, or shorter texts", most));
            }
            double unknown = rows.path("unknown_share").asDouble();
            if (unknown > 0.02) {
                found(
                        "unknown_tokens",
                        Area.RESULTS,
                        unknown > 0.1,
                        text("%.1f %% of the tokens are not in the tokenizer's vocabulary", 100 * unknown),
                        "a --model for the language and the characters of these texts");
            }
        }

        // ---- cost

        private void memory() {
            double total = number(facts, "memory_mib");
            if (!Double.isFinite(total)) {
                notChecked.add("memory: the run did not record how much there is");
                return;
            }
            boolean gpu = facts.path("device").asText("cpu").equals("cuda");
            double peak = number(result, gpu ? "peak_tensor_mib" : "peak_memory_mib");
            double planned = number(facts, "planned_tensor_mib");
            double need = Double.isFinite(peak) ? peak : planned;
            if (need >= 0.85 * total) {
                found(
                        "memory_nearly_full",
                        Area.MEMORY,
                        true,
                        text(
                                "the run %s %,.0f of %,.0f MiB",
                                need == peak ? "needed" : "was planned to need", need, total),
                        text(
                                "--batch-size %d with --accumulation %d; --gradient-checkpointing; --dtype bf16; %s",
                                Math.max(1, options.path("batch-size").asInt(16) / 2),
                                2 * options.path("accumulation").asInt(1),
                                options.path("method").asText("").equals("full")
                                        ? "--method lora, which needs no moments for most parameters"
                                        : "a lower --max-length"));
            }
        }

        private void data() {
            double reading =
                    steps.stream().mapToDouble(s -> number(s, "data_seconds")).sum();
            double seconds =
                    steps.isEmpty() ? 0 : steps.getLast().path("seconds").asDouble();
            if (!Double.isFinite(reading)) {
                notChecked.add("the time for reading rows: not all steps recorded it");
            } else if (reading > 0.2 * seconds) {
                found(
                        "slow_data",
                        Area.SPEED,
                        false,
                        text("reading rows took %.1f of %.1f seconds", reading, seconds),
                        "put the temporary folder on a faster disk (JAVA_OPTS=-Djava.io.tmpdir=DIR), or give the rows"
                                + " room in memory");
            }
        }

        private void slowing() {
            int half = steps.size() / 2;
            double first = perToken(0, half);
            double later = perToken(half, steps.size());
            if (later > 1.5 * first) {
                found(
                        "slowing_down",
                        Area.SPEED,
                        false,
                        text("%.0f tokens/s in the first half of the steps, %.0f in the later", 1 / first, 1 / later),
                        "look for other work on the machine, a processor that is throttled, or memory that is swapped");
            }
        }

        private double perToken(int from, int to) {
            double before = from == 0 ? 0 : steps.get(from - 1).path("seconds").asDouble();
            double tokens = steps.subList(from, to).stream()
                    .mapToDouble(s -> number(s, "tokens"))
                    .sum();
            return (steps.get(to - 1).path("seconds").asDouble() - before) / tokens;
        }

        // ---- numbers

        private double rate() {
            return options.path("lr").asDouble();
        }

        /// NaN if there is no such number.
        private static double number(JsonNode of, String key) {
            return of.path(key).isNumber() ? of.path(key).doubleValue() : Double.NaN;
        }

        private static double mean(double[] values, int from, int to) {
            return Arrays.stream(values, from, to).average().orElse(Double.NaN);
        }

        private static double median(double[] values) {
            double[] sorted = values.clone();
            Arrays.sort(sorted);
            return sorted.length == 0 ? Double.NaN : sorted[sorted.length / 2];
        }

        @SuppressWarnings("AnnotateFormatMethod")
        private static String text(String format, @Nullable Object... values) {
            return String.format(Locale.ROOT, format, values);
        }

        /// A rate or a limit with two significant digits, as it is typed.
        private static String shown(double value) {
            String text = String.format(Locale.ROOT, "%.1e", value);
            return value >= 0.01 && value < 1e6
                    ? new java.math.BigDecimal(text).stripTrailingZeros().toPlainString()
                    : text.replaceFirst("\\.0e", "e")
                            .replaceFirst("e([+-])0", "e$1")
                            .replace("e+", "e");
        }
    }
}
