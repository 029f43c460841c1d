package dev.loran.peft.continual;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class ReservoirTest {
    private static List<Integer> sample(int size, int of, long seed) {
        Reservoir<Integer> reservoir = new Reservoir<>(size, seed);
        for (int i = 0; i < of; i++) {
            reservoir.add(i);
        }
        return reservoir.items();
    }

    @Test
    void everyRowIsKeptWithTheSameProbability() {
        int of = 40;
        int size = 10;
        int draws = 4000;
        int[] kept = new int[of];
        for (int seed = 0; seed < draws; seed++) {
            List<Integer> sample = sample(size, of, seed * 0x9E3779B97F4A7C15L);
            assertThat(sample).hasSize(size).doesNotHaveDuplicates();
            sample.forEach(i -> kept[i]++);
        }
        double p = (double) size / of;
        double deviation = Math.sqrt(draws * p * (1 - p));
        for (int count : kept) {
            assertThat((count - draws * p) / deviation).isBetween(-4.5, 4.5);
        }
    }

    @Test
    void fewRowsAreAllKept() {
        assertThat(sample(10, 4, 1)).containsExactly(0, 1, 2, 3);
        assertThat(sample(10, 100, 7)).isEqualTo(sample(10, 100, 7)).isNotEqualTo(sample(10, 100, 8));
    }
}
