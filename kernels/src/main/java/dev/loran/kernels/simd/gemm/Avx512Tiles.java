package dev.loran.kernels.simd.gemm;

import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.machine.Assembler;
import dev.loran.kernels.simd.machine.Assembler.Gp;
import dev.loran.kernels.simd.machine.Assembler.Mem;
import dev.loran.kernels.simd.machine.MachineCode;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import org.jspecify.annotations.Nullable;

/// AVX512-BF16 through hand-written machine code, because the Vector API has no such instruction: a 32-bit lane holds a
/// pair along k from a row of A or a column of B, and both products are added to an F32.
public final class Avx512Tiles implements Bf16Tiles.Native {
    /// Rows of a tile: 8 x 3 accumulators, 3 vectors of B and one of A use 28 of 32 registers.
    private static final int ROWS = 8;

    private static final int VECTORS = 3;

    /// The largest number of adjacent vectors in which rows are paired.
    public static final int PAIRED = 4;

    /// A panel of a block of k takes 96 KiB.
    private static final Sizes SIZES = new Sizes(ROWS, VECTORS * V, V, 2, 1024, 2, GemmSimd.TASK_ROWS);

    /// Says what prevents the use of AVX512-BF16 on this machine; null if nothing does.
    public static @Nullable String obstacle() {
        return MachineCode.obstacle("avx512f", "avx512_bf16");
    }

    @Override
    public Sizes sizes() {
        return SIZES;
    }

    /// Initialized when a product is first requested. Holds the code addresses, for tiles by the number of vectors and
    /// by whether they add to C.
    private static final class Code {
        private static final MethodHandle TILES = MachineCode.function(7);

        private static final MethodHandle ROUND = MachineCode.function(6);

        private static final MethodHandle PAIRS = MachineCode.function(6);

        private static final MethodHandle DOTS = MachineCode.function(1);

        private static final MemorySegment[] PAIRS_CODE = new MemorySegment[PAIRED + 1];
        private static final MemorySegment INTERLEAVED = interleaved(Arena.global());
        private static final MemorySegment ZEROS = Arena.global().allocate(4L * V * PAIRED, 64);

        private static final MemorySegment[] TILE = new MemorySegment[2 * (VECTORS + 1)];
        private static final MemorySegment ROUND_CODE = MachineCode.load(round());
        private static final MemorySegment DOTS_CODE = MachineCode.load(dotLoop());

        static {
            for (int vectors = 1; vectors <= VECTORS; vectors++) {
                TILE[2 * vectors] = MachineCode.load(tiles(vectors, false));
                TILE[2 * vectors + 1] = MachineCode.load(tiles(vectors, true));
            }
            for (int vectors = 1; vectors <= PAIRED; vectors++) {
                PAIRS_CODE[vectors] = MachineCode.load(pairs(vectors));
            }
        }
    }

    /// `void tiles(float *c, long ldc, bf16 *a, long lda, bf16 *b, long pairs, long count)`: `count` tiles of 8 rows,
    /// one below the other, c = a · b or c += a · b; `ldc` and `lda` in bytes; `pairs` along k, at least 1.
    public static byte[] tiles(int vectors, boolean onto) {
        Assembler asm = new Assembler();
        int columnsOfB = ROWS * vectors;
        int rowOfA = columnsOfB + vectors;
        asm.push(Gp.RBX);
        asm.push(Gp.RBP);
        // count is the seventh argument: above two saved registers and the return address.
        asm.move(Gp.R10, Mem.at(Gp.RSP, 24));
        asm.address(Gp.RAX, Mem.at(Gp.RCX, Gp.RCX, 2));
        asm.address(Gp.RBX, Mem.at(Gp.RCX, Gp.RCX, 4));
        asm.address(Gp.RBP, Mem.at(Gp.RBX, Gp.RCX, 2));
        Mem[] rows = {
            Mem.at(Gp.RDX),
            Mem.at(Gp.RDX, Gp.RCX, 1),
            Mem.at(Gp.RDX, Gp.RCX, 2),
            Mem.at(Gp.RDX, Gp.RAX, 1),
            Mem.at(Gp.RDX, Gp.RCX, 4),
            Mem.at(Gp.RDX, Gp.RBX, 1),
            Mem.at(Gp.RDX, Gp.RAX, 2),
            Mem.at(Gp.RDX, Gp.RBP, 1)
        };
        int tile = asm.here();
        asm.push(Gp.RDI);
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < vectors; j++) {
                if (onto) {
                    asm.load(i * vectors + j, Mem.at(Gp.RDI, 64 * j));
                } else {
                    asm.zero(i * vectors + j);
                }
            }
            asm.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1));
        }
        asm.pop(Gp.RDI);
        asm.push(Gp.RDX);
        asm.push(Gp.R8);
        asm.move(Gp.R11, Gp.R9);
        int pair = asm.here();
        for (int j = 0; j < vectors; j++) {
            asm.load(columnsOfB + j, Mem.at(Gp.R8, 64 * j));
        }
        for (int i = 0; i < ROWS; i++) {
            asm.broadcast(rowOfA, rows[i]);
            for (int j = 0; j < vectors; j++) {
                asm.dotBf16(i * vectors + j, rowOfA, columnsOfB + j);
            }
        }
        asm.add(Gp.RDX, 4);
        asm.add(Gp.R8, 64 * vectors);
        asm.decrement(Gp.R11);
        asm.jumpIfNotZero(pair);
        asm.pop(Gp.R8);
        asm.pop(Gp.RDX);
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < vectors; j++) {
                asm.store(Mem.at(Gp.RDI, 64 * j), i * vectors + j);
            }
            asm.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1));
        }
        asm.address(Gp.RDX, Mem.at(Gp.RDX, Gp.RCX, 8));
        asm.decrement(Gp.R10);
        asm.jumpIfNotZero(tile);
        asm.vzeroupper();
        asm.pop(Gp.RBP);
        asm.pop(Gp.RBX);
        asm.ret();
        return asm.bytes();
    }

    /// `void dotLoop(long rounds)`: each round adds a dot product to each of the accumulators of a tile.
    public static byte[] dotLoop() {
        Assembler asm = new Assembler();
        int accumulators = ROWS * VECTORS;
        for (int i = 0; i <= accumulators; i++) {
            asm.zero(i);
        }
        int round = asm.here();
        for (int i = 0; i < accumulators; i++) {
            asm.dotBf16(i, accumulators, accumulators);
        }
        asm.decrement(Gp.RDI);
        asm.jumpIfNotZero(round);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    @Override
    public long dots() {
        // Half a millisecond per call, because the garbage collector waits while it runs.
        long rounds = 50_000;
        int calls = 1_000;
        try {
            for (int i = 0; i < calls; i++) {
                Code.DOTS.invokeExact(Code.DOTS_CODE, rounds);
            }
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
        return calls * rounds * ROWS * VECTORS * V * 4;
    }

    /// `void round(bf16 *y, long yStep, float *x, long ldx, long rows, long vectors)`: rounds rows of 16 · vectors
    /// elements; `yStep` and `ldx` in bytes; `rows` and `vectors` at least 1.
    public static byte[] round() {
        Assembler asm = new Assembler();
        int row = asm.here();
        asm.address(Gp.R10, Mem.at(Gp.RDI, Gp.RSI, 1));
        asm.address(Gp.R11, Mem.at(Gp.RDX, Gp.RCX, 1));
        asm.move(Gp.RAX, Gp.R9);
        int vector = asm.here();
        asm.toBf16(0, Mem.at(Gp.RDX));
        asm.storeHalf(Mem.at(Gp.RDI), 0);
        asm.add(Gp.RDX, 64);
        asm.add(Gp.RDI, 32);
        asm.decrement(Gp.RAX);
        asm.jumpIfNotZero(vector);
        asm.move(Gp.RDI, Gp.R10);
        asm.move(Gp.RDX, Gp.R11);
        asm.decrement(Gp.R8);
        asm.jumpIfNotZero(row);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    /// `void pairs(pair *y, long yStep, float *x, long ldx, long pairs, short *interleaved)`: writes rows of 16 ·
    /// vectors BF16 pairs, each made from two adjacent rows of x; `yStep` and `ldx` in bytes; `pairs` at least 1.
    public static byte[] pairs(int vectors) {
        Assembler asm = new Assembler();
        int order = 31;
        asm.load(order, Mem.at(Gp.R9));
        int loop = asm.here();
        asm.address(Gp.R10, Mem.at(Gp.RDX, Gp.RCX, 1));
        for (int j = 0; j < vectors; j++) {
            asm.load(2 * j, Mem.at(Gp.RDX, 64 * j));
            asm.load(2 * j + 1, Mem.at(Gp.R10, 64 * j));
            asm.toBf16(2 * j, 2 * j + 1, 2 * j);
            asm.permuteHalves(2 * j, order, 2 * j);
            asm.store(Mem.at(Gp.RDI, 64 * j), 2 * j);
        }
        asm.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1));
        asm.address(Gp.RDX, Mem.at(Gp.R10, Gp.RCX, 1));
        asm.decrement(Gp.R8);
        asm.jumpIfNotZero(loop);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    /// 0, 16, 1, 17 … 15, 31: the permutation that interleaves the halves of a vector.
    public static MemorySegment interleaved(Arena arena) {
        MemorySegment order = arena.allocate(64, 64);
        for (int i = 0; i < 2 * V; i++) {
            order.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (i / 2 + i % 2 * V));
        }
        return order;
    }

    @Override
    public void run(Operand c, Left a, Right b, int tiles, boolean onto) {
        try {
            Code.TILES.invokeExact(
                    Code.TILE[2 * b.width() / V + (onto ? 1 : 0)],
                    c.memory().address() + c.offset(),
                    4L * c.ld(),
                    a.memory().address() + a.offset(),
                    a.stride(),
                    b.memory().address() + b.offset(),
                    b.k() / 2L,
                    (long) tiles);
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
    }

    /// y (pairs, 16 · vectors) ← the pairs made from 2 · pairs rows of x, rounded as in [#convert]; strides in bytes.
    public static void convertPairs(
            MemorySegment y, long yOff, long yStep, MemorySegment x, long xOff, long ldx, int pairs, int vectors) {
        pairs(y.address() + yOff, yStep, x.address() + xOff, ldx, pairs, vectors);
    }

    /// y (16 · vectors) ← the pairs made from a row of x and a row of zeros.
    public static void convertLast(MemorySegment y, long yOff, MemorySegment x, long xOff, int vectors) {
        long row = x.address() + xOff;
        pairs(y.address() + yOff, 0, row, Code.ZEROS.address() - row, 1, vectors);
    }

    private static void pairs(long y, long yStep, long x, long ldx, long pairs, int vectors) {
        try {
            Code.PAIRS.invokeExact(Code.PAIRS_CODE[vectors], y, yStep, x, ldx, pairs, Code.INTERLEAVED.address());
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
    }

    /// y (rows, 16 · vectors) ← x rounded to BF16, to nearest even, with subnormals becoming zero; strides in bytes.
    public static void convert(
            MemorySegment y, long yOff, long yStep, MemorySegment x, long xOff, long ldx, int rows, int vectors) {
        try {
            Code.ROUND.invokeExact(
                    Code.ROUND_CODE, y.address() + yOff, yStep, x.address() + xOff, ldx, (long) rows, (long) vectors);
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
    }
}
