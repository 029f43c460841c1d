package dev.loran.kernels.cuda;

import jcuda.Pointer;

/// An address that JCuda takes as a pointer.
final class Address extends Pointer {
    Address(long address) {
        super(address);
    }

    long value() {
        return getNativePointer() + getByteOffset();
    }
}
