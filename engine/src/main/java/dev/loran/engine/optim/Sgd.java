package dev.loran.engine.optim;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Stochastic gradient descent with momentum, in torch's arithmetic
/// ([dev.loran.engine.backend.OptimizerKernels#sgd]); weight decay is added to the gradient. The moment is named
/// `momentum_buffer`; it is absent if momentum is 0.
///
/// **Paper**: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, equation 1,
/// with the learning rate outside the velocity.
public final class Sgd extends Optimizer {
    private final double momentum;

    /// Creates an optimizer for parameters of `dtype` on `backend`.
    ///
    /// @param momentum in [0, 1)
    /// @param weightDecay for parameters that are in no group
    public Sgd(Backend backend, DType dtype, double momentum, double weightDecay, ParameterGroup... groups) {
        if (!(momentum >= 0 && momentum < 1)) {
            throw new IllegalArgumentException("sgd: momentum must be in [0, 1), got " + momentum);
        }
        super(
                "sgd",
                backend,
                dtype,
                weightDecay,
                List.of(groups),
                momentum == 0 ? List.of() : List.of("momentum_buffer"));
        this.momentum = momentum;
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
        for (int i = 0; i < p.size(); i++) {
            Buffer velocity = moments.isEmpty() ? null : moments.getFirst().get(i);
            lr.backend().optimizer().sgd(p.get(i), velocity, g.get(i), lr, gradScale, momentum, weightDecay);
        }
    }
}
