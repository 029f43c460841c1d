package dev.loran.peft.tuner;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.ReferenceBackend;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/// Counts the products with a weight by their number of rows.
final class CountingBackend extends ReferenceBackend {
    /// The shorter side of the smallest weight that counts.
    private final int side;

    final Map<Integer, Integer> rows = new TreeMap<>();

    CountingBackend(int side) {
        this.side = side;
    }

    @Override
    public LinearKernels linear() {
        return new LinearKernels() {
            @Override
            public Backend backend() {
                return CountingBackend.this;
            }

            @Override
            public void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias) {
                if (Math.min(w.rows(), w.cols()) >= side) {
                    rows.merge(x.rows(), 1, Integer::sum);
                }
                LinearKernels.super.linear(y, x, w, bias);
            }
        };
    }
}
