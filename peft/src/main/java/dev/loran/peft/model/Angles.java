package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import java.util.List;
import java.util.function.DoubleUnaryOperator;
import org.jspecify.annotations.Nullable;

/// Cosines and sines of the rotary angles, each (positions, D / 2), for the positions requested so far.
final class Angles implements AutoCloseable {
    private final Rope rope;
    private final int headDim;
    private final int maxPositions;
    private final Positions positions;
    private final Backend backend;
    private final DType dtype;
    private @Nullable Tensor cos;
    private @Nullable Tensor sin;

    /// @param positions of the tokens that are rotated
    /// @param like determines the backend and the type of the tables
    Angles(Rope rope, int headDim, int maxPositions, Positions positions, Tensor like) {
        this.rope = rope;
        this.headDim = headDim;
        this.maxPositions = maxPositions;
        this.positions = positions;
        this.backend = like.backend();
        this.dtype = like.dtype();
    }

    /// Rotates x (B, T, H, D) by its positions: from, from + 1, …, or each row's own positions where rows differ.
    Tensor turn(Tensor x, int from) {
        int to = from + x.shape().dim(1);
        boolean alike = positions.rows().isEmpty();
        List<Tensor> both = upTo(to);
        Tensor cosines = both.getFirst();
        Tensor sines = both.getLast();
        return alike
                ? Functional.rope(x, cosines.slice(0, from, to), sines.slice(0, from, to))
                : turnRows(x, cosines, sines);
    }

    /// Both tables up to position `to`: views that remain valid if the tables grow meanwhile.
    private synchronized List<Tensor> upTo(int to) {
        if (cos == null || sin == null || cos.shape().dim(0) < to) {
            int rows = cos == null ? 512 : 2 * cos.shape().dim(0);
            close();
            rows = Math.max(to, Math.min(maxPositions, rows));
            cos = table(rows, Math::cos);
            sin = table(rows, Math::sin);
        }
        int rows = cos.shape().dim(0);
        return List.of(cos.slice(0, 0, rows), sin.slice(0, 0, rows));
    }

    private Tensor turnRows(Tensor x, Tensor cosines, Tensor sines) {
        Shape s = x.shape();
        int[] ids = positions.ofRows(s.dim(1));
        Tensor at = Tensor.ofInts(backend, ids, ids.length);
        // Treated as a single text whose tokens have the positions of all rows. Positions before a row's first become
        // zero and are never visible.
        Tensor turned = Functional.rope(
                x.reshape(1, ids.length, s.dim(2), s.dim(3)),
                Functional.embedding(cosines, at),
                Functional.embedding(sines, at));
        return turned.reshape(s.dims());
    }

    private Tensor table(int rows, DoubleUnaryOperator fn) {
        // Computed this late because loading the files has then confirmed the head width of the config.
        float[] frequencies = rope.frequencies(headDim);
        int half = frequencies.length;
        double[] values = new double[rows * half];
        for (int position = 0; position < rows; position++) {
            for (int i = 0; i < half; i++) {
                // The product is in F32, like the frequencies.
                values[position * half + i] = fn.applyAsDouble((float) position * frequencies[i]);
            }
        }
        return Tensor.of(backend, dtype, values, rows, half).detachFromScope();
    }

    @Override
    public void close() {
        if (cos != null && sin != null) {
            cos.close();
            sin.close();
        }
    }
}
