package dev.loran.peft.tuner;

import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

/// How the low-rank updates Δᵢ = sᵢ·Bᵢ·Aᵢ of several adapters become those of one: [PeftModel#addWeightedAdapter].
///
/// | peft's name | here | result, layer by layer |
/// |---|---|---|
/// | cat | [Cat] | Σ wᵢΔᵢ, exact, of rank Σ rᵢ |
/// | svd | [OfUpdates] with [Sum] | the best of rank r to Σ wᵢΔᵢ |
/// | … _svd (four rules) | [OfUpdates] with that rule | the best of rank r to what the rule makes of the Δᵢ |
/// | linear and the four rules | [OfFactors] with that rule | the rule on the √\|wᵢsᵢ\|·Aᵢ and, apart, √\|wᵢsᵢ\|·Bᵢ |
///
/// The four rules are ties, dare_linear, dare_ties and magnitude_prune.
///
/// The last kind is cheap and keeps the rank, but every Bᵢ then meets every Aⱼ: of adapters that were trained apart
/// little is left. The papers' rules are about updates, as the second and third kind have them.
///
/// **Papers**: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023; Yu et al., "Language
/// Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", 2024 (DARE); Eckart and Young,
/// "The Approximation of One Matrix by Another of Lower Rank", 1936.
public sealed interface Combination {
    /// All factors one beside another: nothing is lost.
    record Cat() implements Combination {}

    /// A rule on the updates themselves, and of its result the part of rank `rank` that is nearest in the Frobenius
    /// norm. With [Sum] it is found from the factors; other rules form the updates, one layer at a time.
    ///
    /// @param rank of each layer; 0 for the largest of the adapters' ranks there
    record OfUpdates(Rule rule, int rank) implements Combination {
        public OfUpdates {
            check(rank >= 0, "rank", rank, "at least 0");
        }
    }

    /// A rule on the factors A and B apart, which must be of one rank.
    record OfFactors(Rule rule) implements Combination {}

    /// Exact, of the sum of the ranks.
    static Combination cat() {
        return new Cat();
    }

    /// The weighted sum of the updates, cut to `rank`; 0 for the largest of the adapters'.
    static Combination svd(int rank) {
        return new OfUpdates(new Sum(), rank);
    }

    /// The weighted sums of A and B apart.
    static Combination linear() {
        return new OfFactors(new Sum());
    }

    /// The combination that peft calls `name`.
    ///
    /// @param density share of the elements that pruning rules keep
    /// @param rank of the result, where the name ends in svd
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

    /// What several tensors of one shape become together, element by element.
    sealed interface Rule {
        /// The result for `tensors` under `weights`.
        ///
        /// @param salt tells tensors apart that are pruned at random
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

    /// How a majority of signs is found.
    enum Sign {
        /// The sign of the sum.
        TOTAL,
        /// The sign that more tensors have.
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

    /// Σ wᵢxᵢ of the largest elements of each xᵢ.
    ///
    /// @param density share of the elements that is kept
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

    /// TIES: of the largest elements of each xᵢ, those of the majority's sign, wᵢxᵢ, averaged over how many there are.
    ///
    /// @param density share of the elements that is kept at first
    record Ties(double density, Sign sign) implements Rule {
        public Ties {
            checkDensity(density);
        }

        @Override
        public double[] combine(List<double[]> tensors, double[] weights, long salt) {
            return elected(tensors.stream().map(x -> largest(x, density)).toList(), weights, sign);
        }
    }

    /// DARE: Σ wᵢxᵢ of elements of each xᵢ kept at random and divided by the density.
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

    /// DARE's pruning, then TIES' election.
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

    /// x with all but the ⌊density · n⌋ elements of the largest magnitude set to zero; of equal ones the first stay.
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

    /// The mean of wᵢxᵢ over those tensors whose sign at the element is the majority's.
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
