package dev.loran.kernels;

import dev.loran.engine.BackendException;
import dev.loran.engine.HostBuffer;
import dev.loran.kernels.Assembler.Gp;
import dev.loran.kernels.Assembler.Mem;
import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import org.jspecify.annotations.Nullable;

/// Products of an F32 matrix, rounded to BF16 on the way, with BF16 panels, summed in F32: AVX512-BF16 in machine code of
/// our own, for the Vector API knows no such instruction.
///
/// The instruction multiplies pairs along k: a lane of 32 bits holds the elements 2p and 2p + 1 of a row of A, or of a
/// column of B. Each element of C is summed over k in order, in blocks that k alone decides: the same bits for every number
/// of threads.
final class GemmBf16 {
    /// Rows of a tile: 8 x 3 accumulators, 3 vectors of B and one of A are 28 of 32 registers.
    private static final int ROWS = 8;

    private static final int VECTORS = 3;
    private static final int V = 16;

    /// Columns of a whole panel.
    static final int COLUMNS = VECTORS * V;

    /// The longest block of k, even; a panel of it takes 96 KiB.
    private static final int K_BLOCK = 1024;

    /// Rows of A begin in different sets of the cache.
    private static final int ROW_GAP = 64;

    private GemmBf16() {}

    /// What stands in the way on this machine; null if nothing does.
    static @Nullable String obstacle() {
        return MachineCode.obstacle("avx512f", "avx512_bf16");
    }

    // ---- the code

    /// Made when a product is first asked for. Where the code begins: tiles by vectors and whether they add to C.
    private static final class Code {
        @SuppressWarnings("restricted")
        private static final MethodHandle TILES = Linker.nativeLinker()
                .downcallHandle(
                        FunctionDescriptor.ofVoid(
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG,
                                ValueLayout.JAVA_LONG),
                        Linker.Option.critical(false));

        @SuppressWarnings("restricted")
        private static final MethodHandle ROUND = Linker.nativeLinker()
                .downcallHandle(
                        FunctionDescriptor.ofVoid(ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG),
                        Linker.Option.critical(false));

        private static final MemorySegment[] TILE = new MemorySegment[2 * (VECTORS + 1)];
        private static final MemorySegment ROUND_CODE = MachineCode.load(round());

        static {
            for (int vectors = 1; vectors <= VECTORS; vectors++) {
                TILE[2 * vectors] = MachineCode.load(tiles(vectors, false));
                TILE[2 * vectors + 1] = MachineCode.load(tiles(vectors, true));
            }
        }
    }

    /// `void tiles(float *c, long ldc, bf16 *a, long lda, bf16 *b, long pairs, long count)`: `count` tiles of 8 rows, one
    /// below the other, c = a · b or c += a · b; `ldc` and `lda` in bytes, `pairs` of k, at least 1.
    static byte[] tiles(int vectors, boolean onto) {
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

    /// `void round(bf16 *y, float *x, long n)`: 16 · n elements, n at least 1.
    static byte[] round() {
        Assembler asm = new Assembler();
        int loop = asm.here();
        asm.toBf16(0, Mem.at(Gp.RSI));
        asm.storeHalf(Mem.at(Gp.RDI), 0);
        asm.add(Gp.RSI, 64);
        asm.add(Gp.RDI, 32);
        asm.decrement(Gp.RDX);
        asm.jumpIfNotZero(loop);
        asm.vzeroupper();
        asm.ret();
        return asm.bytes();
    }

    private static void runTiles(
            int vectors, boolean onto, long c, long ldc, long a, long lda, long b, long pairs, long count) {
        try {
            Code.TILES.invokeExact(Code.TILE[2 * vectors + (onto ? 1 : 0)], c, ldc, a, lda, b, pairs, count);
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
    }

    /// y ← x rounded to BF16, to nearest even.
    static void round(MemorySegment y, long yOff, MemorySegment x, long xOff, int n) {
        int whole = n - n % V;
        if (whole > 0) {
            try {
                Code.ROUND.invokeExact(Code.ROUND_CODE, y.address() + yOff, x.address() + xOff, (long) whole / V);
            } catch (Throwable e) {
                throw new BackendException("gemmBf16: " + e, e);
            }
        }
        for (int i = whole; i < n; i++) {
            float value = x.get(ValueLayout.JAVA_FLOAT_UNALIGNED, xOff + 4L * i);
            y.set(ValueLayout.JAVA_SHORT_UNALIGNED, yOff + 2L * i, HostBuffer.toBf16(value));
        }
    }

    // ---- panels of B

    /// The right-hand matrix (k, n): panels of [#COLUMNS] columns, one block of k after another; for each pair along k the
    /// pairs of a panel's columns lie next to each other. Padded with zeros to whole vectors and pairs.
    record Panels(MemorySegment memory, int k, int n) {
        static long bytes(int k, int n) {
            return 4L * Math.ceilDiv(k, 2) * padded(n);
        }

        private static int padded(int n) {
            return Math.ceilDiv(n, V) * V;
        }

        int count() {
            return Math.ceilDiv(n, COLUMNS);
        }

        int blocks() {
            return Math.ceilDiv(k, K_BLOCK);
        }

        int blockLength(int block) {
            return Math.min(K_BLOCK, k - block * K_BLOCK);
        }

        int width(int panel) {
            return Math.min(COLUMNS, padded(n) - panel * COLUMNS);
        }

        long at(int panel, int block) {
            return 4
                    * (block * (K_BLOCK / 2L) * padded(n)
                            + (long) panel * COLUMNS * Math.ceilDiv(blockLength(block), 2));
        }

        /// Byte offset of element (p, j).
        private long at(int p, int panel, int column) {
            int block = p / K_BLOCK;
            int inside = p % K_BLOCK;
            return at(panel, block) + 4 * ((long) (inside / 2) * width(panel) + column) + 2L * (inside % 2);
        }

        /// The bits of element (p, j).
        short get(int p, int j) {
            return memory.get(ValueLayout.JAVA_SHORT, at(p, j / COLUMNS, j % COLUMNS));
        }

        /// Where an element's bits come from.
        interface Source {
            short get(int p, int j);
        }

        /// Fills all panels.
        Panels pack(Parallel parallel, Source source) {
            parallel.parallelFor(count(), panel -> {
                int width = width(panel);
                for (int p = 0; p < k + k % 2; p++) {
                    for (int column = 0; column < width; column++) {
                        int j = panel * COLUMNS + column;
                        short value = p < k && j < n ? source.get(p, j) : 0;
                        memory.set(ValueLayout.JAVA_SHORT, at(p, panel, column), value);
                    }
                }
            });
            return this;
        }
    }

    // ---- the product

    /// C (m, n) ← A · B + beta · C + bias; A is row-major F32 and bias, where there is one, a row of n.
    static void multiply(Parallel parallel, Matrix c, Matrix a, Panels b, int m, float beta, @Nullable Matrix bias) {
        if (m == 0 || b.n() == 0) {
            return;
        }
        if (b.k() == 0) {
            GemmSimd.prepare(c, 0, m, 0, b.n(), beta, bias);
            return;
        }
        GemmSimd.forBlocks(
                parallel,
                m,
                ROWS,
                b.count(),
                (i, rows, panel, end) -> block(parallel.workspace(), c, a, b, i, rows, panel, end, beta, bias));
    }

    /// Rows `i` … `i + rows` of C by some panels.
    private static void block(
            Workspace workspace,
            Matrix c,
            Matrix a,
            Panels b,
            int i,
            int rows,
            int panel0,
            int panel1,
            float beta,
            @Nullable Matrix bias) {
        boolean onto = beta != 0f || bias != null;
        if (bias != null || beta != 0f && beta != 1f) {
            int j = panel0 * COLUMNS;
            GemmSimd.prepare(c, i, rows, j, Math.min(b.n(), panel1 * COLUMNS) - j, beta, bias);
        }
        int tiles = Math.ceilDiv(rows, ROWS);
        for (int block = 0; block < b.blocks(); block++) {
            int k = b.blockLength(block);
            int pairs = Math.ceilDiv(k, 2);
            int stride = Math.ceilDiv(4 * pairs, ROW_GAP) * ROW_GAP + ROW_GAP;
            MemorySegment left = workspace.segment(Slot.ROWS, (long) tiles * ROWS * stride);
            for (int row = 0; row < rows; row++) {
                round(left, (long) row * stride, a.memory(), a.at(i + row, (long) block * K_BLOCK), k);
                if (k % 2 == 1) {
                    left.set(ValueLayout.JAVA_SHORT, (long) row * stride + 2L * k, (short) 0);
                }
            }
            for (int panel = panel0; panel < panel1; panel++) {
                column(workspace, c, i, rows, left, stride, b, panel, block, onto);
            }
            onto = true;
        }
    }

    /// The tiles of one panel; those that are not whole go by way of scratch memory.
    private static void column(
            Workspace workspace,
            Matrix c,
            int i,
            int rows,
            MemorySegment left,
            int stride,
            Panels b,
            int panel,
            int block,
            boolean onto) {
        int width = b.width(panel);
        int columns = Math.min(width, b.n() - panel * COLUMNS);
        int pairs = Math.ceilDiv(b.blockLength(block), 2);
        long from = b.memory().address() + b.at(panel, block);
        int whole = columns == width ? rows / ROWS : 0;
        if (whole > 0) {
            long to = c.memory().address() + c.at(i, (long) panel * COLUMNS);
            runTiles(width / V, onto, to, 4L * c.ld(), left.address(), stride, from, pairs, whole);
        }
        int done = whole * ROWS;
        if (done < rows) {
            int tiles = Math.ceilDiv(rows - done, ROWS);
            MemorySegment tile = workspace.segment(Slot.TILE, 4L * tiles * ROWS * width);
            long at = left.address() + (long) done * stride;
            runTiles(width / V, false, tile.address(), 4L * width, at, stride, from, pairs, tiles);
            GemmTiles.merge(
                    c.memory(),
                    c.at(i + done, (long) panel * COLUMNS),
                    4L * c.ld(),
                    tile,
                    0,
                    4L * width,
                    rows - done,
                    columns,
                    onto);
        }
    }
}
