package dev.loran.engine.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

/// The expected numbers come from transformers 5.18.0: the learning rate before each of 13 optimizer steps, with a peak
/// rate of 1, of `get_constant_schedule_with_warmup(o, 4)`, `get_linear_schedule_with_warmup(o, 4, 10)` and so on.
class LrScheduleTest {
    private static void check(LrSchedule schedule, double... expected) {
        double[] factors = new double[expected.length];
        for (int s = 0; s < factors.length; s++) {
            factors[s] = schedule.factor(s);
        }
        assertThat(factors).containsExactly(expected, within(1e-14));
    }

    @Test
    void constant() {
        check(new LrSchedule.Constant(4), 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1);
        check(new LrSchedule.Constant(0), 1, 1, 1);
    }

    @Test
    void linear() {
        check(
                new LrSchedule.Linear(4, 10),
                0,
                0.25,
                0.5,
                0.75,
                1,
                0.8333333333333334,
                0.6666666666666666,
                0.5,
                0.3333333333333333,
                0.16666666666666666,
                0,
                0,
                0);
        check(new LrSchedule.Linear(0, 10), 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0);
    }

    @Test
    void cosine() {
        check(
                new LrSchedule.Cosine(4, 10),
                0,
                0.25,
                0.5,
                0.75,
                1,
                0.9330127018922194,
                0.75,
                0.5,
                0.2500000000000001,
                0.06698729810778065,
                0,
                0.0669872981077807,
                0.24999999999999978);
        check(
                new LrSchedule.Cosine(2, 10, 1.5),
                0,
                0.5,
                1,
                0.6913417161825449,
                0.14644660940672627,
                0.038060233744356575,
                0.4999999999999999,
                0.9619397662556433,
                0.8535533905932738,
                0.3086582838174551,
                0,
                0.30865828381745475,
                0.8535533905932733);
    }

    @Test
    void badNumbersAreRefused() {
        assertThatThrownBy(() -> new LrSchedule.Linear(-1, 10))
                .hasMessage("lrSchedule linear: needs warmupSteps >= 0 and totalSteps >= 1, got -1 and 10");
        assertThatThrownBy(() -> new LrSchedule.Cosine(0, 0))
                .hasMessage("lrSchedule cosine: needs warmupSteps >= 0 and totalSteps >= 1, got 0 and 0");
        assertThatThrownBy(() -> new LrSchedule.Cosine(0, 9, Double.NaN))
                .hasMessage("lrSchedule cosine: cycles must be at least 0, got NaN");
    }
}
