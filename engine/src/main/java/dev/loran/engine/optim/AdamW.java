package dev.loran.engine.optim;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Adam with decoupled weight decay, in torch's arithmetic ([dev.loran.engine.backend.OptimizerKernels#adamW]). The
/// moments are named `exp_avg` and `exp_avg_sq`.
///
/// **Paper**: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
public final class AdamW extends Optimizer {
    private final Config config;

    /// @param beta1 decay of the first moment, in [0, 1)
    /// @param beta2 decay of the second moment, in [0, 1)
    /// @param eps added to the root of the second moment
    /// @param weightDecay for parameters that are in no group
    public record Config(double beta1, double beta2, double eps, double weightDecay, List<ParameterGroup> groups) {
        public Config {
            checkBeta("beta1", beta1);
            checkBeta("beta2", beta2);
            checkAtLeastZero("adamW", "eps", eps);
            checkAtLeastZero("adamW", "weightDecay", weightDecay);
            groups = List.copyOf(groups);
        }

        /// torch's betas (0.9, 0.999) and eps 1e-8.
        public static Config of(double weightDecay, ParameterGroup... groups) {
            return new Config(0.9, 0.999, 1e-8, weightDecay, List.of(groups));
        }

        private static void checkBeta(String argument, double value) {
            if (!(value >= 0 && value < 1)) {
                throw new IllegalArgumentException("adamW: " + argument + " must be in [0, 1), got " + value);
            }
        }
    }

    /// Creates an optimizer for parameters of `dtype` on `backend`.
    public AdamW(Backend backend, DType dtype, Config config) {
        super("adamW", backend, dtype, config.weightDecay(), config.groups(), List.of("exp_avg", "exp_avg_sq"));
        this.config = config;
    }

    @Override
    protected void update(
            List<Buffer> p,
            List<Buffer> g,
            List<List<Buffer>> moments,
            Buffer lr,
            Buffer t,
            @Nullable Buffer gradScale,
            double weightDecay) {
        AdamWStep step = new AdamWStep(lr, t, gradScale, config.beta1(), config.beta2(), config.eps(), weightDecay);
        lr.backend().optimizer().adamW(p, moments.get(0), moments.get(1), g, step);
    }
}
