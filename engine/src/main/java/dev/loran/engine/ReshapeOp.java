package dev.loran.engine;

import dev.loran.engine.backend.ShapeException;
import java.util.Arrays;
import java.util.List;

/// The same memory in another shape.
record ReshapeOp(Tensor x) implements Op {
    static Tensor forward(Tensor x, int... dims) {
        Checks.readable("reshape", "x", x);
        long size = x.shape().size();
        int[] d = dims.clone();
        long known = 1;
        int free = -1;
        for (int i = 0; i < d.length; i++) {
            if (d[i] == -1 && free < 0) {
                free = i;
            } else {
                known *= d[i];
            }
        }
        if (free >= 0) {
            d[free] = known == 0 ? 0 : Math.toIntExact(size / known);
            known *= d[free];
        }
        if (known != size || Arrays.stream(d).anyMatch(i -> i < 0)) {
            throw new ShapeException("reshape: x is " + x.shape() + " with " + size + " elements, "
                    + Arrays.toString(dims) + " does not hold them");
        }
        return Autograd.record(new ReshapeOp(x), Shape.of(d), x.buffer().retain());
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(x);
    }

    @Override
    public List<Tensor> saved() {
        return List.of();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        gradients.pass(x, gradOut.buffer());
    }
}
