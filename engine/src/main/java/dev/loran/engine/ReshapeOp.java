package dev.loran.engine;

import java.util.List;

/// The same memory in another shape.
record ReshapeOp(Tensor x) implements Op {
    static Tensor forward(Tensor x, int... dims) {
        Checks.rowMajor("reshape", x);
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
            d[free] = known == 0 ? 0 : Math.toIntExact(x.shape().size() / known);
        }
        Shape shape = Shape.of(d);
        if (shape.size() != x.shape().size()) {
            throw new ShapeException("reshape: " + x.shape() + " has "
                    + x.shape().size() + " elements, " + java.util.Arrays.toString(dims) + " does not hold them");
        }
        return Autograd.record(new ReshapeOp(x), shape, x.buffer().retain());
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
        gradients.pass(x, gradOut);
    }
}
