package dev.loran.kernels.simd.gemm;

import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.machine.Assembler;
import dev.loran.kernels.simd.machine.Assembler.Gp;
import dev.loran.kernels.simd.machine.Assembler.Mem;
import dev.loran.kernels.simd.machine.MachineCode;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import org.jspecify.annotations.Nullable;

/// The tiles of [NarrowTiles] in machine code, for AVX2: the same sums in the same order, and so the same bits.
///
/// What it gains is that nothing stands between the multiply-adds, whatever C2 makes of the loop in [NarrowTiles], and
/// that one call computes all tiles below each other with the same panel.
public final class FmaTiles {
    /// Rows of a tile: 6 x 2 accumulators, 2 vectors of B and one of A use 15 of 16 registers.
    private static final int ROWS = 6;

    private static final int VECTORS = 2;
    private static final int V = 8;
    private static final int BYTES = 4 * V;

    /// Steps along k in an iteration of the loop.
    private static final int UNROLLED = 4;

    private FmaTiles() {}

    /// Says what prevents the use of these tiles on this machine; null if nothing does.
    public static @Nullable String obstacle() {
        return GemmTiles.V == V && GemmTiles.ROWS == ROWS
                ? MachineCode.obstacle("avx2", "fma")
                : "vectors have " + GemmTiles.V + " floats";
    }

    /// Whether these tiles are used on this machine.
    static boolean available() {
        return Choice.AVAILABLE;
    }

    /// Initialized on first use.
    private static final class Choice {
        private static final boolean AVAILABLE = obstacle() == null;
    }

    /// Initialized when a product is first requested. Holds the code addresses by the number of rows and vectors of a
    /// tile, and whether it adds to C.
    private static final class Code {
        private static final MethodHandle TILES = MachineCode.function(9);
        private static final MethodHandle LOOP = MachineCode.function(1);
        private static final MemorySegment LOOP_CODE = MachineCode.load(multiplyAddLoop());
        private static final MemorySegment[] TILE = new MemorySegment[4 * (ROWS + 1)];
        private static final MethodHandle WIDENING = MachineCode.function(3);
        private static final MemorySegment[] WIDEN = new MemorySegment[VECTORS + 1];

        static {
            for (int vectors = 1; vectors <= VECTORS; vectors++) {
                WIDEN[vectors] = MachineCode.load(widening(vectors));
            }
            for (int rows = 1; rows <= ROWS; rows++) {
                for (int vectors = 1; vectors <= VECTORS; vectors++) {
                    TILE[at(rows, vectors, false)] = MachineCode.load(tiles(rows, vectors, false));
                    TILE[at(rows, vectors, true)] = MachineCode.load(tiles(rows, vectors, true));
                }
            }
        }

        private static int at(int rows, int vectors, boolean onto) {
            return 4 * rows + 2 * (vectors - 1) + (onto ? 1 : 0);
        }
    }

    /// `void tiles(float *c, long ldc, float *a, long lda, float *b, long ldb, long quads, long rest, long count)`:
    /// `count` tiles, one below the other, c = a · b or c += a · b, over 4 · quads + rest steps along k; `ldc`, `lda` and
    /// `ldb` in bytes.
    static byte[] tiles(int rows, int vectors, boolean onto) {
        Assembler asm = new Assembler();
        int columnsOfB = rows * vectors;
        int rowOfA = columnsOfB + vectors;
        asm.push(Gp.RBX);
        // The seventh to ninth arguments: above a saved register and the return address.
        Mem count = Mem.at(Gp.RSP, 32);
        asm.move(Gp.R10, count);
        asm.address(Gp.RAX, Mem.at(Gp.RCX, Gp.RCX, 2));
        asm.address(Gp.RBX, Mem.at(Gp.RCX, Gp.RCX, 4));
        int tile = asm.here();
        asm.push(Gp.RDI);
        for (int i = 0; i < rows; i++) {
            if (onto) {
                asm.prefetch(Mem.at(Gp.RDI));
                asm.prefetch(Mem.at(Gp.RDI, BYTES * vectors - 1));
                asm.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1));
            }
            for (int j = 0; j < vectors; j++) {
                asm.zero256(i * vectors + j);
            }
        }
        asm.pop(Gp.RDI);
        asm.push(Gp.RDX);
        asm.push(Gp.R8);
        for (int steps : new int[] {UNROLLED, 1}) {
            // Above those arguments: three saved registers and the return address.
            asm.move(Gp.R11, Mem.at(Gp.RSP, steps == 1 ? 40 : 32));
            asm.unlessZero(Gp.R11, () -> {
                int loop = asm.here();
                for (int p = 0; p < steps; p++) {
                    for (int j = 0; j < vectors; j++) {
                        asm.load256(columnsOfB + j, Mem.at(Gp.R8, BYTES * j));
                    }
                    asm.address(Gp.R8, Mem.at(Gp.R8, Gp.R9, 1));
                    for (int i = 0; i < rows; i++) {
                        asm.broadcast256(rowOfA, row(i, 4 * p));
                        for (int j = 0; j < vectors; j++) {
                            asm.multiplyAdd256(i * vectors + j, rowOfA, columnsOfB + j);
                        }
                    }
                }
                asm.add(Gp.RDX, 4 * steps);
                asm.decrement(Gp.R11);
                asm.jumpIfNotZero(loop);
            });
        }
        asm.pop(Gp.R8);
        asm.pop(Gp.RDX);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < vectors; j++) {
                Mem to = Mem.at(Gp.RDI, BYTES * j);
                if (onto) {
                    asm.add256(i * vectors + j, i * vectors + j, to);
                }
                asm.store256(to, i * vectors + j);
            }
            asm.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1));
            asm.address(Gp.RDX, Mem.at(Gp.RDX, Gp.RCX, 1));
        }
        asm.decrement(Gp.R10);
        asm.jumpIfNotZero(tile);
        asm.vzeroupper();
        asm.pop(Gp.RBX);
        asm.ret();
        return asm.bytes();
    }

    /// Row i of A: RCX bytes apart, with 3 RCX in RAX and 5 RCX in RBX.
    private static Mem row(int i, int displacement) {
        return switch (i) {
            case 0 -> Mem.at(Gp.RDX, displacement);
            case 1 -> Mem.at(Gp.RDX, Gp.RCX, 1, displacement);
            case 2 -> Mem.at(Gp.RDX, Gp.RCX, 2, displacement);
            case 3 -> Mem.at(Gp.RDX, Gp.RAX, 1, displacement);
            case 4 -> Mem.at(Gp.RDX, Gp.RCX, 4, displacement);
            default -> Mem.at(Gp.RDX, Gp.RBX, 1, displacement);
        };
    }

    /// `void widen(float *to, int *pairs, long count)`: each of the `count` rows of pairs of BF16 becomes two rows of
    /// floats, that of the lower halves first.
    static byte[] widening(int vectors) {
        Assembler asm = new Assembler();
        int upper = 2 * vectors;
        asm.ones256(upper);
        asm.shiftLeft256(upper, upper, 16);
        int row = asm.here();
        for (int j = 0; j < vectors; j++) {
            asm.load256(j, Mem.at(Gp.RSI, BYTES * j));
            asm.shiftLeft256(vectors + j, j, 16);
            asm.and256(j, j, upper);
            asm.store256(Mem.at(Gp.RDI, BYTES * j), vectors + j);
            asm.store256(Mem.at(Gp.RDI, BYTES * (vectors + j)), j);
        }
        asm.add(Gp.RSI, BYTES * vectors);
        asm.add(Gp.RDI, 2 * BYTES * vectors);
        asm.decrement(Gp.RDX);
        asm.jumpIfNotZero(row);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    /// `void loop(long rounds)`: each round adds a product to each of the accumulators of a tile.
    static byte[] multiplyAddLoop() {
        Assembler asm = new Assembler();
        int accumulators = ROWS * VECTORS;
        for (int i = 0; i <= accumulators; i++) {
            asm.zero256(i);
        }
        int round = asm.here();
        for (int i = 0; i < accumulators; i++) {
            asm.multiplyAdd256(i, accumulators, accumulators);
        }
        asm.decrement(Gp.RDI);
        asm.jumpIfNotZero(round);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    /// Runs multiply-adds of registers for about a third of a second, and returns the number of floating-point
    /// operations; 0 if these tiles are not used on this machine.
    public static long multiplyAdds() {
        if (!available()) {
            return 0;
        }
        // Half a millisecond or less per call, because the garbage collector waits while it runs.
        long rounds = 50_000;
        int calls = 1_000;
        try {
            for (int i = 0; i < calls; i++) {
                Code.LOOP.invokeExact(Code.LOOP_CODE, rounds);
            }
        } catch (Throwable e) {
            throw new BackendException("gemm: " + e, e);
        }
        return calls * rounds * ROWS * VECTORS * V * 2;
    }

    /// c = a · b, or c += a · b if `onto`, for the columns of one panel and one block of k of b.
    ///
    /// @param a only the columns of this block of k
    static void product(Workspace workspace, Operand c, Operand a, GemmPanels b, int panel, int block, boolean onto) {
        int j = panel * GemmTiles.COLUMNS;
        int skipped = j - b.first(panel);
        int width = b.width(panel);
        int columns = Math.min(GemmTiles.COLUMNS - skipped, b.n() - j);
        int rows = c.rows();
        long left = a.memory().address() + a.at(0, 0);
        long right = b.memory().address() + b.at(panel, block);
        int k = b.blockLength(block);
        if (columns == width) {
            long to = c.memory().address() + c.at(0, j);
            rows(to, 4L * c.ld(), left, 4L * a.ld(), right, b.step(panel), width, rows, k, onto);
        } else {
            MemorySegment sums = workspace.segment(Slot.TILE, 4L * rows * width);
            long ldc = 4L * width;
            rows(sums.address(), ldc, left, 4L * a.ld(), right, b.step(panel), width, rows, k, false);
            GemmTiles.merge(c.memory(), c.at(0, j), 4L * c.ld(), sums, 4L * skipped, ldc, rows, columns, onto);
        }
    }

    /// wide (k, width) ← one block of a panel: [Bf16Panels#widen].
    static void widen(MemorySegment wide, Right b) {
        try {
            Code.WIDENING.invokeExact(
                    Code.WIDEN[b.width() / V], wide.address(), b.memory().address() + b.offset(), (long) (b.k() / 2));
        } catch (Throwable e) {
            throw new BackendException("gemm: " + e, e);
        }
    }

    /// c = a · b, or c += a · b if `onto`, for the columns of one block of a panel that was widened to F32. It takes no
    /// [GemmPanels], because every product would make its own.
    ///
    /// @param wide (k, `width`)
    static void product(Workspace workspace, Operand c, Left a, MemorySegment wide, int width, int k, boolean onto) {
        int rows = c.rows();
        long left = a.memory().address() + a.offset();
        long ldb = 4L * width;
        if (c.cols() == width) {
            long to = c.memory().address() + c.offset();
            rows(to, 4L * c.ld(), left, a.stride(), wide.address(), ldb, width, rows, k, onto);
        } else {
            MemorySegment sums = workspace.segment(Slot.TILE, rows * ldb);
            rows(sums.address(), ldb, left, a.stride(), wide.address(), ldb, width, rows, k, false);
            GemmTiles.merge(c.memory(), c.offset(), 4L * c.ld(), sums, 0, ldb, rows, c.cols(), onto);
        }
    }

    /// As many whole tiles as there are, and one of the last rows.
    private static void rows(
            long c, long ldc, long a, long lda, long b, long ldb, int width, int rows, int k, boolean onto) {
        int tiles = rows / ROWS;
        if (tiles > 0) {
            run(ROWS, width / V, onto, c, ldc, a, lda, b, ldb, k, tiles);
        }
        int rest = rows % ROWS;
        if (rest > 0) {
            long done = (long) tiles * ROWS;
            run(rest, width / V, onto, c + done * ldc, ldc, a + done * lda, lda, b, ldb, k, 1);
        }
    }

    private static void run(
            int rows,
            int vectors,
            boolean onto,
            long c,
            long ldc,
            long a,
            long lda,
            long b,
            long ldb,
            int k,
            int tiles) {
        try {
            Code.TILES.invokeExact(
                    Code.TILE[Code.at(rows, vectors, onto)],
                    c,
                    ldc,
                    a,
                    lda,
                    b,
                    ldb,
                    (long) (k / UNROLLED),
                    (long) (k % UNROLLED),
                    (long) tiles);
        } catch (Throwable e) {
            throw new BackendException("gemm: " + e, e);
        }
    }
}
