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

/// Clipping by the global norm of all gradients, like torch's `clip_grad_norm_`: gradients are scaled by min(1, maxNorm
/// / (norm + 10⁻⁶)). They are not rewritten; instead, the scale stays in a one-element buffer, and [Optimizer#step]
/// applies it where it reads them.
///
/// **Paper**: Pascanu et al., "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
public final class GradClip implements AutoCloseable {
    private final Tensor norm;
    private final Tensor scale;
    private final double maxNorm;

    /// Creates a clipper for gradients of `dtype` on `backend`.
    ///
    /// @param maxNorm > 0; infinity measures the norm without clipping
    public GradClip(Backend backend, DType dtype, double maxNorm) {
        if (!(maxNorm > 0)) {
            throw new IllegalArgumentException("gradClip: maxNorm must be positive, got " + maxNorm);
        }
        this.maxNorm = maxNorm;
        this.norm = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        this.scale = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
    }

    /// Computes the L2 norm of all gradients of `parameters` together, before clipping, and updates [#scale].
    /// Parameters without a gradient are skipped. The scalar belongs to this object and is valid until the next call;
    /// reading it waits for the backend, so it is best read a step later, or rarely.
    ///
    /// @throws DTypeException if a gradient has a different dtype than this object was created for
    public Tensor norm(Collection<Tensor> parameters) {
        return norm(parameters, null);
    }

    /// As [#norm(Collection)], for gradients that are to be multiplied by `factor` (1) wherever they are read (null
    /// means 1); [#scale] then includes the factor.
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

    /// The factor for gradients that the last [#norm] computed: one element, overwritten by each call.
    public Buffer scale() {
        return scale.buffer();
    }

    @Override
    public void close() {
        norm.close();
        scale.close();
    }
}
