package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Functional;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.peft.data.InputException;
import java.util.Arrays;
import java.util.random.RandomGenerator;
import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.SingularOps_DDRM;
import org.ejml.dense.row.factory.DecompositionFactory_DDRM;
import org.ejml.interfaces.decomposition.QRDecomposition;
import org.ejml.interfaces.decomposition.SingularValueDecomposition_F64;

/// What PiSSA and OLoRA leave of a frozen weight W (out, in) when they cut A (r, in) and B (out, r) out of it: W − s·B·A,
/// which stands in the place of W while the adapter is active. W itself is never touched.
///
/// **PiSSA** cuts the r largest singular values, B = U·√(Σ/s), A = √(Σ/s)·Vᵀ. With k iterations they are found by random
/// projection in place of the whole decomposition. **Papers**: Meng, Wang, Zhang, "PiSSA: Principal Singular Values and
/// Singular Vectors Adaptation of Large Language Models", 2024; Halko, Martinsson, Tropp, "Finding Structure with
/// Randomness", 2011, algorithm 4.4.
///
/// **OLoRA** cuts the first columns of Q and rows of R, W = Q·R, not divided by s. **Paper**: Büyükakyüz, "OLoRA:
/// Orthonormal Low-Rank Adaptation of Large Language Models", 2024.
///
/// W is (out, in) here whatever files hold, so that GPT-2's transposed layers are cut as all others are. Hugging Face peft
/// cuts them in the wrong direction for OLoRA: its adapters of this kind do not answer here as they do there.
final class Residual implements AutoCloseable {
    /// More random directions than wanted: what makes few iterations enough (Halko et al., section 4.2).
    private static final int OVERSAMPLING = 8;

    /// No version of a weight.
    private static final int NONE = -1;

    private final String module;
    private final double scaling;
    /// A and B as they were cut.
    private final Tensor cutA;

    private final Tensor cutB;
    private final Tensor rest;
    /// The version of W that `rest` was made from.
    private int restOf = NONE;

    private boolean known;

    /// Cuts what `init` says.
    ///
    /// @param module named in failures
    Residual(Tensor w, String module, LoraInit init, int r, double scaling, RandomGenerator random) {
        int out = w.shape().dim(0);
        int in = w.shape().dim(1);
        if (r > Math.min(out, in)) {
            throw new InputException("init_lora_weights " + init.name() + ": rank " + r + " is more than " + module
                    + " (out=" + out + ", in=" + in + ") has; choose another rank, or rank_pattern for it");
        }
        if (init.isPissa() && !(scaling > 0)) {
            throw new InputException("init_lora_weights " + init.name() + ": the scaling of " + module + " is "
                    + scaling + ", must be positive; choose a positive lora_alpha");
        }
        DMatrixRMaj matrix = new DMatrixRMaj(out, in, true, w.toDoubles());
        DMatrixRMaj[] cut =
                init.isPissa() ? principal(matrix, r, scaling, init.iterations(), random) : orthonormal(matrix, r);
        this(w, module, r, scaling);
        try (Tensor a = Tensor.of(w.backend(), w.dtype(), cut[0].data, r, in);
                Tensor b = Tensor.of(w.backend(), w.dtype(), cut[1].data, out, r)) {
            learn(a, b);
        }
        weight(w);
    }

    /// For a cut that is not known yet: a file will tell ([#learn]).
    Residual(Tensor w, String module, int r, double scaling) {
        int out = w.shape().dim(0);
        int in = w.shape().dim(1);
        this.module = module;
        this.scaling = scaling;
        cutA = Tensor.zeros(w.backend(), w.dtype(), r, in).detachFromScope();
        cutB = Tensor.zeros(w.backend(), w.dtype(), out, r).detachFromScope();
        rest = Tensor.zeros(w.backend(), w.dtype(), out, in).detachFromScope();
    }

    /// Takes A (r, in) and B (out, r) for what was cut.
    void learn(Tensor a, Tensor b) {
        cutA.copyFrom(a);
        cutB.copyFrom(b);
        restOf = NONE;
        known = true;
    }

    /// A as it was cut.
    Tensor cutA() {
        return cutA;
    }

    /// B as it was cut.
    Tensor cutB() {
        return cutB;
    }

    /// What stands in the place of `w`, prepared.
    ///
    /// @throws InputException if the adapter comes from a file that does not say what was cut
    Tensor weight(Tensor w) {
        checkKnown();
        if (restOf != w.version()) {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                rest.copyFrom(cutFrom(Merge.wide(w)));
            }
            rest.prepare();
            restOf = w.version();
        }
        return rest;
    }

    /// W − s · B·A of W as [Merge] has it.
    Tensor cutFrom(Tensor wide) {
        checkKnown();
        return wide.sub(Merge.wide(cutB).matmul(Merge.wide(cutA)).scale(scaling));
    }

    /// What the part that was cut out answers to x: s · x·Aᵀ·Bᵀ.
    Tensor cut(Tensor x) {
        checkKnown();
        return Functional.linear(Functional.linear(x, cutA, null), cutB, null).scale(scaling);
    }

    /// The r largest singular values and their vectors: A, B.
    private static DMatrixRMaj[] principal(DMatrixRMaj w, int r, double s, int iterations, RandomGenerator random) {
        DMatrixRMaj basis = iterations == 0 ? null : range(w, r + OVERSAMPLING, iterations, random);
        DMatrixRMaj small = w;
        if (basis != null) {
            small = new DMatrixRMaj(basis.numCols, w.numCols);
            CommonOps_DDRM.multTransA(basis, w, small);
        }
        SingularValueDecomposition_F64<DMatrixRMaj> svd =
                DecompositionFactory_DDRM.svd(small.numRows, small.numCols, true, true, true);
        if (!svd.decompose(small.copy())) {
            throw new ArithmeticException("pissa: the singular values did not converge; the weight holds no numbers");
        }
        DMatrixRMaj u = svd.getU(null, false);
        DMatrixRMaj vt = svd.getV(null, true);
        double[] sigma = svd.getSingularValues();
        SingularOps_DDRM.descendingOrder(u, false, sigma, svd.numberOfSingularValues(), vt, true);
        if (basis != null) {
            DMatrixRMaj whole = new DMatrixRMaj(w.numRows, u.numCols);
            CommonOps_DDRM.mult(basis, u, whole);
            u = whole;
        }
        double[] roots = Arrays.stream(sigma, 0, r).map(x -> Math.sqrt(x / s)).toArray();
        DMatrixRMaj a = CommonOps_DDRM.extract(vt, 0, r, 0, w.numCols);
        DMatrixRMaj b = CommonOps_DDRM.extract(u, 0, w.numRows, 0, r);
        CommonOps_DDRM.multRows(roots, a);
        CommonOps_DDRM.multCols(b, roots);
        return new DMatrixRMaj[] {a, b};
    }

    /// An orthonormal basis (out, l) of what W makes of l random directions, W·(Wᵀ·W)^k·G.
    private static DMatrixRMaj range(DMatrixRMaj w, int directions, int iterations, RandomGenerator random) {
        int l = Math.min(directions, Math.min(w.numRows, w.numCols));
        DMatrixRMaj g = new DMatrixRMaj(w.numCols, l);
        Arrays.setAll(g.data, i -> random.nextGaussian());
        DMatrixRMaj y = new DMatrixRMaj(w.numRows, l);
        CommonOps_DDRM.mult(w, g, y);
        for (int i = 0; i < iterations; i++) {
            CommonOps_DDRM.multTransA(w, q(y), g);
            CommonOps_DDRM.mult(w, q(g), y);
        }
        return q(y);
    }

    private static DMatrixRMaj q(DMatrixRMaj m) {
        return qr(m).getQ(null, true);
    }

    private static QRDecomposition<DMatrixRMaj> qr(DMatrixRMaj m) {
        QRDecomposition<DMatrixRMaj> qr = DecompositionFactory_DDRM.qr(m.numRows, m.numCols);
        qr.decompose(m.copy());
        return qr;
    }

    /// The first r rows of R and columns of Q: A, B.
    private static DMatrixRMaj[] orthonormal(DMatrixRMaj w, int r) {
        QRDecomposition<DMatrixRMaj> qr = qr(w);
        DMatrixRMaj q = qr.getQ(null, true);
        return new DMatrixRMaj[] {
            CommonOps_DDRM.extract(qr.getR(null, true), 0, r, 0, w.numCols),
            CommonOps_DDRM.extract(q, 0, w.numRows, 0, r)
        };
    }

    private void checkKnown() {
        if (!known) {
            throw new InputException("init_lora_weights pissa_niter: what was cut out of " + module
                    + " was found at random and the files do not hold it; save the adapter converted to plain LoRA"
                    + " (saveConverted; in peft, path_initial_model_for_weight_conversion)");
        }
    }

    @Override
    public void close() {
        cutA.close();
        cutB.close();
        rest.close();
    }

    /// The elements of a frozen weight by rows, also where the backend keeps it prepared: a tensor the caller closes.
    static Tensor rowMajor(Tensor w) {
        Shape s = w.shape();
        return Tensor.own(
                s, w.buffer().isRowMajor() ? w.buffer().retain() : w.backend().restore(w.buffer(), s.rows(), s.cols()));
    }
}
