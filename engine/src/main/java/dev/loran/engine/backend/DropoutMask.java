package dev.loran.engine.backend;

/// A dropout mask that is never stored: which elements are kept follows from a counter alone, so backward can
/// regenerate it, and every backend produces the same bits with any number of threads.
///
/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the key (low, high half
/// of `seed`) and the counter (micro-step, `site`, row, column / 4) gives four 32-bit words; word `column % 4` decides:
/// an element is kept iff the word, unsigned, is at least floor(p · 2³²). Kept elements are scaled by 1 / (1 − p).
///
/// @param p probability of dropping an element, 0 ≤ p < 1
/// @param seed key of the whole run
/// @param site number of the dropout's place in the model, so that two dropouts in one step differ
/// @param microStep (1) I32: number of the micro-batch, written by the trainer before each forward
public record DropoutMask(double p, long seed, int site, Buffer microStep) {
    private static final int M0 = 0xD2511F53;
    private static final int M1 = 0xCD9E8D57;
    private static final int W0 = 0x9E3779B9;
    private static final int W1 = 0xBB67AE85;

    public DropoutMask {
        if (!(p >= 0 && p < 1)) {
            throw new IllegalArgumentException("dropout: p must be in [0, 1), got " + p);
        }
        if (microStep.dtype() != DType.I32 || microStep.size() != 1) {
            throw new IllegalArgumentException("dropout: microStep is " + microStep.size() + " of " + microStep.dtype()
                    + ", needs one element of I32");
        }
    }

    /// floor(p · 2³²), as an unsigned int: words below it are dropped.
    public int threshold() {
        return (int) (long) Math.floor(p * 4294967296.0);
    }

    /// The factor applied to kept elements, 1 / (1 − p).
    public double scale() {
        return 1 / (1 - p);
    }

    /// Whether element (`row`, `column`) is kept in micro-step `step`.
    public boolean keeps(int step, int row, int column) {
        int word = philox(step, site, row, column >>> 2, (int) seed, (int) (seed >>> 32), column & 3);
        return Integer.compareUnsigned(word, threshold()) >= 0;
    }

    /// Word `lane` of Philox4x32-10 for a counter and a key: the scalar specification of every backend's mask.
    public static int philox(int c0, int c1, int c2, int c3, int k0, int k1, int lane) {
        for (int round = 0; round < 10; round++) {
            long p0 = (M0 & 0xffffffffL) * (c0 & 0xffffffffL);
            long p1 = (M1 & 0xffffffffL) * (c2 & 0xffffffffL);
            int n0 = (int) (p1 >>> 32) ^ c1 ^ k0;
            int n2 = (int) (p0 >>> 32) ^ c3 ^ k1;
            c1 = (int) p1;
            c3 = (int) p0;
            c0 = n0;
            c2 = n2;
            k0 += W0;
            k1 += W1;
        }
        return switch (lane) {
            case 0 -> c0;
            case 1 -> c1;
            case 2 -> c2;
            default -> c3;
        };
    }
}
