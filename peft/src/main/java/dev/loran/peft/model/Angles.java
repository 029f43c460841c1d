package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.List;
import java.util.function.DoubleUnaryOperator;
import org.jspecify.annotations.Nullable;

/// Cosines and sines of the rotary angles, each (positions, D / 2) if D channels of a head rotate, for the positions
/// requested so far.
public final class Angles implements AutoCloseable {
    private final Rope rope;
    private final int headDim;
    private final int maxPositions;
    private final Positions positions;
    private final Backend backend;
    private final DType dtype;
    /// The [Rope#kind] of the tables.
    private int kind;

    private @Nullable Tensor cos;
    private @Nullable Tensor sin;

    /// @param positions of the tokens that are rotated
    /// @param like determines the backend and the type of the tables
    public Angles(Rope rope, int headDim, int maxPositions, Positions positions, Tensor like) {
        this.rope = rope;
        this.headDim = headDim;
        this.maxPositions = maxPositions;
        this.positions = positions;
        this.backend = like.backend();
        this.dtype = like.dtype();
    }

    /// Rotates x (B, T, H, D) by its positions: from, from + 1, …, or each row's own positions where rows differ.
    ///
    /// @param inTexts (B, T) the positions where rows hold several texts; else null
    public Tensor turn(Tensor x, int from, @Nullable Tensor inTexts) {
        int width = rope.width(headDim);
        if (width == headDim) {
            return turnAll(x, from, inTexts);
        }
        return width == 0
                ? x
                : Functional.concat(
                        List.of(turnAll(x.slice(3, 0, width), from, inTexts), x.slice(3, width, headDim)), 3);
    }

    private Tensor turnAll(Tensor x, int from, @Nullable Tensor inTexts) {
        if (inTexts != null) {
            int to = from + x.shape().dim(1);
            if (rope.kind(to) != rope.kind(1)) {
                throw new InputException("rows of several texts, " + to + " positions long: this model's rotary angles"
                        + " depend on the length of a text where it is that long; make rows shorter, or do not"
                        + " pack them");
            }
            return turnEach(x, upTo(to), inTexts.reshape(-1));
        }
        if (!positions.rows().isEmpty()) {
            return turnRows(x, positions.ofRows(x.shape().dim(1)));
        }
        int to = from + x.shape().dim(1);
        List<Tensor> both = upTo(to);
        return Functional.rope(
                x, both.getFirst().slice(0, from, to), both.getLast().slice(0, from, to));
    }

    /// Both tables up to position `to`: views that remain valid if the tables grow meanwhile.
    private synchronized List<Tensor> upTo(int to) {
        int wanted = rope.kind(to);
        if (cos == null || sin == null || cos.shape().dim(0) < to || wanted != kind) {
            int rows = cos == null ? 512 : 2 * cos.shape().dim(0);
            close();
            kind = wanted;
            rows = Math.max(to, Math.min(maxPositions, rows));
            cos = table(rows, to, Math::cos);
            sin = table(rows, to, Math::sin);
        }
        int rows = cos.shape().dim(0);
        return List.of(cos.slice(0, 0, rows), sin.slice(0, 0, rows));
    }

    private Tensor turnRows(Tensor x, int[] ids) {
        // Positions before a row's first become zero and are never visible.
        List<Tensor> both = upTo(1 + Arrays.stream(ids).max().orElse(0));
        return turnEach(x, both, Tensor.ofInts(backend, ids, ids.length));
    }

    /// Treats x as a single text whose tokens have the positions of all rows.
    private static Tensor turnEach(Tensor x, List<Tensor> both, Tensor at) {
        Shape s = x.shape();
        Tensor turned = Functional.rope(
                x.reshape(1, at.shape().dim(0), s.dim(2), s.dim(3)),
                Functional.embedding(both.getFirst(), at),
                Functional.embedding(both.getLast(), at));
        return turned.reshape(s.dims());
    }

    /// @param length of the longest text
    private Tensor table(int rows, int length, DoubleUnaryOperator fn) {
        // Computed this late because loading the files has then confirmed the head width of the config.
        float[] frequencies = rope.frequencies(rope.width(headDim), length);
        int half = frequencies.length;
        double[] values = new double[rows * half];
        for (int position = 0; position < rows; position++) {
            for (int i = 0; i < half; i++) {
                // The product is in F32, like the frequencies.
                values[position * half + i] = rope.magnitude() * fn.applyAsDouble((float) position * frequencies[i]);
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
