package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;

/// The frequencies of a rotary position embedding: the angle by which each pair of channels rotates per position.
/// **Paper**: Su et al., "RoFormer", 2021, section 3.2.2: pair i of D / 2 rotates by theta^(−2i / D) per position.
public sealed interface Rope {
    /// The base of the frequencies.
    double theta();

    /// The angles between adjacent positions, one a pair of rotated channels, in F32 as in the reference
    /// implementation: at distant positions their rounding error is multiplied, so the rounding is part of a model's
    /// definition.
    ///
    /// @param width the number of channels of a head that rotate
    /// @param length the number of positions of the longest text, on which some depend
    default float[] frequencies(int width, int length) {
        float[] frequencies = new float[width / 2];
        for (int i = 0; i < frequencies.length; i++) {
            frequencies[i] = frequency(1 / (float) Math.pow(theta(), (float) (2 * i) / width), i, width);
        }
        return frequencies;
    }

    /// The angle of pair i, which is `plain` without scaling.
    float frequency(float plain, int i, int width);

    /// The number of channels of a head that rotate: the first ones.
    default int width(int headDim) {
        return headDim;
    }

    /// What sines and cosines are multiplied by.
    default double magnitude() {
        return 1;
    }

    /// The shortest length that has the frequencies of `length`: see [#frequencies].
    default int kind(int length) {
        return 0;
    }

    /// The unscaled frequencies.
    record Default(double theta) implements Rope {
        @Override
        public float frequency(float plain, int i, int width) {
            return plain;
        }
    }

    /// Positions divided by `factor`: Chen et al., "Extending Context Window … via Positional Interpolation", 2023.
    record Linear(double theta, double factor) implements Rope {
        @Override
        public float frequency(float plain, int i, int width) {
            return (float) (plain / factor);
        }
    }

    /// A base that grows with texts longer than `maxPositions` (NTK-aware scaling by length).
    record Dynamic(double theta, double factor, int maxPositions) implements Rope {
        @Override
        public float frequency(float plain, int i, int width) {
            return plain;
        }

        @Override
        public float[] frequencies(int width, int length) {
            double stretch = factor * Math.max(length, maxPositions) / maxPositions - (factor - 1);
            return new Default(theta * Math.pow(stretch, width / (width - 2.0))).frequencies(width, length);
        }

        @Override
        public int kind(int length) {
            return length <= maxPositions ? 0 : length;
        }
    }

    /// Llama 3.1's scaling: wavelengths above `originalMaxPositions / lowFreqFactor` are stretched by `factor`, those
    /// below `originalMaxPositions / highFreqFactor` are kept, and those in between are interpolated.
    record Llama3(double theta, double factor, double lowFreqFactor, double highFreqFactor, int originalMaxPositions)
            implements Rope {
        @Override
        public float frequency(float plain, int i, int width) {
            double wavelength = 2 * Math.PI / plain;
            if (wavelength > originalMaxPositions / lowFreqFactor) {
                return (float) (plain / factor);
            }
            if (wavelength < originalMaxPositions / highFreqFactor) {
                return plain;
            }
            double keep = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
            return (float) ((1 - keep) * plain / factor + keep * plain);
        }
    }

    /// YaRN: pairs that turn at least `betaFast` times within the original length are kept, those that turn at most
    /// `betaSlow` times are stretched by `factor`, and those in between are interpolated. **Paper**: Peng et al.,
    /// "YaRN", 2023, section 3.2.
    ///
    /// @param isTruncated whether the bounds of the interpolated pairs are rounded outward
    record Yarn(
            double theta,
            double factor,
            double magnitude,
            double betaFast,
            double betaSlow,
            int originalMaxPositions,
            boolean isTruncated)
            implements Rope {
        @Override
        public float frequency(float plain, int i, int width) {
            double from = pair(betaFast, width);
            double to = pair(betaSlow, width);
            from = Math.max(isTruncated ? Math.floor(from) : from, 0);
            to = Math.min(isTruncated ? Math.ceil(to) : to, width - 1);
            float stretched = (float) Math.clamp((i - from) / (from == to ? 0.001 : to - from), 0, 1);
            return (float) (plain / factor) * stretched + plain * (1 - stretched);
        }

        /// The pair that turns this many times within the original length.
        private double pair(double turns, int width) {
            return width * Math.log(originalMaxPositions / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
        }

        private static double magnitude(HfConfig c, double factor) {
            double scale = c.number("mscale", 0);
            double ofAll = c.number("mscale_all_dim", 0);
            return c.number(
                    "attention_factor",
                    scale != 0 && ofAll != 0
                            ? magnitude(factor, scale) / magnitude(factor, ofAll)
                            : magnitude(factor, 1));
        }

        private static double magnitude(double factor, double scale) {
            return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
        }
    }

    /// LongRoPE: each pair is stretched by its own factor, by one list up to the original length and by another for
    /// longer texts. **Paper**: Ding et al., "LongRoPE", 2024.
    record LongRope(
            double theta,
            List<Double> shortFactors,
            List<Double> longFactors,
            double magnitude,
            int originalMaxPositions)
            implements Rope {
        public LongRope {
            shortFactors = List.copyOf(shortFactors);
            longFactors = List.copyOf(longFactors);
        }

        @Override
        public float frequency(float plain, int i, int width) {
            return plain;
        }

        @Override
        public float[] frequencies(int width, int length) {
            List<Double> factors = length > originalMaxPositions ? longFactors : shortFactors;
            float[] frequencies = new float[width / 2];
            if (factors.size() != frequencies.length) {
                throw new IllegalArgumentException("short_factor and long_factor have " + shortFactors.size() + " and "
                        + longFactors.size() + " numbers, must have " + frequencies.length
                        + ", one for each pair of rotated channels");
            }
            for (int i = 0; i < frequencies.length; i++) {
                float wavelength = (float) Math.pow(theta, (float) (2 * i) / width);
                frequencies[i] = 1 / (factors.get(i).floatValue() * wavelength);
            }
            return frequencies;
        }

        @Override
        public int kind(int length) {
            return length <= originalMaxPositions ? 0 : originalMaxPositions + 1;
        }

        private static double magnitude(HfConfig c, double factor, int original) {
            return c.number("attention_factor", factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)));
        }
    }

    /// `of`, for the first `fraction` of a head's channels only (`partial_rotary_factor`).
    record Partial(Rope of, double fraction) implements Rope {
        @Override
        public double theta() {
            return of.theta();
        }

        @Override
        public float[] frequencies(int width, int length) {
            return of.frequencies(width, length);
        }

        @Override
        public float frequency(float plain, int i, int width) {
            return of.frequency(plain, i, width);
        }

        @Override
        public int width(int headDim) {
            return (int) (headDim * fraction);
        }

        @Override
        public double magnitude() {
            return of.magnitude();
        }

        @Override
        public int kind(int length) {
            return of.kind(length);
        }
    }

    /// Reads the format of transformers 5 (`rope_parameters`) or that of earlier versions (`rope_theta`,
    /// `partial_rotary_factor` and `rope_scaling`).
    static Rope read(HfConfig config) {
        HfConfig now = config.child("rope_parameters");
        HfConfig before = config.child("rope_scaling");
        HfConfig none = new HfConfig(config.where(), HfConfig.object());
        return read(config, now != null ? now : before != null ? before : none);
    }

    /// As above, from the object `c` of a config.
    static Rope read(HfConfig config, HfConfig c) {
        double theta = c.number("rope_theta", config.number("rope_theta", 10_000));
        String key = c.has("rope_type") ? "rope_type" : "type";
        c.only(key, "\"default\"", "\"linear\"", "\"dynamic\"", "\"llama3\"", "\"yarn\"", "\"longrope\"");
        int max = config.integer("max_position_embeddings", 2048);
        int original = config.has("original_max_position_embeddings")
                ? config.integer("original_max_position_embeddings")
                : c.integer("original_max_position_embeddings", max);
        Rope rope = switch (c.text(key, "default")) {
            case "linear" -> new Linear(theta, c.number("factor"));
            case "dynamic" -> new Dynamic(theta, c.number("factor"), max);
            case "llama3" ->
                new Llama3(
                        theta, c.number("factor"), c.number("low_freq_factor"), c.number("high_freq_factor"), original);
            case "yarn" -> {
                double factor = c.number("factor", (double) max / original);
                yield new Yarn(
                        theta,
                        factor,
                        Yarn.magnitude(c, factor),
                        c.number("beta_fast", 32),
                        c.number("beta_slow", 1),
                        original,
                        c.flag("truncate", true));
            }
            case "longrope" ->
                new LongRope(
                        theta,
                        c.numbers("short_factor"),
                        c.numbers("long_factor"),
                        LongRope.magnitude(c, c.number("factor", (double) max / original), original),
                        original);
            default -> new Default(theta);
        };
        double part = c.number("partial_rotary_factor", config.number("partial_rotary_factor", 1));
        return part == 1 ? rope : new Partial(rope, part);
    }

    /// `rope_parameters` in the format of transformers 5.
    default ObjectNode json() {
        ObjectNode json = HfConfig.object().put("rope_theta", theta());
        return switch (this) {
            case Default d -> json.put("rope_type", "default");
            case Linear l -> json.put("rope_type", "linear").put("factor", l.factor);
            case Dynamic d -> json.put("rope_type", "dynamic").put("factor", d.factor);
            case Llama3 l ->
                json.put("rope_type", "llama3")
                        .put("factor", l.factor)
                        .put("low_freq_factor", l.lowFreqFactor)
                        .put("high_freq_factor", l.highFreqFactor)
                        .put("original_max_position_embeddings", l.originalMaxPositions);
            case Yarn y ->
                json.put("rope_type", "yarn")
                        .put("factor", y.factor)
                        .put("attention_factor", y.magnitude)
                        .put("beta_fast", y.betaFast)
                        .put("beta_slow", y.betaSlow)
                        .put("original_max_position_embeddings", y.originalMaxPositions)
                        .put("truncate", y.isTruncated);
            case LongRope l -> {
                json.put("rope_type", "longrope")
                        .put("attention_factor", l.magnitude)
                        .put("original_max_position_embeddings", l.originalMaxPositions);
                ArrayNode shorts = json.putArray("short_factor");
                l.shortFactors.forEach(shorts::add);
                ArrayNode longs = json.putArray("long_factor");
                l.longFactors.forEach(longs::add);
                yield json;
            }
            case Partial p -> p.of.json().put("partial_rotary_factor", p.fraction);
        };
    }
}
