package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

/// Dimension i of y is dimension `perm[i]` of x.
record PermuteOp(Tensor x, List<Integer> perm) implements Op {
    static Tensor forward(Tensor x, int... perm) {
        Checks.readable("permute", "x", x);
        int rank = x.shape().rank();
        int[] axes = Arrays.stream(perm).map(i -> i < 0 ? i + rank : i).toArray();
        if (!Arrays.equals(
                Arrays.stream(axes).sorted().toArray(), IntStream.range(0, rank).toArray())) {
            throw new ShapeException(
                    "permute: " + Arrays.toString(perm) + " is no permutation of the dimensions of " + x.shape());
        }
        Shape shape = Shape.of(Arrays.stream(axes).map(x.shape()::dim).toArray());
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer y = scratch.like(x.buffer());
            x.backend().permute(y, x.buffer(), x.shape().dims(), axes);
            PermuteOp op = new PermuteOp(x, Arrays.stream(axes).boxed().toList());
            return Autograd.record(op, shape, y.retain());
        }
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
        int[] inverse = new int[perm.size()];
        for (int i = 0; i < inverse.length; i++) {
            inverse[perm.get(i)] = i;
        }
        try (Scratch scratch = new Scratch(x.backend())) {
            Buffer back = scratch.like(gradOut.buffer());
            x.backend().permute(back, gradOut.buffer(), gradOut.shape().dims(), inverse);
            gradients.pass(x, back);
        }
    }
}
