package dev.loran.peft.generation;

import dev.loran.peft.io.InputException;
import java.util.List;

/// How [Generation] continues a text, with Hugging Face's parameter names.
///
/// @param maxNewTokens the most tokens of an answer
/// @param doSample whether tokens are sampled; if not, the most likely one is taken, regardless of temperature, topK
///     and topP
/// @param temperature divides the logits: below 1, likely tokens become more likely
/// @param topK samples only from this many of the most likely tokens; 0 for all
/// @param topP samples only from the fewest most likely tokens whose probabilities reach this sum; 1 for all.
///     **Paper**: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1
/// @param repetitionPenalty divides the logits of tokens that are already in the text, including the prompt, if they
///     are positive, and multiplies them if they are negative; 1 for none. **Paper**: Keskar et al., "CTRL", 2019,
///     section 4.1
/// @param encoderRepetitionPenalty multiplies the logits of tokens that are in the prompt if they are positive, and
///     divides them if they are negative: above 1, an answer keeps to the words of its prompt; 1 for none. It is applied
///     before the other penalties
/// @param frequencyPenalty subtracted from the logit of a token for each time that it is in the answer so far, whatever
///     is in the prompt; 0 for none. The name and meaning are those of OpenAI's interface; it is applied last
/// @param eosTokenIds tokens that end an answer and are not part of it
/// @param stopStrings strings that end an answer, which is cut before them
/// @param maxChars the most characters of an answer, in Unicode code points, without the white space around it; a
///     longer one ends as soon as it is longer, and is shortened by [TextLimit#cut]; 0 for no limit
/// @param seed the seed for sampling
public record GenerationConfig(
        int maxNewTokens,
        boolean doSample,
        double temperature,
        int topK,
        double topP,
        double repetitionPenalty,
        double encoderRepetitionPenalty,
        double frequencyPenalty,
        List<Integer> eosTokenIds,
        List<String> stopStrings,
        int maxChars,
        long seed) {

    public GenerationConfig {
        check(maxNewTokens >= 1, "maxNewTokens", maxNewTokens, "at least 1");
        check(
                temperature > 0 && temperature < 1e6,
                "temperature",
                temperature,
                "positive; for the likeliest token each time, do not sample");
        check(topK >= 0, "topK", topK, "at least 1, or 0 for all tokens");
        check(topP > 0 && topP <= 1, "topP", topP, "above 0 and at most 1");
        check(repetitionPenalty > 0 && repetitionPenalty < 1e6, "repetitionPenalty", repetitionPenalty, "positive");
        check(
                encoderRepetitionPenalty > 0 && encoderRepetitionPenalty < 1e6,
                "encoderRepetitionPenalty",
                encoderRepetitionPenalty,
                "positive");
        check(Math.abs(frequencyPenalty) < 1e6, "frequencyPenalty", frequencyPenalty, "a number");
        check(maxChars >= 0, "maxChars", maxChars, "at least 1, or 0 for no limit");
        check(stopStrings.stream().noneMatch(String::isEmpty), "stopStrings", stopStrings, "without empty ones");
        eosTokenIds = List.copyOf(eosTokenIds);
        stopStrings = List.copyOf(stopStrings);
    }

    private static void check(boolean right, String what, Object value, String need) {
        if (!right) {
            throw new InputException(what + " is " + value + ", must be " + need);
        }
    }

    /// Always takes the most likely token.
    public static GenerationConfig greedy(int maxNewTokens) {
        return new GenerationConfig(maxNewTokens, false, 1, 50, 1, 1, 1, 0, List.of(), List.of(), 0, 42);
    }

    /// Samples each token.
    public GenerationConfig withSampling(double newTemperature, int newTopK, double newTopP, long newSeed) {
        return new GenerationConfig(
                maxNewTokens,
                true,
                newTemperature,
                newTopK,
                newTopP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                eosTokenIds,
                stopStrings,
                maxChars,
                newSeed);
    }

    public GenerationConfig withMaxNewTokens(int tokens) {
        return new GenerationConfig(
                tokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                eosTokenIds,
                stopStrings,
                maxChars,
                seed);
    }

    public GenerationConfig withRepetitionPenalty(double penalty) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                penalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                eosTokenIds,
                stopStrings,
                maxChars,
                seed);
    }

    public GenerationConfig withEncoderRepetitionPenalty(double penalty) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                penalty,
                frequencyPenalty,
                eosTokenIds,
                stopStrings,
                maxChars,
                seed);
    }

    public GenerationConfig withFrequencyPenalty(double penalty) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                penalty,
                eosTokenIds,
                stopStrings,
                maxChars,
                seed);
    }

    public GenerationConfig withEosTokenIds(List<Integer> ids) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                ids,
                stopStrings,
                maxChars,
                seed);
    }

    public GenerationConfig withStopStrings(List<String> texts) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                eosTokenIds,
                texts,
                maxChars,
                seed);
    }

    public GenerationConfig withMaxChars(int characters) {
        return new GenerationConfig(
                maxNewTokens,
                doSample,
                temperature,
                topK,
                topP,
                repetitionPenalty,
                encoderRepetitionPenalty,
                frequencyPenalty,
                eosTokenIds,
                stopStrings,
                characters,
                seed);
    }
}
