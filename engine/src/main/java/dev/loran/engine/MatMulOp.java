package dev.loran.engine;

import java.util.ArrayList;
import java.util.List;

/// y = op(a) · op(b) over the last two dimensions, op transposing when asked. Leading dimensions are equal, or b is one
/// matrix for all of a (which is then seen as one tall matrix).
record MatMulOp(Tensor a, Tensor b, boolean transA, boolean transB) implements Op {
    static Tensor forward(Tensor a, Tensor b, boolean transA, boolean transB) {
        Checks.operand("matmul", "a", a);
        Checks.operand("matmul", "b", b, "a", a);
        Shape sa = a.shape();
        Shape sb = b.shape();
        boolean matrices = sa.rank() >= 2 && sb.rank() >= 2;
        if (!matrices || inner(sa, transA) != rowsOf(sb, transB) || !leadingFit(sa, sb, transA)) {
            throw new ShapeException("matmul: a is " + sa + (transA ? " transposed" : "") + " but b is " + sb
                    + (transB ? " transposed" : "") + "; needs (…, m, k) by (…, k, n), or by (k, n) for all of a");
        }
        int m = rowsOf(sa, transA);
        int n = inner(sb, transB);
        Shape shape = sa.withDim(-2, m).withCols(n);
        try (Scratch scratch = new Scratch(a.backend())) {
            Buffer y = scratch.allocate(a.dtype(), shape.size());
            product(y, a.buffer(), sa, transA, b.buffer(), sb, transB, m, n, 0);
            return Autograd.record(new MatMulOp(a, b, transA, transB), shape, y.retain());
        }
    }

    private static int inner(Shape s, boolean trans) {
        return trans ? s.dim(-2) : s.dim(-1);
    }

    private static int rowsOf(Shape s, boolean trans) {
        return trans ? s.dim(-1) : s.dim(-2);
    }

    private static boolean leadingFit(Shape a, Shape b, boolean transA) {
        if (b.rank() == 2) {
            return !transA || a.rank() == 2;
        }
        if (a.rank() != b.rank()) {
            return false;
        }
        for (int i = 0; i < a.rank() - 2; i++) {
            if (a.dim(i) != b.dim(i)) {
                return false;
            }
        }
        return true;
    }

    /// y (…, m, n) = op(x) · op(z) + beta · y, one product a leading index.
    private static void product(
            Buffer y,
            Buffer x,
            Shape sx,
            boolean transX,
            Buffer z,
            Shape sz,
            boolean transZ,
            int m,
            int n,
            double beta) {
        int k = inner(sx, transX);
        int batch = Math.toIntExact(sx.product(0, sx.rank() - 2));
        if (sz.rank() == 2 && !transX) {
            m *= batch;
            batch = 1;
        }
        long strideZ = sz.rank() == 2 ? 0 : (long) sz.dim(-2) * sz.dim(-1);
        y.backend()
                .gemm(
                        y,
                        n,
                        (long) m * n,
                        x,
                        sx.dim(-1),
                        (long) sx.dim(-2) * sx.dim(-1),
                        transX,
                        z,
                        sz.dim(-1),
                        strideZ,
                        transZ,
                        batch,
                        m,
                        n,
                        k,
                        1,
                        beta);
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(a, b);
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> saved = new ArrayList<>(2);
        if (b.requiresGrad()) {
            saved.add(a);
        }
        if (a.requiresGrad()) {
            saved.add(b);
        }
        return saved;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Buffer dy = gradOut.buffer();
        Shape sy = gradOut.shape();
        if (gradients.wants(a)) {
            Gradients.Target da = gradients.into(a);
            double beta = da.accumulate() ? 1 : 0;
            if (transA) {
                product(
                        da.buffer(),
                        b.buffer(),
                        b.shape(),
                        transB,
                        dy,
                        sy,
                        true,
                        a.shape().dim(-2),
                        a.shape().dim(-1),
                        beta);
            } else {
                product(
                        da.buffer(),
                        dy,
                        sy,
                        false,
                        b.buffer(),
                        b.shape(),
                        !transB,
                        a.shape().dim(-2),
                        a.shape().dim(-1),
                        beta);
            }
        }
        if (gradients.wants(b)) {
            Gradients.Target db = gradients.into(b);
            double beta = db.accumulate() ? 1 : 0;
            Shape sa = a.shape();
            Shape sd = sy;
            if (b.shape().rank() == 2 && sa.rank() > 2) {
                sa = Shape.of(sa.rows(), sa.cols());
                sd = Shape.of(sd.rows(), sd.cols());
            }
            if (transB) {
                product(
                        db.buffer(),
                        dy,
                        sd,
                        true,
                        a.buffer(),
                        sa,
                        transA,
                        b.shape().dim(-2),
                        b.shape().dim(-1),
                        beta);
            } else {
                product(
                        db.buffer(),
                        a.buffer(),
                        sa,
                        !transA,
                        dy,
                        sd,
                        false,
                        b.shape().dim(-2),
                        b.shape().dim(-1),
                        beta);
            }
        }
    }
}
