package dev.loran.peft.cli.sweep;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.cli.options.ConfigFile;
import dev.loran.peft.io.InputException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/// The combinations of option values that a sweep tries.
public final class SweepSpace {
    private SweepSpace() {}

    /// The possible values of an option: a list, or a range of numbers.
    ///
    /// @param listed the values as they are typed; empty if there is a range
    public record Values(
            String option, List<String> listed, @Nullable Range range) {
        /// A single value of the form `low..high` is a range, everything else a list.
        public static Values of(String option, List<String> said) {
            if (said.isEmpty() || said.contains("")) {
                throw new InputException(option + ": has an empty value");
            }
            String[] ends = said.getFirst().split("\\.\\.", -1);
            if (said.size() > 1 || ends.length != 2) {
                return new Values(option, List.copyOf(new LinkedHashSet<>(said)), null);
            }
            return new Values(option, List.of(), Range.of(option, ends[0], ends[1]));
        }

        String draw(SplittableRandom random) {
            return range == null ? listed.get(random.nextInt(listed.size())) : range.draw(random);
        }
    }

    /// Numbers that are drawn uniformly in their logarithm and rounded to three digits, or to integers if both ends are
    /// integers.
    public record Range(double low, double high, boolean whole) {
        static Range of(String option, String low, String high) {
            try {
                double from = Double.parseDouble(low);
                double to = Double.parseDouble(high);
                if (from > 0 && from < to && to < Double.POSITIVE_INFINITY) {
                    return new Range(from, to, (low + high).matches("\\d+"));
                }
            } catch (NumberFormatException e) {
                // Reported below.
            }
            throw new InputException(option + ": " + low + ".." + high
                    + " is no range; needs two positive numbers, the lower one first, as 1e-5..1e-2");
        }

        String draw(SplittableRandom random) {
            double value = low * Math.exp(random.nextDouble() * Math.log(high / low));
            return whole
                    ? String.valueOf(Math.round(value))
                    : new BigDecimal(value, new MathContext(3))
                            .stripTrailingZeros()
                            .toString();
        }
    }

    /// The options and values in a file, in JSON or YAML.
    public static Map<String, Values> read(Path file) {
        Map<String, Values> space = new LinkedHashMap<>();
        ConfigFile.read(file).properties().forEach(e -> {
            List<String> values = new ArrayList<>();
            JsonNode v = e.getValue();
            (v.isArray() ? v : List.of(v)).forEach(one -> {
                if (!one.isValueNode() || one.isNull()) {
                    throw new InputException(file + ": " + e.getKey() + " is " + v + ", needs a list of values");
                }
                values.add(one.asText());
            });
            space.put(e.getKey(), Values.of(file + ": " + e.getKey(), values));
        });
        return space;
    }

    /// Every combination, the last option varying fastest.
    ///
    /// @throws InputException if there is a range
    public static List<Map<String, String>> all(Map<String, Values> space) {
        List<Map<String, String>> combinations = new ArrayList<>(List.of(Map.of()));
        space.forEach((name, values) -> {
            if (values.range != null) {
                throw new InputException(
                        values.option + ": a range has no end of values; say how many to draw (--random)");
            }
            List<Map<String, String>> longer = new ArrayList<>();
            for (Map<String, String> begun : combinations) {
                for (String value : values.listed) {
                    Map<String, String> next = new LinkedHashMap<>(begun);
                    next.put(name, value);
                    longer.add(next);
                }
            }
            combinations.clear();
            combinations.addAll(longer);
        });
        return combinations;
    }

    /// Draws `number` different combinations, or fewer if a hundred times as many draws do not give enough. A larger
    /// number starts with the same ones.
    public static List<Map<String, String>> drawn(Map<String, Values> space, int number, long seed) {
        if (number < 1) {
            throw new InputException("--random " + number + " must be at least 1");
        }
        SplittableRandom random = new SplittableRandom(seed);
        Set<Map<String, String>> combinations = new LinkedHashSet<>();
        for (int i = 0; i < 100L * number && combinations.size() < number; i++) {
            Map<String, String> next = new LinkedHashMap<>();
            space.forEach((name, values) -> next.put(name, values.draw(random)));
            combinations.add(next);
        }
        return List.copyOf(combinations);
    }

    /// The name of a combination's folder.
    public static String name(Map<String, String> values) {
        StringBuilder name = new StringBuilder();
        values.forEach((option, value) -> name.append(name.isEmpty() ? "" : ",")
                .append(option)
                .append('=')
                .append(value));
        String plain = name.toString().replaceAll("[^A-Za-z0-9,._=+-]", "_");
        // Different combinations never share a folder.
        return plain.contentEquals(name)
                ? plain
                : plain + "-" + Integer.toHexString(name.toString().hashCode());
    }
}
