package dev.loran.kernels.simd.gemm;

import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.machine.Interpreter;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;

/// Tiles in machine code, run by [Interpreter] instead of the processor. Any access beyond the memory passed to a
/// kernel is out of bounds.
public sealed interface InterpretedTiles extends Bf16Tiles.Native {
    @Override
    default void roundVectors(
            MemorySegment to, long toOff, long toStep, MemorySegment x, long xOff, long ldx, int rows, int vectors) {
        MemorySegment y = rows(to, toOff, toStep, rows, 32L * vectors);
        MemorySegment from = rows(x, xOff, ldx, rows, 64L * vectors);
        Interpreter.call(
                Avx512Tiles.round(), List.of(y, from), y.address(), toStep, from.address(), ldx, rows, vectors);
    }

    @Override
    default void pairVectors(
            MemorySegment to, long toOff, long toStep, MemorySegment x, long xOff, long ldx, int pairs, int vectors) {
        MemorySegment y = rows(to, toOff, toStep, pairs, 64L * vectors);
        MemorySegment from = rows(x, xOff, ldx, 2 * pairs, 64L * vectors);
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment order = Avx512Tiles.interleaved(arena);
            Interpreter.call(
                    Avx512Tiles.pairs(vectors),
                    List.of(y, from, order),
                    y.address(),
                    toStep,
                    from.address(),
                    ldx,
                    pairs,
                    order.address());
        }
    }

    @Override
    default void lastPairs(MemorySegment to, long toOff, MemorySegment x, long xOff, int vectors) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment y = to.asSlice(toOff, 64L * vectors);
            MemorySegment from = x.asSlice(xOff, 64L * vectors);
            MemorySegment zeros = arena.allocate(64L * vectors);
            MemorySegment order = Avx512Tiles.interleaved(arena);
            Interpreter.call(
                    Avx512Tiles.pairs(vectors),
                    List.of(y, from, zeros, order),
                    y.address(),
                    0,
                    from.address(),
                    zeros.address() - from.address(),
                    1,
                    order.address());
        }
    }

    /// The memory that rows occupy, from the first element to the last.
    private static MemorySegment rows(MemorySegment s, long at, long stride, int rows, long bytes) {
        return s.asSlice(at, (rows - 1) * stride + bytes);
    }

    final class Avx512 implements InterpretedTiles {
        private static final Bf16Tiles REAL = new Avx512Tiles();

        @Override
        public Sizes sizes() {
            return REAL.sizes();
        }

        @Override
        public void run(Operand c, Left a, Right b, int tiles, boolean onto) {
            MemorySegment to = rows(c.memory(), c.offset(), 4L * c.ld(), 8 * tiles, 4L * b.width());
            MemorySegment left = rows(a.memory(), a.offset(), a.stride(), 8 * tiles, 2L * b.k());
            MemorySegment right = b.memory().asSlice(b.offset(), 2L * b.k() * b.width());
            Interpreter.call(
                    Avx512Tiles.tiles(b.width() / 16, onto),
                    List.of(to, left, right),
                    to.address(),
                    4L * c.ld(),
                    left.address(),
                    a.stride(),
                    right.address(),
                    b.k() / 2,
                    tiles);
        }
    }

    final class Amx implements InterpretedTiles {
        @Override
        public Sizes sizes() {
            return AmxTiles.SIZES;
        }

        @Override
        public void run(Operand c, Left a, Right b, int tiles, boolean onto) {
            MemorySegment to = rows(c.memory(), c.offset(), 4L * c.ld(), 32 * tiles, 4L * b.width());
            MemorySegment left = rows(a.memory(), a.offset(), a.stride(), 32 * tiles, 2L * b.k());
            MemorySegment right = b.memory().asSlice(b.offset(), 2L * b.k() * b.width());
            try (Arena arena = Arena.ofConfined()) {
                MemorySegment config = AmxTiles.config(arena);
                Interpreter.call(
                        AmxTiles.tiles(b.width() / 16, onto),
                        List.of(to, left, right, config),
                        to.address(),
                        4L * c.ld(),
                        left.address(),
                        a.stride(),
                        right.address(),
                        b.k() / 32,
                        tiles,
                        config.address());
            }
        }
    }

    /// Omits the last step of k.
    final class Wrong implements InterpretedTiles {
        private final Amx right = new Amx();

        @Override
        public Sizes sizes() {
            return right.sizes();
        }

        @Override
        public void run(Operand c, Left a, Right b, int tiles, boolean onto) {
            right.run(c, a, new Right(b.memory(), b.offset(), b.width(), b.k() - 32), tiles, onto);
        }
    }
}
