package dev.loran.engine.backend;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// The only kind of buffer on the CPU: a native [MemorySegment], 64-byte aligned if allocated by a backend.
public final class HostBuffer extends Buffer {
    private final MemorySegment segment;
    private final @Nullable Consumer<HostBuffer> onFree;

    /// `onFree` is called once, with this buffer, when the last reference is released.
    public HostBuffer(Backend backend, DType dtype, MemorySegment segment, Consumer<HostBuffer> onFree) {
        super(backend, dtype, segment.byteSize() / dtype.bytes());
        this.segment = segment;
        this.onFree = onFree;
    }

    private HostBuffer(HostBuffer root, MemorySegment segment) {
        super(root, segment.byteSize() / root.dtype().bytes());
        this.segment = segment;
        this.onFree = null;
    }

    /// Returns the memory of `buffer`, which must be on the host and live.
    public static MemorySegment segment(Buffer buffer) {
        if (!(buffer instanceof HostBuffer host)) {
            throw new BackendException(
                    "buffer: not host memory, but " + buffer.getClass().getSimpleName());
        }
        if (!buffer.isLive()) {
            throw new BackendException("buffer: used after its last release (" + buffer.dtype() + ", " + buffer.size()
                    + " elements); keep it in a scope or retain it");
        }
        return host.segment;
    }

    @Override
    public HostBuffer slice(long offset, long size) {
        int b = dtype().bytes();
        return new HostBuffer(this, segment.asSlice(offset * b, size * b));
    }

    @Override
    protected void free() {
        if (onFree != null) {
            onFree.accept(this);
        }
    }

    /// Returns element `i` of an F64, F32, BF16, F16, I8 or I32 segment, widened to double. Meant for reference code
    /// and tests, not for performance-critical loops.
    public static double get(MemorySegment s, DType dtype, long i) {
        return switch (dtype) {
            case F64 -> s.getAtIndex(ValueLayout.JAVA_DOUBLE_UNALIGNED, i);
            case F32 -> s.getAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, i);
            case BF16 -> Float.intBitsToFloat(s.getAtIndex(ValueLayout.JAVA_SHORT_UNALIGNED, i) << 16);
            case F16 -> Float.float16ToFloat(s.getAtIndex(ValueLayout.JAVA_SHORT_UNALIGNED, i));
            case I8 -> s.get(ValueLayout.JAVA_BYTE, i);
            case I32 -> s.getAtIndex(ValueLayout.JAVA_INT_UNALIGNED, i);
        };
    }

    /// Stores `value` as element `i`, rounded to nearest even if the dtype is narrower.
    public static void set(MemorySegment s, DType dtype, long i, double value) {
        switch (dtype) {
            case F64 -> s.setAtIndex(ValueLayout.JAVA_DOUBLE_UNALIGNED, i, value);
            case F32 -> s.setAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, i, (float) value);
            case BF16 -> s.setAtIndex(ValueLayout.JAVA_SHORT_UNALIGNED, i, toBf16((float) value));
            case F16 -> s.setAtIndex(ValueLayout.JAVA_SHORT_UNALIGNED, i, Float.floatToFloat16((float) value));
            case I8 -> s.set(ValueLayout.JAVA_BYTE, i, (byte) value);
            case I32 -> s.setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, i, (int) value);
        }
    }

    /// The upper half of a float, rounded to nearest even; NaN stays NaN.
    public static short toBf16(float value) {
        int bits = Float.floatToRawIntBits(value);
        if (Float.isNaN(value)) {
            return (short) ((bits >>> 16) | 0x40);
        }
        return (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
    }
}
