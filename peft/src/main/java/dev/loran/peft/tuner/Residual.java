package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.random.RandomGenerator;
import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.interfaces.decomposition.QRDecomposition;

/// The remainder of a frozen weight W (out, in) after PiSSA or OLoRA cut A (r, in) and B (out, r) from it: W − s·B·A,
/// which replaces W while the adapter is active. W itself is never modified.
///
/// **PiSSA** cuts the r largest singular values, B = U·√(Σ/s), A = √(Σ/s)·Vᵀ. With k iterations they are computed by
/// random projection instead of a full decomposition. **Papers**: Meng, Wang, Zhang, "PiSSA: Principal Singular Values
/// and Singular Vectors Adaptation of Large Language Models", 2024; Halko, Martinsson, Tropp, "Finding Structure with
/// Randomness", 2011, algorithm 4.4.
///
/// **OLoRA** cuts the first columns of Q and rows of R, W = Q·R, not divided by s. **Paper**: Büyükakyüz, "OLoRA:
/// Orthonormal Low-Rank Adaptation of Large Language Models", 2024.
///
/// W is (out, in) here regardless of the file's layout, so that GPT-2's transposed layers are cut like all others.
/// Hugging Face peft cuts them in the wrong direction for OLoRA: such adapters give different outputs here than in
/// peft.
final class Residual implements AutoCloseable {
    /// Additional random directions, which make few iterations sufficient (Halko et al., section 4.2).
    private static final int OVERSAMPLING = 8;

    /// Marks that `rest` was made from no version of the weight.
    private static final int NONE = -1;

    private final String module;
    private final double scaling;
    /// A and B as they were cut.
    private final Tensor cutA;

    private final Tensor cutB;
    private final Tensor rest;
    /// The version of W that `rest` was made from.
    private volatile int restOf = NONE;

    private boolean known;

    /// Performs the cut that `init` specifies.
    ///
    /// @param module name for error messages
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
        LowRank cut = w.backend().isHollow()
                ? new LowRank(new DMatrixRMaj(out, r), new DMatrixRMaj(r, in))
                : cut(w, init, r, scaling, random);
        this(w, module, r, scaling);
        try (Tensor a = Tensor.of(w.backend(), cutA.dtype(), cut.a().data, r, in);
                Tensor b = Tensor.of(w.backend(), cutB.dtype(), cut.b().data, out, r)) {
            learn(a, b);
        }
        weight(w);
    }

    private static LowRank cut(Tensor w, LoraInit init, int r, double scaling, RandomGenerator random) {
        DMatrixRMaj matrix = new DMatrixRMaj(w.shape().dim(0), w.shape().dim(1), true, w.toDoubles());
        return init.isPissa() ? principal(matrix, r, scaling, init.iterations(), random) : orthonormal(matrix, r);
    }

    /// For a cut that is not known yet; it is read from a file ([#learn]).
    Residual(Tensor w, String module, int r, double scaling) {
        int out = w.shape().dim(0);
        int in = w.shape().dim(1);
        this.module = module;
        this.scaling = scaling;
        DType wide = w.dtype().accumulator();
        cutA = Tensor.zeros(w.backend(), wide, r, in).detachFromScope();
        cutB = Tensor.zeros(w.backend(), wide, out, r).detachFromScope();
        rest = Tensor.zeros(w.backend(), w.dtype(), out, in).detachFromScope();
    }

    /// Sets A (r, in) and B (out, r) as the part that was cut.
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

    /// The weight that replaces `w`, prepared.
    ///
    /// @throws InputException if the adapter comes from a file that does not contain the cut part
    Tensor weight(Tensor w) {
        checkKnown();
        if (restOf != w.version()) {
            measure(w);
        }
        return rest;
    }

    /// Synchronized because several threads may need it first.
    private synchronized void measure(Tensor w) {
        if (restOf != w.version()) {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                rest.copyFrom(cutFrom(Merge.wide(w)));
            }
            rest.prepare();
            restOf = w.version();
        }
    }

    /// W − s · B·A, for W in full precision as in [Merge].
    Tensor cutFrom(Tensor wide) {
        checkKnown();
        return wide.sub(Merge.wide(cutB).matmul(Merge.wide(cutA)).scale(scaling));
    }

    /// B·A as they were cut, without s.
    LowRank cut() {
        checkKnown();
        return LowRank.of(cutB, cutA);
    }

    /// The output of the cut part for x: s · x·Aᵀ·Bᵀ.
    Tensor cut(Tensor x) {
        checkKnown();
        Tensor small = Functional.linear(x, Functional.cast(cutA, x.dtype()), null);
        return Functional.linear(small, Functional.cast(cutB, x.dtype()), null).scale(scaling);
    }

    /// A and B from the r largest singular values and their vectors, with the division by s split between both.
    private static LowRank principal(DMatrixRMaj w, int r, double s, int iterations, RandomGenerator random) {
        LowRank cut;
        if (iterations == 0) {
            cut = LowRank.nearest(w, r);
        } else {
            DMatrixRMaj basis = range(w, r + OVERSAMPLING, iterations, random);
            DMatrixRMaj small = new DMatrixRMaj(basis.numCols, w.numCols);
            CommonOps_DDRM.multTransA(basis, w, small);
            LowRank inside = LowRank.nearest(small, r);
            DMatrixRMaj b = new DMatrixRMaj(w.numRows, r);
            CommonOps_DDRM.mult(basis, inside.b(), b);
            cut = new LowRank(b, inside.a());
        }
        CommonOps_DDRM.divide(cut.a(), Math.sqrt(s));
        CommonOps_DDRM.divide(cut.b(), Math.sqrt(s));
        return cut;
    }

    /// An orthonormal basis (out, l) of the image of l random directions, W·(Wᵀ·W)^k·G.
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
        return LowRank.qr(m).getQ(null, true);
    }

    /// The first r columns of Q and rows of R.
    private static LowRank orthonormal(DMatrixRMaj w, int r) {
        QRDecomposition<DMatrixRMaj> qr = LowRank.qr(w);
        DMatrixRMaj q = qr.getQ(null, true);
        return new LowRank(
                CommonOps_DDRM.extract(q, 0, w.numRows, 0, r),
                CommonOps_DDRM.extract(qr.getR(null, true), 0, r, 0, w.numCols));
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

    /// The elements of a frozen weight in row-major order, even if the backend holds it prepared; the caller closes the
    /// tensor.
    static Tensor rowMajor(Tensor w) {
        Shape s = w.shape();
        return Tensor.own(
                s, w.buffer().isRowMajor() ? w.buffer().retain() : w.backend().restore(w.buffer(), s.rows(), s.cols()));
    }
}
