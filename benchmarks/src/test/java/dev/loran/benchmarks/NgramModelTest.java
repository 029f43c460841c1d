package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;

class NgramModelTest {
    private static final int VOCABULARY = 12;

    /// A sequence in which each token depends on the two before it.
    private static int[] tokens(int length, long seed) {
        Random random = new Random(seed);
        int[] tokens = new int[length];
        tokens[0] = VOCABULARY - 1; // nowhere else, so it follows no token
        for (int i = 2; i < length; i++) {
            int usual = (3 * tokens[i - 1] + tokens[i - 2] + 1) % (VOCABULARY - 1);
            tokens[i] = random.nextInt(10) < 7 ? usual : random.nextInt(VOCABULARY - 1);
        }
        return tokens;
    }

    private static double loss(NgramModel model, int[] tokens) {
        double sum = 0;
        for (int i = 1; i < tokens.length; i++) {
            sum -= Math.log(model.probability(tokens, 0, i));
        }
        return sum / (tokens.length - 1);
    }

    @Test
    void theProbabilitiesOfAllTokensAddUpToOneAndNoneIsZero() {
        for (int order = 1; order <= 4; order++) {
            NgramModel model = new NgramModel(order, VOCABULARY, tokens(3000, 1));
            int[] text = tokens(40, 2);
            text[7] = VOCABULARY - 1; // a context that was never seen
            for (int at = 0; at < text.length; at++) {
                int[] next = Arrays.copyOf(text, at + 1);
                double sum = 0;
                for (int w = 0; w < VOCABULARY; w++) {
                    next[at] = w;
                    double p = model.probability(next, 0, at);
                    assertThat(p).isGreaterThan(0);
                    sum += p;
                }
                assertThat(sum).as("order %d, position %d", order, at).isCloseTo(1, within(1e-9));
            }
        }
    }

    /// The entropy of the sequence after two tokens is of one token with probability 0.7 + 0.3/11 and ten with
    /// 0.3/11: 1.214 nats.
    @Test
    void threeTokensComeCloseToTheEntropyOfTheSequence() {
        int[] train = tokens(200_000, 1);
        int[] heldOut = tokens(20_000, 2);
        double unigrams = loss(new NgramModel(1, VOCABULARY, train), heldOut);
        double trigrams = loss(new NgramModel(3, VOCABULARY, train), heldOut);
        double fiveGrams = loss(new NgramModel(5, VOCABULARY, train), heldOut);
        assertThat(unigrams).isGreaterThan(2.2);
        assertThat(trigrams).isCloseTo(1.214, within(0.02));
        assertThat(fiveGrams).isLessThan(1.35);
    }

    /// By hand: of a a b a b, the bigrams are ab twice, aa and ba once, so after a come b twice and a once; before a
    /// stand two different tokens, before b one. With one bigram that occurs twice among three, n1 = 2, n2 = 1, so D1 =
    /// 1 - 2·½·½ = ½ and D2 = 2, as there is none that occurs three times; of the continuation counts, n1 = n2 = 1, so
    /// D1 = 1 - 2·⅓ = ⅓ and D2 = 2.
    @Test
    void aSmallCaseIsRight() {
        NgramModel model = new NgramModel(2, 4, new int[] {0, 0, 1, 0, 1});
        double a = (2 - 2 + (1.0 / 3 + 2) / 4) / 3;
        double b = (1 - 1.0 / 3 + (1.0 / 3 + 2) / 4) / 3;
        assertThat(model.probability(new int[] {0}, 0, 0)).isCloseTo(a, within(1e-12));
        assertThat(model.probability(new int[] {0, 0}, 0, 1)).isCloseTo((1 - 0.5 + 2.5 * a) / 3, within(1e-12));
        assertThat(model.probability(new int[] {0, 1}, 0, 1)).isCloseTo((2 - 2 + 2.5 * b) / 3, within(1e-12));
    }
}
