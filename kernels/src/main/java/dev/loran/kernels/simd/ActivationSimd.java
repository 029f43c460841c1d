package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.engine.backend.ActivationKernels;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.VectorMath;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import org.jspecify.annotations.Nullable;

/// silu(gate) · up, the gate of Llama's feed-forward network, and its two gradients in one pass (Shazeer, 2020); other
/// activations use the composed defaults.
record ActivationSimd(Backend backend, Parallel parallel) implements ActivationKernels {
    /// Bytes of a vector.
    private static final long VB = 4L * V;

    @Override
    public void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        if (fn == UnaryFn.SILU) {
            forward(parallel, f32(y), f32(gate), f32(up), y.size());
        } else {
            ActivationKernels.super.gated(fn, y, gate, up);
        }
    }

    @Override
    public void gatedBackward(
            UnaryFn fn, @Nullable Gradient dGate, @Nullable Gradient dUp, Buffer dy, Buffer gate, Buffer up) {
        boolean fused = fn == UnaryFn.SILU && !Gradient.accumulates(dGate) && !Gradient.accumulates(dUp);
        if (fused && dGate != null && dUp != null) {
            backward(parallel, f32(dGate.buffer()), f32(dUp.buffer()), f32(dy), f32(gate), f32(up), dy.size());
        } else {
            ActivationKernels.super.gatedBackward(fn, dGate, dUp, dy, gate, up);
        }
    }

    /// y = silu(gate) · up, `n` elements.
    private static void forward(Parallel parallel, MemorySegment y, MemorySegment gate, MemorySegment up, long n) {
        long whole = n - n % V;
        Vectors.forChunks(parallel, whole, (at, size) -> forward(y, gate, up, at, size));
        if (whole < n) {
            MemorySegment last = rest(parallel, 4 * whole, 4 * n, gate, up);
            forward(last, last, last.asSlice(VB), 0, V);
            MemorySegment.copy(last, 0, y, 4 * whole, 4 * (n - whole));
        }
    }

    private static void forward(MemorySegment y, MemorySegment gate, MemorySegment up, long at, int n) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector g = load(gate, a);
            store(y, a, g.mul(VectorMath.sigmoid(g)).mul(load(up, a)));
        }
    }

    /// dGate ← dy · up · silu′(gate) and dUp ← dy · silu(gate), `n` elements.
    private static void backward(
            Parallel parallel,
            MemorySegment dGate,
            MemorySegment dUp,
            MemorySegment dy,
            MemorySegment gate,
            MemorySegment up,
            long n) {
        long whole = n - n % V;
        Vectors.forChunks(parallel, whole, (at, size) -> backward(dGate, dUp, dy, gate, up, at, size));
        if (whole < n) {
            MemorySegment last = rest(parallel, 4 * whole, 4 * n, gate, up, dy);
            backward(last, last.asSlice(VB), last.asSlice(2 * VB), last, last.asSlice(VB), 0, V);
            MemorySegment.copy(last, 0, dGate, 4 * whole, 4 * (n - whole));
            MemorySegment.copy(last, VB, dUp, 4 * whole, 4 * (n - whole));
        }
    }

    /// Uses a single exponential, e = e^−|gate|, for both gradients: silu′ = σ(g) · (1 + g · σ(−g)).
    private static void backward(
            MemorySegment dGate,
            MemorySegment dUp,
            MemorySegment dy,
            MemorySegment gate,
            MemorySegment up,
            long at,
            int n) {
        for (int i = 0; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector g = load(gate, a);
            FloatVector u = load(up, a);
            FloatVector d = load(dy, a);
            FloatVector e = VectorMath.expOfMinusAbs(g);
            FloatVector of = VectorMath.ONE.div(e.add(VectorMath.ONE));
            FloatVector ofMinus = e.mul(of);
            var negative = g.compare(VectorOperators.LT, VectorMath.ZERO);
            FloatVector sigmoid = of.blend(ofMinus, negative);
            FloatVector slope = sigmoid.mul(ofMinus.blend(of, negative).fma(g, VectorMath.ONE));
            FloatVector dGateHere = d.mul(u).mul(slope);
            store(dUp, a, d.mul(g.mul(sigmoid)));
            store(dGate, a, dGateHere);
        }
    }

    /// Returns memory that holds, for each of `parts`, the elements from byte `from` to byte `to`, one vector apart.
    private static MemorySegment rest(Parallel parallel, long from, long to, MemorySegment... parts) {
        MemorySegment memory = parallel.workspace().segment(Slot.TILE, parts.length * VB);
        for (int i = 0; i < parts.length; i++) {
            MemorySegment.copy(parts[i], from, memory, i * VB, to - from);
        }
        return memory;
    }
}
