package dev.loran.peft.tuner;

import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

/// How the low-rank updates Δᵢ = sᵢ·Bᵢ·Aᵢ of several adapters are combined into one: [PeftModel#addWeightedAdapter].
///
/// | peft's name | here | result, layer by layer |
/// |---|---|---|
/// | cat | [Cat] | Σ wᵢΔᵢ, exact, of rank Σ rᵢ |
/// | svd | [OfUpdates] with [Sum] | the best rank-r approximation of Σ wᵢΔᵢ |
/// | … _svd (four rules) | [OfUpdates] with that rule | the best rank-r approximation of the rule applied to the Δᵢ |
/// | linear and the four rules | [OfFactors] with that rule | the rule on the √\|wᵢsᵢ\|·Aᵢ and on the √\|wᵢsᵢ\|·Bᵢ |
///
/// The four rules are ties, dare_linear, dare_ties and magnitude_prune.
///
/// The last kind is cheap and keeps the rank, but it multiplies every Bᵢ with every Aⱼ, which leaves little of adapters
/// that were trained separately. The papers define their rules on updates, like the second and third kind.
///
/// **Papers**: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023; Yu et al., "Language
/// Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", 2024 (DARE); Eckart and Young,
/// "The Approximation of One Matrix by Another of Lower Rank", 1936.
public sealed interface Combination {
    /// Concatenates the factors, which is lossless.
    record Cat() implements Combination {}

    /// Applies a rule to the updates themselves and takes the nearest matrix of rank `rank` to its result in the
    /// Frobenius norm. With [Sum] it is computed from the factors; other rules form the updates, one layer at a time.
    ///
    /// @param rank of each layer; 0 for the largest rank among the adapters at that layer
    record OfUpdates(Rule rule, int rank) implements Combination {
        public OfUpdates {
            check(rank >= 0, "rank", rank, "at least 0");
        }
    }

    /// Applies a rule to the factors A and B separately, which must have the same rank.
    record OfFactors(Rule rule) implements Combination {}

    /// Exact; the rank is the sum of the ranks.
    static Combination cat() {
        return new Cat();
    }

    /// The weighted sum of the updates, reduced to `rank`; 0 for the largest of the adapters' ranks.
    static Combination svd(int rank) {
        return new OfUpdates(new Sum(), rank);
    }

    /// The weighted sums of A and, separately, B.
    static Combination linear() {
        return new OfFactors(new Sum());
    }

    /// The combination that peft calls `name`.
    ///
    /// @param density fraction of the elements that pruning rules keep
    /// @param rank of the result, if the name ends in svd
    /// @param seed of random pruning
    /// @throws InputException if there is no such name
    static Combination named(String name, double density, int rank, long seed) {
        boolean onUpdates = name.endsWith("_svd");
        return switch (name) {
            case "cat" -> cat();
            case "svd" -> svd(rank);
            case "linear" -> linear();
            default -> {
                Rule rule = Rule.named(onUpdates ? name.substring(0, name.length() - 4) : name, density, seed);
                yield onUpdates ? new OfUpdates(rule, rank) : new OfFactors(rule);
            }
        };
    }

    private static void check(boolean right, String field, Object value, String need) {
        if (!right) {
            throw new InputException("Combination: " + field + " is " + value + ", must be " + need);
        }
    }

    /// How several tensors of one shape are combined, element by element.
    sealed interface Rule {
        /// The result for `tensors` under `weights`.
        ///
        /// @param salt varies the random pruning between tensors
        double[] combine(List<double[]> tensors, double[] weights, long salt);

        private static Rule named(String name, double density, long seed) {
            return switch (name) {
                case "ties" -> new Ties(density, Sign.TOTAL);
                case "dare_linear" -> new DareLinear(density, seed);
                case "dare_ties" -> new DareTies(density, Sign.TOTAL, seed);
                case "magnitude_prune" -> new MagnitudePrune(density);
                default ->
                    throw new InputException("Combination: " + name + " is none; known are linear, cat, svd, and ties,"
                            + " dare_linear, dare_ties, magnitude_prune with or without _svd");
            };
        }
    }

    /// How the majority sign is determined.
    enum Sign {
        /// The sign of the sum.
        TOTAL,
        /// The sign that occurs in more tensors.
        FREQUENCY
    }

    /// Σ wᵢxᵢ.
    record Sum() implements Rule {
        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            double[] sum = new double[tensors.getFirst().length];
            for (int i = 0; i < weights.length; i++) {
                double[] x = tensors.get(i);
                for (int j = 0; j < sum.length; j++) {
                    sum[j] += weights[i] * x[j];
                }
            }
            return sum;
        }
    }

    /// Σ wᵢxᵢ over the largest elements of each xᵢ.
    ///
    /// @param density fraction of the elements that is kept
    record MagnitudePrune(double density) implements Rule {
        public MagnitudePrune {
            checkDensity(density);
        }

        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            return new Sum()
                    .combine(tensors.stream().map(x -> largest(x, density)).toList(), weights, salt);
        }
    }

    /// TIES: keeps the largest elements of each xᵢ, then averages wᵢxᵢ over the tensors whose element has the majority
    /// sign.
    ///
    /// @param density fraction of the elements that the first step keeps
    record Ties(double density, Sign sign) implements Rule {
        public Ties {
            checkDensity(density);
        }

        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            return elected(tensors.stream().map(x -> largest(x, density)).toList(), weights, sign);
        }
    }

    /// DARE: Σ wᵢxᵢ over randomly kept elements of each xᵢ, divided by the density.
    ///
    /// @param density probability of keeping an element
    record DareLinear(double density, long seed) implements Rule {
        public DareLinear {
            checkDensity(density);
        }

        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            return new Sum().combine(atRandom(tensors, density, seed + salt), weights, salt);
        }
    }

    /// DARE's pruning followed by TIES' sign election.
    ///
    /// @param density probability of keeping an element
    record DareTies(double density, Sign sign, long seed) implements Rule {
        public DareTies {
            checkDensity(density);
        }

        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            return elected(atRandom(tensors, density, seed + salt), weights, sign);
        }
    }

    private static void checkDensity(double density) {
        check(density > 0 && density <= 1, "density", density, "in (0, 1]");
    }

    /// x with all but the ⌊density · n⌋ elements of the largest magnitude set to zero; among equal ones the first are
    /// kept.
    private static double[] largest(double[] x, double density) {
        int keep = (int) (density * x.length);
        if (keep == x.length) {
            return x;
        }
        double[] kept = new double[x.length];
        if (keep == 0) {
            return kept;
        }
        double[] magnitudes = Arrays.stream(x).map(Math::abs).sorted().toArray();
        double threshold = magnitudes[x.length - keep];
        int above = 0;
        for (double v : x) {
            above += Math.abs(v) > threshold ? 1 : 0;
        }
        int ties = keep - above;
        for (int i = 0; i < x.length; i++) {
            double magnitude = Math.abs(x[i]);
            if (magnitude > threshold || magnitude == threshold && ties-- > 0) {
                kept[i] = x[i];
            }
        }
        return kept;
    }

    private static List<double[]> atRandom(List<double[]> tensors, double density, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        return tensors.stream()
                .map(x -> Arrays.stream(x)
                        .map(v -> random.nextDouble() < density ? v / density : 0)
                        .toArray())
                .toList();
    }

    /// The mean of wᵢxᵢ over the tensors whose sign at the element is the majority's.
    private static double[] elected(List<double[]> tensors, double[] weights, Sign sign) {
        double[] result = new double[tensors.getFirst().length];
        for (int j = 0; j < result.length; j++) {
            double vote = 0;
            for (double[] x : tensors) {
                vote += sign == Sign.TOTAL ? x[j] : Math.signum(x[j]);
            }
            double majority = vote >= 0 ? 1 : -1;
            double sum = 0;
            int voters = 0;
            for (int i = 0; i < weights.length; i++) {
                if (Math.signum(tensors.get(i)[j]) == majority) {
                    sum += weights[i] * tensors.get(i)[j];
                    voters++;
                }
            }
            result[j] = voters == 0 ? 0 : sum / voters;
        }
        return result;
    }
}
