package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;

/// The frequencies of a rotary position embedding: the angle by which each pair of channels rotates per position.
/// **Paper**: Su et al., "RoFormer", 2021, section 3.2.2: pair i of D / 2 rotates by theta^(−2i / D) per position.
public sealed interface Rope {
    /// The base of the frequencies.
    double theta();

    /// The unscaled frequencies.
    record Default(double theta) implements Rope {}

    /// Positions divided by `factor`: Chen et al., "Extending Context Window … via Positional Interpolation", 2023.
    record Linear(double theta, double factor) implements Rope {}

    /// Llama 3.1's scaling: wavelengths above `originalMaxPositions / lowFreqFactor` are stretched by `factor`, those
    /// below `originalMaxPositions / highFreqFactor` are kept, and those in between are interpolated.
    record Llama3(double theta, double factor, double lowFreqFactor, double highFreqFactor, int originalMaxPositions)
            implements Rope {}

    /// The `headDim / 2` angles between adjacent positions, in F32 as in the reference implementation: at distant
    /// positions their rounding error is multiplied, so the rounding is part of a model's definition.
    default float[] frequencies(int headDim) {
        float[] frequencies = new float[headDim / 2];
        for (int i = 0; i < frequencies.length; i++) {
            float plain = 1 / (float) Math.pow(theta(), (float) (2 * i) / headDim);
            frequencies[i] = switch (this) {
                case Default d -> plain;
                case Linear l -> (float) (plain / l.factor);
                case Llama3 l -> stretched(l, plain);
            };
        }
        return frequencies;
    }

    private static float stretched(Llama3 l, float frequency) {
        double wavelength = 2 * Math.PI / frequency;
        if (wavelength > l.originalMaxPositions / l.lowFreqFactor) {
            return (float) (frequency / l.factor);
        }
        if (wavelength < l.originalMaxPositions / l.highFreqFactor) {
            return frequency;
        }
        double keep = (l.originalMaxPositions / wavelength - l.lowFreqFactor) / (l.highFreqFactor - l.lowFreqFactor);
        return (float) ((1 - keep) * frequency / l.factor + keep * frequency);
    }

    /// Reads the format of transformers 5 (`rope_parameters`) or that of earlier versions (`rope_theta` and
    /// `rope_scaling`).
    static Rope read(HfConfig config) {
        HfConfig now = config.child("rope_parameters");
        HfConfig before = config.child("rope_scaling");
        config.only("partial_rotary_factor", "1.0", "1");
        double theta = config.number("rope_theta", 10_000);
        HfConfig c = now != null ? now : before;
        if (c == null) {
            return new Default(theta);
        }
        c.only("partial_rotary_factor", "1.0", "1");
        theta = c.number("rope_theta", theta);
        String key = c.has("rope_type") ? "rope_type" : "type";
        c.only(key, "\"default\"", "\"linear\"", "\"llama3\"");
        return switch (c.text(key, "default")) {
            case "linear" -> new Linear(theta, c.number("factor"));
            case "llama3" ->
                new Llama3(
                        theta,
                        c.number("factor"),
                        c.number("low_freq_factor"),
                        c.number("high_freq_factor"),
                        c.integer("original_max_position_embeddings"));
            default -> new Default(theta);
        };
    }

    /// `rope_parameters` in the format of transformers 5.
    default ObjectNode json() {
        ObjectNode json = HfConfig.object().put("rope_theta", theta());
        return switch (this) {
            case Default d -> json.put("rope_type", "default");
            case Linear l -> json.put("rope_type", "linear").put("factor", l.factor);
            case Llama3 l ->
                json.put("rope_type", "llama3")
                        .put("factor", l.factor)
                        .put("low_freq_factor", l.lowFreqFactor)
                        .put("high_freq_factor", l.highFreqFactor)
                        .put("original_max_position_embeddings", l.originalMaxPositions);
        };
    }
}
