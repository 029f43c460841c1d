package dev.loran.engine;

import org.jspecify.annotations.Nullable;

/// A reference that really packs prepared weights, column by column: whoever takes one for row-major reads nothing.
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

    /// Packed weights that are live.
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
    public void linear(Buffer y, Buffer x, Buffer w, @Nullable Buffer bias, int n, int in, int out) {
        if (w instanceof Packed p) {
            gemm(y, out, 0, x, in, 0, false, p.columns, out, 0, false, 1, n, out, in, 1, 0);
            if (bias != null) {
                binary(BinaryFn.ADD, y, y, bias, new int[] {n, out}, new int[] {out, 1}, new int[] {0, 1});
            }
        } else {
            super.linear(y, x, w, bias, n, in, out);
        }
    }

    @Override
    public void linearBackwardInput(Buffer dx, Buffer dy, Buffer w, int n, int in, int out, boolean accumulate) {
        if (w instanceof Packed p) {
            gemm(dx, in, 0, dy, out, 0, false, p.columns, out, 0, true, 1, n, in, out, 1, accumulate ? 1 : 0);
        } else {
            super.linearBackwardInput(dx, dy, w, n, in, out, accumulate);
        }
    }
}
