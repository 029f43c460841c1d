package dev.loran.peft.generation;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TextLimitTest {
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                // Short enough, and exactly as long as allowed.
                "Red shoes | 20 | Red shoes",
                "Red shoes | 9 | Red shoes",
                // At a word; the word that ends at the limit is whole, the one that does not is left out.
                "Red shoes for men | 9 | Red shoes",
                "Red shoes for men | 8 | Red",
                "Red shoes for men | 13 | Red shoes for",
                "Red shoes, for men | 10 | Red shoes",
                "Red shoes - for men | 12 | Red shoes",
                "Red shoes (for men) | 14 | Red shoes (for",
                "Red shoes (for men) | 12 | Red shoes",
                "A red-brown shoe | 8 | A red-br",
                "All red-brown shoes | 10 | All red-br",
                "Lovely red-brown shoes | 12 | Lovely",
                // At the end of a sentence where that leaves half of the limit.
                "Red shoes. They are cheap. Buy now. | 30 | Red shoes. They are cheap.",
                "Red shoes. They are cheap. Buy now. | 26 | Red shoes. They are cheap.",
                "Red shoes. They are cheap. Buy now. | 25 | Red shoes. They are",
                "Red shoes. They are cheap | 19 | Red shoes.",
                "He said \"Buy now!\" Then he left us. | 24 | He said \"Buy now!\"",
                "Shoes of 3.50 euros are cheap, they say | 29 | Shoes of 3.50 euros are cheap",
                "Footwear, e.g. shoes, at low prices | 22 | Footwear, e.g. shoes",
                // Umlauts, composed and decomposed: one character and two, but never divided.
                "Grüne Möbel für Köln | 11 | Grüne Möbel",
                "Gru\u0308ne Mo\u0308bel | 8 | Gru\u0308ne",
                "u\u0308u\u0308u\u0308u\u0308 | 5 | u\u0308u\u0308",
                // No spaces.
                "Donaudampfschifffahrtsgesellschaft | 10 | Donaudampf",
                "a Donaudampfschifffahrtsgesellschaft | 10 | a Donaudam",
                // Chinese and Japanese, with and without sentences.
                "红色的鞋子很便宜欢迎购买 | 6 | 红色的鞋子很",
                "红色的鞋子。很便宜。欢迎购买。 | 8 | 红色的鞋子。",
                "赤い靴です。とても安いです。 | 10 | 赤い靴です。",
                // Characters outside the basic plane count as one; a family of several is not divided.
                "👟👟👟👟 | 3 | 👟👟👟",
                "a👨‍👩‍👧b👟👟👟👟👟 | 4 | a",
            })
    void aTextEndsWhereAReaderWouldEndIt(String text, int limit, String expected) {
        assertThat(TextLimit.cut(text, limit)).isEqualTo(expected);
        assertThat(TextLimit.length(expected)).isLessThanOrEqualTo(limit);
    }

    @Test
    void noLimitIsEverExceeded() {
        String text =
                "Grüne Möbel, 家具。 \"Well-made\" — 👨‍👩‍👧 u\u0308ber 1.000 Stück! Jetzt kaufen: https://example.org/a-b";
        for (int limit = 1; limit <= TextLimit.length(text) + 1; limit++) {
            String cut = TextLimit.cut(text, limit);
            assertThat(TextLimit.length(cut)).isLessThanOrEqualTo(limit);
            assertThat(text).startsWith(cut);
        }
    }

    @Test
    void theFirstSentence() {
        assertThat(TextLimit.firstSentence("Red shoes, e.g. sandals. They are cheap."))
                .isEqualTo("Red shoes, e.g. sandals.");
        assertThat(TextLimit.firstSentence("red shoes")).isEqualTo("red shoes");
    }
}
