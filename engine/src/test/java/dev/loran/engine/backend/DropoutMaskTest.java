package dev.loran.engine.backend;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/// The bits of the mask are part of the interface: every backend must produce the same ones.
class DropoutMaskTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Buffer step = backend.ofInts(0);

    @AfterEach
    void close() {
        step.release();
    }

    private static int[] philox(int c0, int c1, int c2, int c3, int k0, int k1) {
        int[] words = new int[4];
        for (int lane = 0; lane < 4; lane++) {
            words[lane] = DropoutMask.philox(c0, c1, c2, c3, k0, k1, lane);
        }
        return words;
    }

    /// Known answers published with Random123 (Salmon et al., 2011) for philox4x32-10.
    @Test
    void philoxGivesThePublishedWords() {
        assertThat(philox(0, 0, 0, 0, 0, 0)).containsExactly(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
        assertThat(philox(-1, -1, -1, -1, -1, -1)).containsExactly(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
        assertThat(philox(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0))
                .containsExactly(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
    }

    @Test
    void theThresholdIsTheFloorOfPTimes2To32() {
        assertThat(new DropoutMask(0, 1, 1, step).threshold()).isZero();
        assertThat(new DropoutMask(0.5, 1, 1, step).threshold()).isEqualTo(0x80000000);
        assertThat(new DropoutMask(0.1, 1, 1, step).threshold()).isEqualTo(0x19999999);
        assertThat(new DropoutMask(Math.nextDown(1.0), 1, 1, step).threshold()).isEqualTo(0xffffffff);
    }

    @Test
    void aWordEqualToTheThresholdIsKept() {
        // Row 0, column 0, site 0, step 0, key 0: the first published word.
        double p = Integer.toUnsignedLong(0x6627e8d5) / 4294967296.0;
        assertThat(new DropoutMask(p, 0, 0, step).keeps(0, 0, 0)).isTrue();
        assertThat(new DropoutMask(p + 1 / 4294967296.0, 0, 0, step).keeps(0, 0, 0))
                .isFalse();
        assertThat(new DropoutMask(0, 0, 0, step).keeps(0, 0, 0)).isTrue();
    }

    @Test
    void fourColumnsShareACounterAndKeyAndCounterAreWhereTheyBelong() {
        long seed = 0x299f31d0_a4093822L;
        int[] words = philox(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, (int) seed, (int) (seed >>> 32));
        for (int lane = 0; lane < 4; lane++) {
            double p = Integer.toUnsignedLong(words[lane]) / 4294967296.0;
            int column = 0x03707344 * 4 + lane;
            DropoutMask keeping = new DropoutMask(p, seed, 0x85a308d3, step);
            DropoutMask dropping = new DropoutMask(p + 1 / 4294967296.0, seed, 0x85a308d3, step);
            assertThat(keeping.keeps(0x243f6a88, 0x13198a2e, column)).isTrue();
            assertThat(dropping.keeps(0x243f6a88, 0x13198a2e, column)).isFalse();
        }
    }

    /// 100,000 draws: four standard deviations of the kept fraction are 4 · √(p(1 − p) / 100000).
    @Test
    void theShareKeptIsOneLessP() {
        for (double p : new double[] {0.05, 0.1, 0.5, 0.9}) {
            DropoutMask mask = new DropoutMask(p, 20260101, 7, step);
            int kept = 0;
            for (int row = 0; row < 100; row++) {
                for (int column = 0; column < 1000; column++) {
                    kept += mask.keeps(3, row, column) ? 1 : 0;
                }
            }
            assertThat(Math.abs(kept / 1e5 - (1 - p))).isLessThan(4 * Math.sqrt(p * (1 - p) / 1e5));
        }
    }

    @Test
    void stepSiteSeedRowAndColumnAllMatter() {
        DropoutMask mask = new DropoutMask(0.5, 1, 1, step);
        assertThat(agreement(mask, 0, mask, 1)).isBetween(0.4, 0.6);
        assertThat(agreement(mask, 0, new DropoutMask(0.5, 1, 2, step), 0)).isBetween(0.4, 0.6);
        assertThat(agreement(mask, 0, new DropoutMask(0.5, 2, 1, step), 0)).isBetween(0.4, 0.6);
        assertThat(agreement(mask, 0, new DropoutMask(0.5, 1L << 32 | 1, 1, step), 0))
                .isBetween(0.4, 0.6);
        assertThat(agreement(mask, 0, new DropoutMask(0.5, 1, 1, step), 0)).isEqualTo(1);
    }

    /// The fraction of 50 x 40 elements on which two masks agree.
    private static double agreement(DropoutMask a, int stepA, DropoutMask b, int stepB) {
        int same = 0;
        for (int row = 0; row < 50; row++) {
            for (int column = 0; column < 40; column++) {
                same += a.keeps(stepA, row, column) == b.keeps(stepB, row, column) ? 1 : 0;
            }
        }
        return same / 2000.0;
    }

    @Test
    void keptElementsAreScaledSoThatTheMeanStays() {
        assertThat(new DropoutMask(0.2, 1, 1, step).scale()).isEqualTo(1.25);
        assertThat(new DropoutMask(0, 1, 1, step).scale()).isEqualTo(1);
    }
}
