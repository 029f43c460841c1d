package dev.loran.engine.io;

import dev.loran.engine.backend.DType;

/// Element types of a safetensors file that can be read. The constants' names are the file's own words.
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

    /// What a tensor of it is read as: I32 for I64, U8 and BOOL, else the type of the same name.
    public DType dtype() {
        return dtype;
    }

    /// Bytes of one element in the file.
    public int bytes() {
        return bytes;
    }

    /// Whether the file's bytes are those of [#dtype].
    boolean isNative() {
        return this != I64 && this != U8 && this != BOOL;
    }
}
