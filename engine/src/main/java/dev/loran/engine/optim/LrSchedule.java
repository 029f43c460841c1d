package dev.loran.engine.optim;

/// The learning rate over a run, as a fraction of its highest value. Schedules are pure functions, equal to those of
/// Hugging Face's `get_*_schedule_with_warmup`.
///
/// Step s is the number of optimizer steps already taken: the first step of a run uses `factor(0)`, which is 0 if there
/// is a warm-up (that step fills the moments but changes no parameter), and step `warmupSteps` is the first at the full
/// rate.
public sealed interface LrSchedule {
    /// The factor for the next step, after `step` steps have been taken.
    double factor(int step);

    /// s / warmupSteps up to 1, then 1.
    record Constant(int warmupSteps) implements LrSchedule {
        public Constant {
            check("constant", warmupSteps, 1);
        }

        @Override
        public double factor(int step) {
            return Math.min(1, warmup(step, warmupSteps));
        }
    }

    /// s / warmupSteps up to 1, then linearly down to 0 at `totalSteps`, and 0 from there on.
    record Linear(int warmupSteps, int totalSteps) implements LrSchedule {
        public Linear {
            check("linear", warmupSteps, totalSteps);
        }

        @Override
        public double factor(int step) {
            return step < warmupSteps
                    ? warmup(step, warmupSteps)
                    : Math.max(0, 1 - progress(step, warmupSteps, totalSteps));
        }
    }

    /// s / warmupSteps up to 1, then ½(1 + cos(2π · cycles · progress)), where progress goes from 0 to 1 at
    /// `totalSteps`; with half a cycle, that is half a cosine from 1 to 0. Past `totalSteps` the cosine continues, and
    /// rises again. Loshchilov and Hutter, "SGDR", 2017, equation 5.
    record Cosine(int warmupSteps, int totalSteps, double cycles) implements LrSchedule {
        public Cosine {
            check("cosine", warmupSteps, totalSteps);
            Optimizer.checkAtLeastZero("lrSchedule cosine", "cycles", cycles);
        }

        /// Half a cycle, from 1 to 0.
        public Cosine(int warmupSteps, int totalSteps) {
            this(warmupSteps, totalSteps, 0.5);
        }

        @Override
        public double factor(int step) {
            return step < warmupSteps
                    ? warmup(step, warmupSteps)
                    : 0.5 * (1 + Math.cos(2 * Math.PI * cycles * progress(step, warmupSteps, totalSteps)));
        }
    }

    private static double warmup(int step, int warmupSteps) {
        return step < warmupSteps ? (double) step / warmupSteps : 1;
    }

    private static double progress(int step, int warmupSteps, int totalSteps) {
        return (double) (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
    }

    private static void check(String name, int warmupSteps, int totalSteps) {
        if (warmupSteps < 0 || totalSteps < 1) {
            throw new IllegalArgumentException("lrSchedule " + name
                    + ": needs warmupSteps >= 0 and totalSteps >= 1, got " + warmupSteps + " and " + totalSteps);
        }
    }
}
