package dev.loran.engine.optim;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Clipping by the global norm of all gradients, as torch's `clip_grad_norm_`: gradients are scaled by
/// min(1, maxNorm / (norm + 10⁻⁶)). They are not rewritten: the scale stays in a one-element buffer, and
/// [Optimizer#step] multiplies by it where it reads them.
///
/// **Paper**: Pascanu et al., "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
public final class GradClip implements AutoCloseable {
    private final Tensor norm;
    private final Tensor scale;
    private final double maxNorm;

    /// For gradients of `dtype` on `backend`.
    ///
    /// @param maxNorm > 0; infinity measures the norm and clips nothing
    public GradClip(Backend backend, DType dtype, double maxNorm) {
        if (!(maxNorm > 0)) {
            throw new IllegalArgumentException("gradClip: maxNorm must be positive, got " + maxNorm);
        }
        this.maxNorm = maxNorm;
        this.norm = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        this.scale = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
    }

    /// The L2 norm of all gradients of `parameters` together, before clipping, and as a side effect [#scale].
    /// Parameters without a gradient count nothing. The scalar belongs to this object and holds until the next call;
    /// reading it waits for the backend, so it is best read a step later or seldom.
    ///
    /// @throws DTypeException if a gradient has another dtype than this was made for
    public Tensor norm(Collection<Tensor> parameters) {
        return norm(parameters, null);
    }

    /// As [#norm(Collection)], of gradients that are to be multiplied by `factor` (1) wherever they are read, null for
    /// 1; [#scale] has it in it.
    public Tensor norm(Collection<Tensor> parameters, @Nullable Buffer factor) {
        List<Buffer> grads = new ArrayList<>();
        for (Tensor p : parameters) {
            Tensor grad = p.grad();
            if (grad == null) {
                continue;
            }
            if (grad.dtype() != norm.dtype()) {
                throw new DTypeException(
                        "gradClip: a gradient " + grad.shape() + " is " + grad.dtype() + ", needs " + norm.dtype());
            }
            grads.add(grad.buffer());
        }
        Backend backend = norm.backend();
        backend.optimizer().sumOfSquares(norm.buffer(), grads);
        if (factor != null) {
            // Σ (f·g)² is f²·Σ g².
            backend.scaleBy(norm.buffer(), factor, 1);
            backend.scaleBy(norm.buffer(), factor, 1);
        }
        backend.optimizer().clipScale(norm.buffer(), scale.buffer(), norm.buffer(), maxNorm);
        if (factor != null) {
            backend.scaleBy(scale.buffer(), factor, 1);
        }
        norm.markWritten();
        scale.markWritten();
        return norm;
    }

    /// What the last [#norm] found gradients are to be multiplied by: one element, overwritten by each call.
    public Buffer scale() {
        return scale.buffer();
    }

    @Override
    public void close() {
        norm.close();
        scale.close();
    }
}
