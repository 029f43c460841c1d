package dev.loran.engine.backend;

/// Functions of two numbers, applied element-wise with broadcasting.
public enum BinaryFn {
    /// a + b
    ADD,
    /// a − b
    SUB,
    /// a · b
    MUL,
    /// a / b
    DIV,
    /// max(a, b)
    MAX;

    /// f(a, b) in double precision: the specification.
    public double apply(double a, double b) {
        return switch (this) {
            case ADD -> a + b;
            case SUB -> a - b;
            case MUL -> a * b;
            case DIV -> a / b;
            case MAX -> Math.max(a, b);
        };
    }
}
