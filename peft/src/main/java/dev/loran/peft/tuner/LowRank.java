package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import java.util.List;
import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.NormOps_DDRM;
import org.ejml.dense.row.SingularOps_DDRM;
import org.ejml.dense.row.factory.DecompositionFactory_DDRM;
import org.ejml.interfaces.decomposition.QRDecomposition;
import org.ejml.interfaces.decomposition.SingularValueDecomposition_F64;

/// A matrix (out, in) of low rank as the product b · a of thin matrices, (out, r) and (r, in), in double precision.
record LowRank(DMatrixRMaj b, DMatrixRMaj a) {
    /// An adapter that adds scaling · b · a to a weight, and nothing else.
    interface Source {
        /// b and a as they are.
        LowRank factors();

        double scaling();
    }

    /// loraB (out, r) · loraA (r, in).
    static LowRank of(Tensor loraB, Tensor loraA) {
        return new LowRank(matrix(loraB), matrix(loraA));
    }

    private static DMatrixRMaj matrix(Tensor t) {
        return new DMatrixRMaj(t.shape().dim(0), t.shape().dim(1), true, t.toDoubles());
    }

    int rank() {
        return a.numRows;
    }

    /// factor · this.
    LowRank times(double factor) {
        DMatrixRMaj scaled = b.copy();
        CommonOps_DDRM.scale(factor, scaled);
        return new LowRank(scaled, a);
    }

    /// The exact sum, by concatenating the factors.
    static LowRank sum(List<LowRank> all) {
        DMatrixRMaj[] columns = all.stream().map(LowRank::b).toArray(DMatrixRMaj[]::new);
        DMatrixRMaj[] rows = all.stream().map(LowRank::a).toArray(DMatrixRMaj[]::new);
        return new LowRank(CommonOps_DDRM.concatColumnsMulti(columns), CommonOps_DDRM.concatRowsMulti(rows));
    }

    /// The Frobenius norm, from the factors: with b = Q·R and aᵀ = P·S it is the norm of R·Sᵀ.
    double norm() {
        return NormOps_DDRM.normF(core(qr(b), qr(transposed(a))));
    }

    /// The exact nearest matrix of rank at most `k`: the singular values of b · a are those of R·Sᵀ, whose size is only
    /// the rank. Each factor is multiplied by the square root of the singular values.
    LowRank nearest(int k) {
        QRDecomposition<DMatrixRMaj> qb = qr(b);
        QRDecomposition<DMatrixRMaj> qa = qr(transposed(a));
        LowRank small = nearest(core(qb, qa), k);
        DMatrixRMaj left = new DMatrixRMaj(b.numRows, small.rank());
        CommonOps_DDRM.mult(qb.getQ(null, true), small.b, left);
        DMatrixRMaj right = new DMatrixRMaj(small.rank(), a.numCols);
        CommonOps_DDRM.multTransB(small.a, qa.getQ(null, true), right);
        return new LowRank(left, right);
    }

    /// The nearest matrix of rank at most `k` to a full matrix `m`.
    static LowRank nearest(DMatrixRMaj m, int k) {
        SingularValueDecomposition_F64<DMatrixRMaj> svd =
                DecompositionFactory_DDRM.svd(m.numRows, m.numCols, true, true, true);
        if (!svd.decompose(m.copy())) {
            throw new ArithmeticException("svd: the singular values of a (" + m.numRows + ", " + m.numCols
                    + ") matrix did not converge; it holds no numbers");
        }
        DMatrixRMaj u = svd.getU(null, false);
        DMatrixRMaj vt = svd.getV(null, true);
        double[] values = svd.getSingularValues();
        SingularOps_DDRM.descendingOrder(u, false, values, svd.numberOfSingularValues(), vt, true);
        int r = Math.min(k, svd.numberOfSingularValues());
        DMatrixRMaj left = CommonOps_DDRM.extract(u, 0, m.numRows, 0, r);
        DMatrixRMaj right = CommonOps_DDRM.extract(vt, 0, r, 0, m.numCols);
        double[] roots = new double[r];
        for (int i = 0; i < r; i++) {
            roots[i] = Math.sqrt(values[i]);
        }
        CommonOps_DDRM.multCols(left, roots);
        CommonOps_DDRM.multRows(roots, right);
        return new LowRank(left, right);
    }

    /// The full matrix.
    DMatrixRMaj whole() {
        DMatrixRMaj product = new DMatrixRMaj(b.numRows, a.numCols);
        CommonOps_DDRM.mult(b, a, product);
        return product;
    }

    private static DMatrixRMaj core(QRDecomposition<DMatrixRMaj> qb, QRDecomposition<DMatrixRMaj> qa) {
        DMatrixRMaj r = qb.getR(null, true);
        DMatrixRMaj s = qa.getR(null, true);
        DMatrixRMaj core = new DMatrixRMaj(r.numRows, s.numRows);
        CommonOps_DDRM.multTransB(r, s, core);
        return core;
    }

    /// The QR decomposition of a matrix, which is not modified.
    static QRDecomposition<DMatrixRMaj> qr(DMatrixRMaj m) {
        QRDecomposition<DMatrixRMaj> qr = DecompositionFactory_DDRM.qr(m.numRows, m.numCols);
        qr.decompose(m.copy());
        return qr;
    }

    private static DMatrixRMaj transposed(DMatrixRMaj m) {
        return CommonOps_DDRM.transpose(m, null);
    }
}
