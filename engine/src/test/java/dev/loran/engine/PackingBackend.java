package dev.loran.engine;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.ReferenceBackend;
import org.jspecify.annotations.Nullable;

/// A reference backend that really packs prepared weights, column by column: code that takes one for row-major reads
/// nothing.
public final class PackingBackend extends ReferenceBackend {
    private int packed;

    private final class Packed extends Buffer {
        final Buffer columns;

        Packed(Buffer columns) {
            super(PackingBackend.this, columns.dtype(), columns.size());
            this.columns = columns;
            packed++;
        }

        @Override
        public boolean isRowMajor() {
            return false;
        }

        @Override
        public Buffer slice(long offset, long size) {
            throw new BackendException("packing: a packed weight has no slices");
        }

        @Override
        protected void free() {
            packed--;
            columns.release();
        }
    }

    @Override
    public String name() {
        return "packing";
    }

    /// Number of packed weights that are live.
    int packed() {
        return packed;
    }

    @Override
    public Buffer prepare(Buffer w, int out, int in) {
        return new Packed(transposed(w, out, in));
    }

    @Override
    public Buffer restore(Buffer prepared, int out, int in) {
        return transposed(((Packed) prepared).columns, in, out);
    }

    private Buffer transposed(Buffer x, int rows, int cols) {
        Buffer y = allocate(x.dtype(), x.size());
        permute(y, x, new int[] {rows, cols}, new int[] {1, 0});
        return y;
    }

    @Override
    public void gatherRows(Buffer y, Buffer table, Buffer ids, int n, int cols) {
        if (table instanceof Packed p) {
            Buffer rows = restore(p, Math.toIntExact(p.size() / cols), cols);
            super.gatherRows(y, rows, ids, n, cols);
            rows.release();
        } else {
            super.gatherRows(y, table, ids, n, cols);
        }
    }

    @Override
    public LinearKernels linear() {
        return new Products();
    }

    private final class Products implements LinearKernels {
        @Override
        public Backend backend() {
            return PackingBackend.this;
        }

        @Override
        public void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias) {
            LinearKernels.super.linear(y, x, unpacked(w), bias);
        }

        @Override
        public void linearBackwardInput(Gradient dx, Matrix dy, Matrix w) {
            LinearKernels.super.linearBackwardInput(dx, dy, unpacked(w));
        }

        private static Matrix unpacked(Matrix w) {
            return w.buffer() instanceof Packed p ? new Matrix(p.columns, w.cols(), w.rows()).t() : w;
        }
    }
}
