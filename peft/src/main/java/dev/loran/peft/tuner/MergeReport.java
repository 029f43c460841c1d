package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import java.util.List;
import java.util.Locale;

/// How merging adapters into weights of one type changes each parameter, and how much of the update is lost to
/// rounding.
///
/// A low-precision weight absorbs small updates: with W′ = W + Δ and r() the rounding to the type, the effective update
/// is r(W′) − r(W), and the lost fraction is ‖r(W′) − r(W) − Δ‖ / ‖Δ‖: near 0 in F32, often a third in BF16, and 1 if
/// the update has no effect.
///
/// @param dtype the type of the weights
/// @param changes one for each parameter that the adapters change, in model order
public record MergeReport(DType dtype, List<Change> changes) {
    /// One parameter.
    ///
    /// @param parameter its name in the base model
    /// @param norm ‖Δ‖, Frobenius
    /// @param relative ‖Δ‖ / ‖W‖
    /// @param lost the fraction of Δ that is lost to rounding
    public record Change(String parameter, double norm, double relative, double lost) {
        /// Compares `before`, the present parameter, with `after`, its merged value; both row-major and in full
        /// precision.
        static Change of(String parameter, Tensor before, Tensor after, DType dtype) {
            double[] sums = new double[3];
            before.withElements(b -> after.withElements(a -> {
                for (long i = 0; i < before.shape().size(); i++) {
                    double w = HostBuffer.get(b, before.dtype(), i);
                    double next = HostBuffer.get(a, after.dtype(), i);
                    double delta = next - w;
                    double missing = rounded(next, dtype) - rounded(w, dtype) - delta;
                    sums[0] += w * w;
                    sums[1] += delta * delta;
                    sums[2] += missing * missing;
                }
            }));
            double norm = Math.sqrt(sums[1]);
            return new Change(parameter, norm, share(norm, Math.sqrt(sums[0])), share(Math.sqrt(sums[2]), norm));
        }

        private static double share(double part, double whole) {
            return part == 0 ? 0 : part / whole;
        }

        private static double rounded(double value, DType dtype) {
            return switch (dtype) {
                case F64 -> value;
                case F32 -> (float) value;
                case BF16 -> Float.intBitsToFloat(HostBuffer.toBf16((float) value) << 16);
                case F16 -> Float.float16ToFloat(Float.floatToFloat16((float) value));
                case I8, I32 -> throw new IllegalArgumentException("merge: weights of " + dtype + " cannot be merged");
            };
        }
    }

    public MergeReport {
        changes = List.copyOf(changes);
    }

    /// The fraction of all updates together that is lost to rounding.
    public double lost() {
        double missing = 0;
        double all = 0;
        for (Change c : changes) {
            missing += c.lost * c.lost * c.norm * c.norm;
            all += c.norm * c.norm;
        }
        return all == 0 ? 0 : Math.sqrt(missing / all);
    }

    /// A table with one line per parameter.
    @Override
    public String toString() {
        StringBuilder table = new StringBuilder(String.format(
                Locale.ROOT, "merged into %s: rounding loses %.3f %% of the update%n", dtype, 100 * lost()));
        for (Change c : changes) {
            table.append(String.format(
                    Locale.ROOT,
                    "%-60s change %.3e of the weight, lost %.3f %%%n",
                    c.parameter,
                    c.relative,
                    100 * c.lost));
        }
        return table.toString();
    }
}
