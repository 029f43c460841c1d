package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import java.util.List;

/// Losses of numbers and of labels that do not exclude each other; each is a scalar.
public final class Losses {
    private Losses() {}

    /// The mean over all elements of −y · log σ(x) − (1 − y) · log σ(−x), for logits x and targets y, both (B, labels);
    /// torch's `BCEWithLogitsLoss`. It is computed as softplus(x) − x · y, where softplus(x) is the cross-entropy of
    /// the first of two classes with the logits 0 and x, which does not overflow.
    public static Tensor binaryCrossEntropy(Tensor logits, Tensor targets) {
        Shape s = logits.shape();
        requireShape("binaryCrossEntropy", s, targets);
        int n = Math.toIntExact(s.size());
        Tensor x = logits.reshape(n, 1);
        Tensor zero = Tensor.zeros(x.backend(), x.dtype(), n, 1);
        Tensor first = Tensor.full(x.backend(), DType.I32, 0, n);
        Tensor softplus =
                Functional.crossEntropy(Functional.concat(List.of(zero, x), 1), first, Functional.IGNORE_INDEX);
        return softplus.sub(logits.mul(Functional.cast(targets, x.dtype())).mean());
    }

    /// The mean over all elements of (x − y)², for outputs x (B, n) and numbers y (B, n), or (B) for n = 1.
    public static Tensor squaredError(Tensor outputs, Tensor numbers) {
        Shape s = outputs.shape();
        Tensor y = s.dim(1) == 1 && numbers.shape().rank() == 1 ? numbers.reshape(s.dims()) : numbers;
        requireShape("squaredError", s, y);
        Tensor error = outputs.sub(Functional.cast(y, outputs.dtype()));
        return error.mul(error).mean();
    }

    private static void requireShape(String what, Shape needed, Tensor found) {
        if (!found.shape().equals(needed)) {
            throw new ShapeException(what + ": targets are " + found.shape() + ", needs " + needed);
        }
    }
}
