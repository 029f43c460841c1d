package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.operand;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.engine.backend.LinearKernels.Projected;
import dev.loran.engine.backend.Matrix;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.FrozenWeight;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.gemm.Operand;
import dev.loran.kernels.simd.gemm.Panels;
import dev.loran.kernels.simd.vector.Parallel;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// Products with weights. Packed weights are multiplied through their panels; others by
/// [dev.loran.kernels.simd.gemm.GemmSimd], or rounded if operands are BF16. The low-rank part of LoRA is in
/// [LoraLinearSimd].
record LinearSimd(Backend backend, Parallel parallel) implements LinearKernels {
    /// If a dimension of a trainable weight, or the number of rows multiplied with it, is below this, products stay in
    /// F32.
    private static final int ROUNDED_SIZE = 16;

    @Override
    public void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias) {
        linear(y, x, w, bias, false);
    }

    private void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, boolean accumulate) {
        float beta = accumulate ? 1 : 0;
        if (w.buffer() instanceof PreparedBuffer p) {
            p.weight().linear(parallel, operand(y), operand(x), row(bias), beta);
        } else if (rounds(x.rows(), w)) {
            product(operand(y), operand(x), operand(w).t(), beta, row(bias));
        } else {
            backend.gemm(y, x, w.t(), 1, beta);
            if (bias != null) {
                int[] shape = {y.rows(), y.cols()};
                int[] dense = {y.cols(), 1};
                backend.binary(BinaryFn.ADD, y.buffer(), y.buffer(), bias, shape, dense, new int[] {0, 1});
            }
        }
    }

    @Override
    public void linearBackwardInput(Gradient dx, Matrix dy, Matrix w) {
        Matrix to = new Matrix(dx.buffer(), dy.rows(), w.cols());
        float beta = dx.accumulate() ? 1 : 0;
        if (w.buffer() instanceof PreparedBuffer p) {
            p.weight().linearBackward(parallel, operand(to), operand(dy), beta);
        } else if (rounds(dy.rows(), w)) {
            product(operand(to), operand(dy), operand(w), beta, null);
        } else {
            backend.gemm(to, dy, w, 1, beta);
        }
    }

    @Override
    public void linearBackwardWeight(Gradient dw, Matrix dy, Matrix x) {
        Matrix to = new Matrix(dw.buffer(), dy.cols(), x.cols());
        if (rounds(dy.rows(), to)) {
            product(operand(to), operand(dy).t(), operand(x), dw.accumulate() ? 1 : 0, null);
        } else {
            LinearKernels.super.linearBackwardWeight(dw, dy, x);
        }
    }

    private void product(Operand c, Operand a, Operand b, float beta, @Nullable Operand bias) {
        c.check("linear");
        a.check("linear");
        b.check("linear");
        GemmBf16.product(parallel, Objects.requireNonNull(tiles()), c, a, b, beta, bias);
    }

    /// Whether the products of a trainable weight with n rows use BF16. A head with only a few classes does not: its
    /// products are just a few dot products.
    private boolean rounds(int n, Matrix w) {
        return tiles() != null && Math.min(n, Math.min(w.rows(), w.cols())) >= ROUNDED_SIZE;
    }

    private @Nullable Bf16Tiles tiles() {
        return SimdOperations.tiles(backend.operands());
    }

    private static @Nullable Operand row(@Nullable Buffer bias) {
        return bias == null ? null : operand(new Matrix(bias, 1, Math.toIntExact(bias.size())));
    }

    // ---- with a low-rank part

    @Override
    public void loraLinear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, LowRankUpdate update) {
        FrozenWeight frozen = inBlocks(w.buffer(), x.rows());
        LoraLinearSimd.Layer layer = layer(new Projected(y, w, bias, update), frozen);
        LoraLinearSimd.forward(parallel, tiles(), List.of(layer), operand(x));
        if (frozen == null) {
            linear(y, x, w, bias, true);
        }
    }

    @Override
    public void projections(List<Projected> layers, Matrix x) {
        if (layers.stream().anyMatch(layer -> inBlocks(layer.w().buffer(), x.rows()) == null)) {
            LinearKernels.super.projections(layers, x);
            return;
        }
        List<LoraLinearSimd.Layer> packed = layers.stream()
                .map(layer -> layer(layer, inBlocks(layer.w().buffer(), x.rows())))
                .toList();
        LoraLinearSimd.forward(parallel, tiles(), packed, operand(x));
    }

    /// Returns the weight `w` if it is packed and n rows are enough to multiply it block by block within tasks; else
    /// null.
    private @Nullable FrozenWeight inBlocks(Buffer w, int n) {
        return w instanceof PreparedBuffer p && LoraLinearSimd.fills(parallel, n) ? p.weight() : null;
    }

    private static LoraLinearSimd.Layer layer(Projected layer, @Nullable FrozenWeight w) {
        return new LoraLinearSimd.Layer(
                operand(layer.y()),
                w == null ? null : w.forward(),
                w == null ? null : row(layer.bias()),
                layer.update());
    }

    @Override
    public void loraLinearBackward(
            @Nullable Gradient dx,
            @Nullable Gradient da,
            @Nullable Gradient db,
            Matrix dy,
            Matrix x,
            Matrix w,
            LowRankUpdate update) {
        FrozenWeight frozen = dx == null ? null : inBlocks(w.buffer(), dy.rows());
        Panels panels = frozen == null ? null : frozen.backward(parallel);
        new LoraLinearSimd.Backward(parallel, tiles(), operand(dy), operand(x), update).run(panels, dx, da, db);
        if (dx != null && panels == null) {
            linearBackwardInput(new Gradient(dx.buffer(), true), dy, w);
        }
    }

    // ---- with low-rank parts for segments of rows

    /// The low-rank parts first, each for its own rows, then one product with the weight added to all: the same
    /// additions in the same order as for each segment alone.
    @Override
    public void loraLinear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, List<Segment> segments) {
        int at = 0;
        for (Segment s : segments) {
            Matrix own = y.rows(at, s.rows());
            if (s.update() == null) {
                backend.fill(own.buffer(), 0);
            } else {
                LoraLinearSimd.Layer layer = layer(new Projected(own, w, bias, s.update()), null);
                LoraLinearSimd.forward(parallel, tiles(), List.of(layer), operand(x.rows(at, s.rows())));
            }
            at += s.rows();
        }
        linear(y, x, w, bias, true);
    }

    @Override
    public void loraLinearBackward(
            @Nullable Gradient dx,
            List<@Nullable Gradient> da,
            List<@Nullable Gradient> db,
            Matrix dy,
            Matrix x,
            Matrix w,
            List<Segment> segments) {
        int at = 0;
        for (int i = 0; i < segments.size(); i++) {
            Segment s = segments.get(i);
            Gradient own = Gradient.rows(dx, x, at, s.rows());
            if (s.update() != null) {
                new LoraLinearSimd.Backward(
                                parallel,
                                tiles(),
                                operand(dy.rows(at, s.rows())),
                                operand(x.rows(at, s.rows())),
                                s.update())
                        .run(null, own, da.get(i), db.get(i));
            } else if (own != null && !own.accumulate()) {
                backend.fill(own.buffer(), 0);
            }
            at += s.rows();
        }
        if (dx != null) {
            linearBackwardInput(new Gradient(dx.buffer(), true), dy, w);
        }
    }
}
