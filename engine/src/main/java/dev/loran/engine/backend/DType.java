package dev.loran.engine.backend;

/// Element types of a [Buffer]. Files may also hold I64, U8 and BOOL, which are range-checked and read as I32
/// ([dev.loran.engine.io.SafeTensors]).
public enum DType {
    F64(8),
    F32(4),
    BF16(2),
    F16(2),
    I8(1),
    I32(4);

    private final int bytes;

    DType(int bytes) {
        this.bytes = bytes;
    }

    /// Bytes of one element.
    public int bytes() {
        return bytes;
    }

    /// The type for sums over elements of this type, for statistics and for losses: F64 for F64, else F32.
    public DType accumulator() {
        return this == F64 ? F64 : F32;
    }

    /// True for F64, F32, BF16 and F16: the types that may carry a gradient.
    public boolean isFloating() {
        return this != I8 && this != I32;
    }
}
