package dev.loran.engine.optim;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import java.util.Map;

/// Dynamic loss scaling by torch's rule: the loss is multiplied by a scale before backward, so that small gradients do
/// not underflow in a narrow dtype, and gradients are divided by that scale where they are read. A step whose gradients
/// are not finite is skipped, and the scale is lowered; after enough good steps in a row it is raised.
///
/// ```java
/// scaler.scale(loss).backward();
/// if (scaler.update(clip.norm(parameters.values(), scaler.inverse()))) {
///     optimizer.advance(learningRate);
///     optimizer.step(parameters, clip.scale());
/// }
/// ```
///
/// Scale and inverse are kept in one-element buffers. [#update] reads the norm, and so waits for the backend: as in
/// torch, whether to take the step is decided on the host.
///
/// **Paper**: Micikevicius et al., "Mixed Precision Training", 2018, section 3.2.
public final class GradScaler implements AutoCloseable {
    private static final String SCALE = "scale";
    private static final String TRACKER = "growth_tracker";

    private final Config config;
    private final Tensor scale;
    private final Tensor inverse;
    private float value;
    private int goodSteps;

    /// @param initScale the initial scale, positive
    /// @param growthFactor factor applied to the scale after `growthInterval` good steps in a row; at least 1
    /// @param backoffFactor factor applied to it after a skipped step; above 0, at most 1
    public record Config(double initScale, double growthFactor, double backoffFactor, int growthInterval) {
        public Config {
            check(initScale > 0 && initScale <= Float.MAX_VALUE, "initScale", initScale, "positive and finite");
            check(growthFactor >= 1 && growthFactor < 1e6, "growthFactor", growthFactor, "at least 1");
            check(backoffFactor > 0 && backoffFactor <= 1, "backoffFactor", backoffFactor, "above 0 and at most 1");
            check(growthInterval >= 1, "growthInterval", growthInterval, "at least 1");
        }

        /// torch's settings: doubled after 2000 good steps, halved after a bad one. torch's initial scale is 65536.
        public static Config of(double initScale) {
            return new Config(initScale, 2, 0.5, 2000);
        }

        private static void check(boolean right, String field, Object value, String need) {
            if (!right) {
                throw new IllegalArgumentException("gradScaler: " + field + " is " + value + ", must be " + need);
            }
        }
    }

    /// Creates a scaler for losses of `dtype` on `backend`.
    public GradScaler(Backend backend, DType dtype, Config config) {
        this.config = config;
        this.scale = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        this.inverse = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        put((float) config.initScale());
    }

    private void put(float next) {
        value = next;
        Backend backend = scale.backend();
        backend.fill(scale.buffer(), next);
        backend.fill(inverse.buffer(), 1.0 / next);
        scale.markWritten();
        inverse.markWritten();
    }

    /// The current scale.
    public double value() {
        return value;
    }

    /// Returns the loss times the scale; the operation is recorded.
    public Tensor scale(Tensor loss) {
        return loss.mul(scale);
    }

    /// 1 / scale: the factor to apply to gradients ([GradClip#norm(java.util.Collection, Buffer)]).
    public Buffer inverse() {
        return inverse.buffer();
    }

    /// Adjusts the scale according to whether the step's gradients are finite.
    ///
    /// @param norm the norm of all gradients
    /// @return whether they are finite, so that the step should be taken
    public boolean update(Tensor norm) {
        // The contents of a hollow backend are meaningless.
        boolean finite = norm.backend().isHollow() || Double.isFinite(norm.item());
        if (!finite) {
            goodSteps = 0;
            put((float) (value * config.backoffFactor()));
        } else if (++goodSteps >= config.growthInterval()) {
            goodSteps = 0;
            float grown = (float) (value * config.growthFactor());
            if (Float.isFinite(grown)) {
                put(grown);
            }
        }
        return finite;
    }

    /// Everything needed to resume. The tensors belong to the open scope, or to the caller if there is none.
    public Map<String, Tensor> state() {
        return Map.of(
                SCALE,
                Tensor.full(scale.backend(), scale.dtype(), value),
                TRACKER,
                Tensor.ofInts(scale.backend(), new int[] {goodSteps}));
    }

    /// Resumes from a state returned by [#state].
    ///
    /// @throws IllegalArgumentException if an entry is missing
    public void load(Map<String, Tensor> state) {
        Tensor s = state.get(SCALE);
        Tensor tracker = state.get(TRACKER);
        if (s == null || tracker == null) {
            throw new IllegalArgumentException(
                    "gradScaler: state has " + state.keySet() + ", needs " + SCALE + " and " + TRACKER);
        }
        put((float) s.item());
        goodSteps = (int) tracker.item();
    }

    @Override
    public void close() {
        scale.close();
        inverse.close();
    }
}
