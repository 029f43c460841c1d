package dev.loran.engine.optim;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import java.util.Map;

/// Dynamic loss scaling, by torch's rule: the loss is multiplied before backward so that small gradients do not vanish
/// in a narrow type, and gradients are divided by the same where they are read. A step whose gradients are not finite
/// is left out, and the scale lowered; after enough good steps in a row it is raised.
///
/// ```java
/// scaler.scale(loss).backward();
/// if (scaler.update(clip.norm(parameters.values(), scaler.inverse()))) {
///     optimizer.advance(learningRate);
///     optimizer.step(parameters, clip.scale());
/// }
/// ```
///
/// Scale and inverse lie in one-element buffers. [#update] reads the norm, and so waits for the backend: whether a step
/// is made at all is decided here, as in torch.
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

    /// @param initScale the first scale, positive
    /// @param growthFactor what the scale is multiplied by after `growthInterval` good steps in a row; at least 1
    /// @param backoffFactor what it is multiplied by after a step that was left out; above 0, at most 1
    public record Config(double initScale, double growthFactor, double backoffFactor, int growthInterval) {
        public Config {
            check(initScale > 0 && initScale <= Float.MAX_VALUE, "initScale", initScale, "positive and finite");
            check(growthFactor >= 1 && growthFactor < 1e6, "growthFactor", growthFactor, "at least 1");
            check(backoffFactor > 0 && backoffFactor <= 1, "backoffFactor", backoffFactor, "above 0 and at most 1");
            check(growthInterval >= 1, "growthInterval", growthInterval, "at least 1");
        }

        /// torch's: doubled after 2000 good steps, halved after a bad one; its first scale is 65536.
        public static Config of(double initScale) {
            return new Config(initScale, 2, 0.5, 2000);
        }

        private static void check(boolean right, String field, Object value, String need) {
            if (!right) {
                throw new IllegalArgumentException("gradScaler: " + field + " is " + value + ", must be " + need);
            }
        }
    }

    /// For losses of `dtype` on `backend`.
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

    /// The scale now.
    public double value() {
        return value;
    }

    /// The loss times the scale, recorded.
    public Tensor scale(Tensor loss) {
        return loss.mul(scale);
    }

    /// 1 / scale: what gradients are to be multiplied by ([GradClip#norm(java.util.Collection, Buffer)]).
    public Buffer inverse() {
        return inverse.buffer();
    }

    /// Moves the scale by what the step's gradients turned out to be.
    ///
    /// @param norm of all gradients
    /// @return whether they are finite, and the step is to be made
    public boolean update(Tensor norm) {
        // What a hollow backend holds says nothing.
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

    /// All that going on needs. The tensors belong to the open scope, or to the caller.
    public Map<String, Tensor> state() {
        return Map.of(
                SCALE,
                Tensor.full(scale.backend(), scale.dtype(), value),
                TRACKER,
                Tensor.ofInts(scale.backend(), new int[] {goodSteps}));
    }

    /// Goes on from what [#state] gave.
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
