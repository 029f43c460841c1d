package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.util.ArrayList;
import java.util.List;

/// y = op(a) · op(b) over the last two dimensions, where op transposes if requested. Leading dimensions are equal, or b
/// is a single matrix used for all of a (which is then treated as one tall matrix).
public record MatMulOp(Tensor a, Tensor b, boolean transA, boolean transB) implements Op {
    public static Tensor forward(Tensor a, Tensor b, boolean transA, boolean transB) {
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
            product(new Gradient(y, false), Operand.of(a, transA), Operand.of(b, transB));
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

    /// The last two dimensions of a shape over memory, transposed if requested.
    private record Operand(Buffer buffer, Shape shape, boolean transposed) {
        static Operand of(Tensor x, boolean transposed) {
            return new Operand(x.buffer(), x.shape(), transposed);
        }

        Operand t() {
            return new Operand(buffer, shape, !transposed);
        }

        /// Folds all leading dimensions into the rows.
        Operand flat() {
            return new Operand(buffer, Shape.of(shape.rows(), shape.cols()), transposed);
        }

        Matrix matrix() {
            Matrix m = new Matrix(buffer, shape.dim(-2), shape.dim(-1));
            return transposed ? m.t() : m;
        }
    }

    /// y (…, m, n) ← op(x) · op(z), one product per leading index.
    private static void product(Gradient y, Operand x, Operand z) {
        int batch = Math.toIntExact(x.shape.product(0, x.shape.rank() - 2));
        Matrix left = x.matrix();
        Matrix right = z.matrix();
        if (z.shape.rank() == 2) {
            right = right.forAll();
            if (!x.transposed) {
                left = new Matrix(x.buffer, batch * left.rows(), left.cols());
                batch = 1;
            }
        }
        Matrix to = new Matrix(y.buffer(), left.rows(), right.cols());
        y.buffer().backend().gemm(to, left, right, batch, 1, y.beta());
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
        Operand x = Operand.of(a, transA);
        Operand z = Operand.of(b, transB);
        Operand dy = Operand.of(gradOut, false);
        if (gradients.wants(a)) {
            Gradient da = gradients.into(a);
            if (transA) {
                product(da, z, dy.t());
            } else {
                product(da, dy, z.t());
            }
        }
        if (gradients.wants(b)) {
            Gradient db = gradients.into(b);
            if (b.shape().rank() == 2 && a.shape().rank() > 2) {
                x = x.flat();
                dy = dy.flat();
            }
            if (transB) {
                product(db, dy.t(), x);
            } else {
                product(db, x.t(), dy);
            }
        }
    }
}
