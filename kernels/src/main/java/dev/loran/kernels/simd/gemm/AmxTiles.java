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

/// AMX through hand-written machine code. A tile register holds 16 rows of 64 bytes: of C, 16 x 16 F32; of A, 16 rows
/// of 32 BF16; of B, 16 pairs along k for each of 16 columns. 2 x 2 tiles of C share 2 of A and 2 of B, which uses all
/// 8 registers.
public final class AmxTiles implements Bf16Tiles.Native {
    private static final int SIDE = 16;
    private static final int ROW_BYTES = 64;

    /// Tile registers: of C, two above and two below; of A, the upper and the lower; of B, the left and the right.
    private static final int BELOW = 2;

    private static final int A = 4;
    private static final int B = 6;
    private static final int REGISTERS = 8;

    public static final Sizes SIZES = new Sizes(2 * SIDE, 2 * SIDE, SIDE, 32, 1024, 2, GemmSimd.TASK_ROWS);

    /// Says what prevents the use of AMX on this machine; null if nothing does. As the tests may never have run on such
    /// a processor, the final check is a product computed here.
    public static @Nullable String obstacle() {
        String obstacle = MachineCode.obstacle("avx512f", "avx512_bf16", "amx_tile", "amx_bf16");
        if (obstacle == null) {
            obstacle = MachineCode.tileObstacle();
        }
        return obstacle != null ? obstacle : GemmBf16.disagreement(new AmxTiles(), new WidenedTiles());
    }

    @Override
    public Sizes sizes() {
        return SIZES;
    }

    /// Initialized when a product is first requested. Holds the code addresses, by the number of adjacent tiles and by
    /// whether they add to C.
    private static final class Code {
        private static final MethodHandle TILES = MachineCode.function(8);

        private static final MethodHandle DOTS = MachineCode.function(2);

        private static final MemorySegment DOTS_CODE = MachineCode.load(dotLoop());

        private static final MemorySegment[] TILE = {
            MachineCode.load(tiles(1, false)),
            MachineCode.load(tiles(1, true)),
            MachineCode.load(tiles(2, false)),
            MachineCode.load(tiles(2, true))
        };

        private static final MemorySegment CONFIG = config(Arena.global());
    }

    /// The operand of `ldtilecfg`: all tiles have 16 rows of 64 bytes.
    public static MemorySegment config(Arena arena) {
        MemorySegment config = arena.allocate(64, 64);
        config.set(ValueLayout.JAVA_BYTE, 0, (byte) 1);
        for (int tile = 0; tile < REGISTERS; tile++) {
            config.set(ValueLayout.JAVA_SHORT, 16 + 2L * tile, (short) ROW_BYTES);
            config.set(ValueLayout.JAVA_BYTE, 48L + tile, (byte) SIDE);
        }
        return config;
    }

    /// `void tiles(float *c, long ldc, bf16 *a, long lda, bf16 *b, long steps, long count, tilecfg *config)`: `count`
    /// blocks of c, one below the other, each 32 rows by `wide` times 16 columns, = a · b or += a · b; `ldc` and `lda`
    /// in bytes; `steps` of 32 elements of k, at least 1.
    public static byte[] tiles(int wide, boolean onto) {
        Assembler asm = new Assembler();
        int rowOfB = wide * ROW_BYTES;
        Mem[][] c = new Mem[2][wide];
        for (int j = 0; j < wide; j++) {
            c[0][j] = Mem.at(Gp.RDI, Gp.RSI, 1, j * ROW_BYTES);
            c[1][j] = Mem.at(Gp.RBP, Gp.RSI, 1, j * ROW_BYTES);
        }
        asm.push(Gp.RBX);
        asm.push(Gp.RBP);
        // count and config are the seventh and eighth arguments: above two saved registers and the return address.
        asm.move(Gp.R10, Mem.at(Gp.RSP, 24));
        asm.move(Gp.RAX, Mem.at(Gp.RSP, 32));
        asm.loadTileConfig(Mem.at(Gp.RAX));
        asm.set(Gp.RBX, rowOfB);
        int tile = asm.here();
        sixteenRows(asm, Gp.RBP, Gp.RDI, Gp.RSI);
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < wide; j++) {
                if (onto) {
                    asm.loadTile(BELOW * i + j, c[i][j]);
                } else {
                    asm.zeroTile(BELOW * i + j);
                }
            }
        }
        sixteenRows(asm, Gp.R11, Gp.RDX, Gp.RCX);
        asm.push(Gp.RDX);
        asm.push(Gp.R8);
        asm.push(Gp.R9);
        asm.move(Gp.RAX, Gp.R11);
        int step = asm.here();
        asm.loadTile(A, Mem.at(Gp.RDX, Gp.RCX, 1));
        for (int j = 0; j < wide; j++) {
            asm.loadTile(B + j, Mem.at(Gp.R8, Gp.RBX, 1, j * ROW_BYTES));
            asm.dotTiles(j, A, B + j);
        }
        asm.loadTile(A + 1, Mem.at(Gp.RAX, Gp.RCX, 1));
        for (int j = 0; j < wide; j++) {
            asm.dotTiles(BELOW + j, A + 1, B + j);
        }
        asm.add(Gp.RDX, ROW_BYTES);
        asm.add(Gp.RAX, ROW_BYTES);
        asm.add(Gp.R8, SIDE * rowOfB);
        asm.decrement(Gp.R9);
        asm.jumpIfNotZero(step);
        asm.pop(Gp.R9);
        asm.pop(Gp.R8);
        asm.pop(Gp.RDX);
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < wide; j++) {
                asm.storeTile(c[i][j], BELOW * i + j);
            }
        }
        sixteenRows(asm, Gp.RDI, Gp.RBP, Gp.RSI);
        sixteenRows(asm, Gp.RDX, Gp.R11, Gp.RCX);
        asm.decrement(Gp.R10);
        asm.jumpIfNotZero(tile);
        asm.releaseTiles();
        asm.pop(Gp.RBP);
        asm.pop(Gp.RBX);
        asm.ret();
        return asm.bytes();
    }

    /// `void dotLoop(long rounds, tilecfg *config)`: each round adds a product of two tiles to each of four tiles.
    public static byte[] dotLoop() {
        Assembler asm = new Assembler();
        asm.loadTileConfig(Mem.at(Gp.RSI));
        for (int tile = 0; tile < REGISTERS; tile++) {
            asm.zeroTile(tile);
        }
        int round = asm.here();
        for (int tile = 0; tile < A; tile++) {
            asm.dotTiles(tile, A, B);
        }
        asm.decrement(Gp.RDI);
        asm.jumpIfNotZero(round);
        asm.releaseTiles();
        asm.ret();
        return asm.bytes();
    }

    @Override
    public long dots() {
        long rounds = 20_000;
        int calls = 1_000;
        try {
            for (int i = 0; i < calls; i++) {
                Code.DOTS.invokeExact(Code.DOTS_CODE, rounds, Code.CONFIG.address());
            }
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
        return calls * rounds * A * SIDE * SIDE * 2 * SIZES.step();
    }

    /// to = from + 16 · stride.
    private static void sixteenRows(Assembler asm, Gp to, Gp from, Gp stride) {
        asm.address(to, Mem.at(from, stride, 8));
        asm.address(to, Mem.at(to, stride, 8));
    }

    @Override
    public void run(Operand c, Left a, Right b, int tiles, boolean onto) {
        try {
            Code.TILES.invokeExact(
                    Code.TILE[2 * (b.width() / SIDE - 1) + (onto ? 1 : 0)],
                    c.memory().address() + c.offset(),
                    4L * c.ld(),
                    a.memory().address() + a.offset(),
                    a.stride(),
                    b.memory().address() + b.offset(),
                    (long) b.k() / SIZES.step(),
                    (long) tiles,
                    Code.CONFIG.address());
        } catch (Throwable e) {
            throw new BackendException("gemmBf16: " + e, e);
        }
    }
}
