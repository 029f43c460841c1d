package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.List;

/// y (…, C) = rows `ids` (…) of table (V, C); a negative id gives zeros and gets no gradient. The gradient is a
/// scatter-add in the order of the ids.
record EmbeddingOp(Tensor table, Tensor ids) implements Op {
    static Tensor forward(Tensor table, Tensor ids) {
        Checks.computable("embedding", "table", table);
        Checks.ints("embedding", "ids", ids, "table", table);
        if (table.shape().rank() != 2) {
            throw new ShapeException("embedding: table is " + table.shape() + ", needs (V, C)");
        }
        int cols = table.shape().dim(1);
        int[] dims = java.util.Arrays.copyOf(ids.shape().dims(), ids.shape().rank() + 1);
        dims[dims.length - 1] = cols;
        Shape shape = Shape.of(dims);
        int n = Math.toIntExact(ids.shape().size());
        try (Scratch scratch = new Scratch(table.backend())) {
            Buffer y = scratch.allocate(table.dtype(), shape.size());
            table.backend().gatherRows(y, table.buffer(), ids.buffer(), n, cols);
            return Autograd.record(new EmbeddingOp(table, ids), shape, y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(table);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(ids);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradient dt = gradients.into(table);
        Backend be = table.backend();
        if (!dt.accumulate()) {
            be.fill(dt.buffer(), 0);
        }
        be.scatterAddRows(
                dt.buffer(),
                gradOut.buffer(),
                ids.buffer(),
                Math.toIntExact(ids.shape().size()),
                table.shape().dim(0),
                table.shape().dim(1));
    }
}
