package dev.loran.benchmarks;

import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.openblas.global.openblas;

/// The peer for matrix products: OpenBLAS through bytedeco's presets, in its own memory.
final class OpenBlas implements AutoCloseable {
    private final FloatPointer a;
    private final FloatPointer b;
    private final FloatPointer c;
    private final int m;
    private final int n;
    private final int k;

    OpenBlas(float[] a, float[] b, int m, int n, int k, int threads) {
        openblas.blas_set_num_threads(threads);
        this.a = new FloatPointer(a);
        this.b = new FloatPointer(b);
        this.c = new FloatPointer((long) m * n);
        this.m = m;
        this.n = n;
        this.k = k;
    }

    /// C (m, n) = A (m, k) · Bᵀ with B stored as (n, k) if `transB`, else A · B with B (k, n).
    void gemm(boolean transB) {
        openblas.cblas_sgemm(
                openblas.CblasRowMajor,
                openblas.CblasNoTrans,
                transB ? openblas.CblasTrans : openblas.CblasNoTrans,
                m,
                n,
                k,
                1f,
                a,
                k,
                b,
                transB ? k : n,
                0f,
                c,
                n);
    }

    float[] result() {
        float[] values = new float[m * n];
        c.get(values);
        return values;
    }

    @Override
    public void close() {
        a.close();
        b.close();
        c.close();
    }
}
