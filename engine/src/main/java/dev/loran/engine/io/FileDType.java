package dev.loran.engine.io;

import dev.loran.engine.backend.DType;

/// Element types that can be read from a safetensors file. The constants are named as in the file format.
public enum FileDType {
    F64(DType.F64, 8),
    F32(DType.F32, 4),
    BF16(DType.BF16, 2),
    F16(DType.F16, 2),
    I64(DType.I32, 8),
    I32(DType.I32, 4),
    I8(DType.I8, 1),
    U8(DType.I32, 1),
    BOOL(DType.I32, 1);

    private final DType dtype;
    private final int bytes;

    FileDType(DType dtype, int bytes) {
        this.dtype = dtype;
        this.bytes = bytes;
    }

    /// The dtype that a tensor of this type is read as: I32 for I64, U8 and BOOL, else the dtype of the same name.
    public DType dtype() {
        return dtype;
    }

    /// Bytes of one element in the file.
    public int bytes() {
        return bytes;
    }

    /// Whether the bytes in the file have the same format as [#dtype].
    boolean isNative() {
        return this != I64 && this != U8 && this != BOOL;
    }
}
