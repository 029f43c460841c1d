package dev.loran.engine.backend;

/// Functions of one number, applied element-wise. The derivative is expressed in terms of the input x.
public enum UnaryFn {
    /// −x
    NEG,
    /// |x|; derivative sign(x), 0 at 0
    ABS,
    /// eˣ
    EXP,
    /// ln x
    LOG,
    /// √x
    SQRT,
    /// 1 / √x
    RSQRT,
    /// 1 / x
    RECIPROCAL,
    /// x²
    SQUARE,
    /// max(x, 0); derivative 0 at 0 (torch's choice)
    RELU,
    /// x · Φ(x) with the exact error function (Hendrycks and Gimpel, 2016; torch's `gelu`, Hugging Face's `gelu`)
    GELU,
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hugging Face's `gelu_new`, `gelu_pytorch_tanh`)
    GELU_TANH,
    /// x · σ(x) (Hugging Face's `silu`, also called swish)
    SILU,
    /// tanh x
    TANH,
    /// σ(x) = 1 / (1 + e⁻ˣ)
    SIGMOID;

    private static final double SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
    private static final double GELU_CUBIC = 0.044715;

    /// f(x) in double precision: the specification.
    public double apply(double x) {
        return switch (this) {
            case NEG -> -x;
            case ABS -> Math.abs(x);
            case EXP -> Math.exp(x);
            case LOG -> Math.log(x);
            case SQRT -> Math.sqrt(x);
            case RSQRT -> 1 / Math.sqrt(x);
            case RECIPROCAL -> 1 / x;
            case SQUARE -> x * x;
            case RELU -> Math.max(x, 0);
            case GELU -> 0.5 * x * erfc(-x / Math.sqrt(2));
            case GELU_TANH -> 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)));
            case SILU -> x / (1 + Math.exp(-x));
            case TANH -> Math.tanh(x);
            case SIGMOID -> 1 / (1 + Math.exp(-x));
        };
    }

    /// f′(x) in double precision: the specification.
    public double derivative(double x) {
        return switch (this) {
            case NEG -> -1;
            case ABS -> Math.signum(x);
            case EXP -> Math.exp(x);
            case LOG -> 1 / x;
            case SQRT -> 0.5 / Math.sqrt(x);
            case RSQRT -> -0.5 / (x * Math.sqrt(x));
            case RECIPROCAL -> -1 / (x * x);
            case SQUARE -> 2 * x;
            case RELU -> x > 0 ? 1 : 0;
            case GELU -> 0.5 * erfc(-x / Math.sqrt(2)) + x * Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
            case GELU_TANH -> {
                double t = Math.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x));
                yield 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x);
            }
            case SILU -> {
                double s = 1 / (1 + Math.exp(-x));
                yield s * (1 + x * (1 - s));
            }
            case TANH -> 1 - Math.tanh(x) * Math.tanh(x);
            case SIGMOID -> {
                double s = 1 / (1 + Math.exp(-x));
                yield s * (1 - s);
            }
        };
    }

    /// The complementary error function in double precision: the Maclaurin series near 0, and the continued fraction
    /// (Abramowitz and Stegun 7.1.14, evaluated from the tail) elsewhere.
    static double erfc(double x) {
        double z = Math.abs(x);
        double tail;
        if (z < 2) {
            double term = z;
            double sum = z;
            for (int n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
                term *= -z * z / n;
                sum += term / (2 * n + 1);
            }
            tail = 1 - 2 / Math.sqrt(Math.PI) * sum;
        } else if (z > 27) {
            tail = 0;
        } else {
            double f = z;
            for (int n = 120; n >= 1; n--) {
                f = z + n / 2.0 / f;
            }
            tail = Math.exp(-z * z) / Math.sqrt(Math.PI) / f;
        }
        return x < 0 ? 2 - tail : tail;
    }
}
