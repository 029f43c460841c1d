package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.ShapeException;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/// Accumulates the new parameters of one layer as adapters are merged into it, one after another, in full precision:
/// F64 if the parameter is F64, otherwise F32. They are rounded to the parameter's own type once, at the end.
public final class Merge {
    private final Map<Tensor, Tensor> next = new LinkedHashMap<>();

    Merge() {}

    /// `parameter` after the adapters merged so far, row-major and in full precision; never the parameter itself.
    public Tensor value(Tensor parameter) {
        Tensor known = next.get(parameter);
        return known == null ? wide(parameter) : known;
    }

    /// Sets the new value of `parameter`: of the same shape, in full precision.
    public void put(Tensor parameter, Tensor value) {
        if (!value.shape().equals(parameter.shape())
                || value.dtype() != parameter.dtype().accumulator()) {
            throw new ShapeException("merge: value is " + value.shape() + " " + value.dtype() + " but the parameter is "
                    + parameter.shape() + " " + parameter.dtype() + ", which is merged in "
                    + parameter.dtype().accumulator());
        }
        next.put(parameter, value);
    }

    /// `tensor` in full precision: a copy in the open scope, in row-major order if the tensor is prepared.
    public static Tensor wide(Tensor tensor) {
        try (Tensor rows = Residual.rowMajor(tensor)) {
            return Tensor.empty(
                            tensor.backend(),
                            tensor.dtype().accumulator(),
                            tensor.shape().dims())
                    .copyFrom(rows);
        }
    }

    Map<Tensor, Tensor> values() {
        return Collections.unmodifiableMap(next);
    }
}
