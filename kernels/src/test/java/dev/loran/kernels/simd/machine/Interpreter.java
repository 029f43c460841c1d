package dev.loran.kernels.simd.machine;

import dev.loran.engine.backend.HostBuffer;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;

/// Executes the bytes that [Assembler] emits, on real memory. Kernels for instructions that this machine lacks are
/// tested with this alone. It supports exactly those instructions, decodes them independently of the assembler, and
/// throws for any other instruction, for an access outside the memory it was given, and for whatever the processor
/// would reject.
///
/// **Source**: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2; the operation sections of
/// LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS, VDPBF16PS, VCVTNEPS2BF16, VCVTNE2PS2BF16 and VPERMW.
public final class Interpreter {
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED;
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final int STACK = 256;
    private static final int RSP = 4;
    private static final int MAX_STEPS = 100_000_000;

    private final byte[] code;
    private final List<MemorySegment> memory;
    private final MemorySegment stack;
    private final long[] general = new long[16];
    private final int[][] vectors = new int[32][16];
    private boolean zeroFlag;
    private int at;

    /// Rows and bytes per row of each tile; empty before the configuration and after the release.
    private int[][] tileSizes = {};

    private final byte[][] tiles = new byte[8][1024];

    private Interpreter(Arena arena, byte[] code, List<MemorySegment> memory) {
        this.code = code;
        this.memory = memory;
        stack = arena.allocate(STACK, 64);
    }

    /// Calls the function at the beginning of `code`, with integer arguments passed according to the System V
    /// convention; it may read and write `memory` and its own stack.
    public static void call(byte[] code, List<MemorySegment> memory, long... arguments) {
        try (Arena arena = Arena.ofConfined()) {
            new Interpreter(arena, code, memory).run(arguments);
        }
    }

    private void run(long[] arguments) {
        int[] inRegisters = {7, 6, 2, 1, 8, 9};
        Arrays.fill(general, 0x7e7e7e7e7e7e7e7eL);
        int onStack = Math.max(0, arguments.length - inRegisters.length);
        long entry = stack.address() + STACK - 8L * (onStack + 1);
        general[RSP] = entry;
        for (int i = 0; i < arguments.length; i++) {
            if (i < inRegisters.length) {
                general[inRegisters[i]] = arguments[i];
            } else {
                stack.set(LONG, entry - stack.address() + 8L * (i - inRegisters.length + 1), arguments[i]);
            }
        }
        long rbx = general[3];
        long rbp = general[5];
        for (int step = 0; ; step++) {
            require(step < MAX_STEPS, "the code does not end");
            if (code[at] == (byte) 0xc3) {
                break;
            }
            step();
        }
        require(general[RSP] == entry, "the stack is not as it was");
        require(general[3] == rbx && general[5] == rbp, "rbx and rbp belong to the caller");
        require(tileSizes.length == 0, "the tiles are not released");
    }

    private static void require(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException("interpreter: " + what);
        }
    }

    private int next() {
        return code[at++] & 0xff;
    }

    private int nextInt() {
        int value = MemorySegment.ofArray(code).get(INT, at);
        at += 4;
        return value;
    }

    private void step() {
        int first = next();
        switch (first) {
            case 0x62 -> evex();
            case 0xc4 -> vex();
            case 0xc5 -> require(next() == 0xf8 && next() == 0x77, "vzeroupper is all that 0xc5 begins");
            case 0x0f -> {
                require(next() == 0x85, "jnz is all that 0x0f begins");
                int by = nextInt();
                at += zeroFlag ? 0 : by;
            }
            case 0x41 -> pushOrPop(next(), 8);
            case 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f -> wide(first & 4, first & 2, first & 1);
            default -> pushOrPop(first, 0);
        }
    }

    private void pushOrPop(int opcode, int high) {
        int register = (opcode & 7) + high;
        switch (opcode & 0xf8) {
            case 0x50 -> {
                general[RSP] -= 8;
                place(general[RSP], 8).set(LONG, 0, general[register]);
            }
            case 0x58 -> {
                general[register] = place(general[RSP], 8).get(LONG, 0);
                general[RSP] += 8;
            }
            default -> require(false, "opcode " + Integer.toHexString(opcode));
        }
    }

    private void wide(int r, int x, int b) {
        int opcode = next();
        int modRm = next();
        int reg = (modRm >> 3 & 7) + 2 * r;
        if (opcode == 0x8b || opcode == 0x8d) {
            require(modRm >> 6 != 3, "mov and lea read memory");
            long address = operand(modRm, 4 * x, 8 * b);
            general[reg] = opcode == 0x8d ? address : place(address, 8).get(LONG, 0);
            return;
        }
        require(modRm >> 6 == 3, "a register operand");
        int rm = (modRm & 7) + 8 * b;
        switch (opcode) {
            case 0x89 -> general[rm] = general[reg];
            case 0xc7 -> general[rm] = nextInt();
            case 0x81 -> {
                require((modRm >> 3 & 7) == 0, "add");
                general[rm] += nextInt();
                zeroFlag = general[rm] == 0;
            }
            case 0xff -> {
                require((modRm >> 3 & 7) == 1, "dec");
                zeroFlag = --general[rm] == 0;
            }
            default -> require(false, "opcode " + Integer.toHexString(opcode));
        }
    }

    /// Decodes the address given by the bytes after ModRM; `x` and `b` are 8 for the upper registers.
    private long operand(int modRm, int x, int b) {
        int mod = modRm >> 6;
        int rm = modRm & 7;
        long address = 0;
        int base = rm;
        if (rm == 4) {
            int sib = next();
            base = sib & 7;
            int index = (sib >> 3 & 7) + x;
            address = index == RSP ? 0 : general[index] << (sib >> 6);
        }
        require(mod == 2 || mod == 0 && base != 5, "a displacement of 0 or 4 bytes, and a base");
        address += general[base + b];
        return mod == 2 ? address + nextInt() : address;
    }

    private MemorySegment place(long address, long bytes) {
        for (MemorySegment m : memory) {
            if (address >= m.address() && address + bytes <= m.address() + m.byteSize()) {
                return m.asSlice(address - m.address(), bytes);
            }
        }
        require(
                address >= stack.address() && address + bytes <= stack.address() + STACK,
                "an access of " + bytes + " bytes outside the memory it was given");
        return stack.asSlice(address - stack.address(), bytes);
    }

    // ---- vectors

    private void evex() {
        int p0 = next();
        int p1 = next();
        int p2 = next();
        int opcode = next();
        int modRm = next();
        int reg = (modRm >> 3 & 7) + (~p0 >> 7 & 1) * 8 + (~p0 >> 4 & 1) * 16;
        int x = (~p0 >> 6 & 1) * 8;
        int b = (~p0 >> 5 & 1) * 8;
        int vvvv = (~p1 >> 3 & 15) + (~p2 >> 3 & 1) * 16;
        boolean wide = (p1 & 0x80) != 0;
        require((p1 & 4) == 4 && (p2 & 0x97) == 0, "no masks");
        int lanes = p2 >> 5 == 2 ? 16 : 8;
        boolean register = modRm >> 6 == 3;
        int rm = (modRm & 7) + b + 2 * x;
        int operation = (p0 & 7) << 12 | (p1 & 3) << 8 | opcode;
        int[] z = vectors[reg];
        require(wide == (operation == 0x218d), "W for vpermw only");
        switch (operation) {
            case 0x11ef -> { // vpxord
                require(register && lanes == 16, "vpxord of registers");
                for (int i = 0; i < 16; i++) {
                    z[i] = vectors[vvvv][i] ^ vectors[rm][i];
                }
            }
            case 0x1010 -> // vmovups load
                MemorySegment.copy(place(operand(modRm, x, b), 4L * lanes), INT, 0, z, 0, lanes);
            case 0x1011 -> // vmovups store
                MemorySegment.copy(z, 0, place(operand(modRm, x, b), 4L * lanes), INT, 0, lanes);
            case 0x2158 -> Arrays.fill(z, place(operand(modRm, x, b), 4).get(INT, 0)); // vpbroadcastd
            case 0x2252 -> { // vdpbf16ps
                require(register && lanes == 16, "vdpbf16ps of registers");
                for (int i = 0; i < 16; i++) {
                    z[i] = dot(z[i], vectors[vvvv][i], vectors[rm][i]);
                }
            }
            case 0x2272 -> { // vcvtneps2bf16
                MemorySegment from = place(operand(modRm, x, b), 64);
                int[] result = new int[16];
                for (int i = 0; i < 16; i++) {
                    float value = flushed(from.get(FLOAT, 4L * i));
                    short half = HostBuffer.toBf16(value);
                    result[i / 2] |= (half & 0xffff) << 16 * (i % 2);
                }
                System.arraycopy(result, 0, z, 0, 16);
            }
            case 0x2372 -> { // vcvtne2ps2bf16
                require(register && lanes == 16, "vcvtne2ps2bf16 of registers");
                int[] result = new int[16];
                for (int i = 0; i < 32; i++) {
                    float value = flushed(Float.intBitsToFloat(vectors[i < 16 ? rm : vvvv][i % 16]));
                    result[i / 2] |= (HostBuffer.toBf16(value) & 0xffff) << 16 * (i % 2);
                }
                System.arraycopy(result, 0, z, 0, 16);
            }
            case 0x218d -> { // vpermw
                require(register && lanes == 16, "vpermw of registers");
                int[] result = new int[16];
                for (int i = 0; i < 32; i++) {
                    int from = vectors[vvvv][i / 2] >> 16 * (i % 2) & 31;
                    result[i / 2] |= (vectors[rm][from / 2] >> 16 * (from % 2) & 0xffff) << 16 * (i % 2);
                }
                System.arraycopy(result, 0, z, 0, 16);
            }
            default -> require(false, "EVEX operation " + Integer.toHexString(operation));
        }
    }

    /// Subnormals are treated as zero and become zero, as in all instructions on BF16.
    private static float flushed(float value) {
        return Math.abs(value) < Float.MIN_NORMAL ? Math.copySign(0f, value) : value;
    }

    private static float upper(int pair) {
        return flushed(Float.intBitsToFloat(pair & 0xffff0000));
    }

    private static float lower(int pair) {
        return flushed(Float.intBitsToFloat(pair << 16));
    }

    private static int dot(int acc, int x, int y) {
        float sum = flushed(Math.fma(upper(x), upper(y), flushed(Float.intBitsToFloat(acc))));
        return Float.floatToRawIntBits(flushed(Math.fma(lower(x), lower(y), sum)));
    }

    // ---- tiles

    private void vex() {
        int p0 = next();
        int p1 = next();
        int opcode = next();
        int modRm = next();
        require((p0 & 0x1f) == 2 && (p1 & 0x84) == 0, "the map 0F38, W0, 128 bits");
        require((p0 & 0x80) != 0, "tiles have numbers below 8");
        int x = (~p0 >> 6 & 1) * 8;
        int b = (~p0 >> 5 & 1) * 8;
        int reg = modRm >> 3 & 7;
        boolean register = modRm >> 6 == 3;
        int vvvv = ~p1 >> 3 & 15;
        switch ((p1 & 3) << 8 | opcode) {
            case 0x049 -> {
                require(reg == 0, "ldtilecfg or tilerelease");
                if (register) {
                    require(tileSizes.length > 0, "tiles were not configured");
                    tileSizes = new int[0][];
                } else {
                    configure(place(operand(modRm, x, b), 64));
                }
            }
            case 0x349 -> { // tilezero
                require(register, "tilezero of a register");
                sizes(reg);
                Arrays.fill(tiles[reg], (byte) 0);
            }
            case 0x34b, 0x24b -> moveTile((p1 & 3) == 3, reg, modRm, x, b);
            case 0x25c -> {
                require(register, "tdpbf16ps of registers");
                dotTiles(reg, modRm & 7, vvvv);
            }
            default -> require(false, "VEX operation " + Integer.toHexString(opcode));
        }
    }

    private void configure(MemorySegment config) {
        require(config.get(ValueLayout.JAVA_BYTE, 0) == 1, "palette 1");
        for (int i = 1; i < 16; i++) {
            require(config.get(ValueLayout.JAVA_BYTE, i) == 0, "start row and reserved bytes are zero");
        }
        tileSizes = new int[8][2];
        for (int tile = 0; tile < 16; tile++) {
            int bytes = config.get(ValueLayout.JAVA_SHORT_UNALIGNED, 16 + 2L * tile);
            int rows = config.get(ValueLayout.JAVA_BYTE, 48L + tile);
            if (tile >= 8) {
                require(rows == 0 && bytes == 0, "8 tiles");
                continue;
            }
            require(rows >= 0 && rows <= 16 && bytes >= 0 && bytes <= 64, "tiles of at most 16 rows of 64 bytes");
            require(rows == 0 == (bytes == 0), "rows and bytes, or neither");
            tileSizes[tile] = new int[] {rows, bytes};
            Arrays.fill(tiles[tile], (byte) 0);
        }
    }

    private int[] sizes(int tile) {
        require(tile < tileSizes.length && tileSizes[tile][0] > 0, "tile " + tile + " was not configured");
        return tileSizes[tile];
    }

    private void moveTile(boolean load, int tile, int modRm, int x, int b) {
        require((modRm & 7) == 4 && modRm >> 6 != 3, "rows in memory, with a stride");
        int index = (code[at] >> 3 & 7) + x;
        require(index != RSP && (code[at] & 0xc0) == 0, "a stride, not scaled");
        int[] sizes = sizes(tile);
        long first = operand(modRm, x, b) - general[index];
        for (int row = 0; row < sizes[0]; row++) {
            MemorySegment there = place(first + row * general[index], sizes[1]);
            MemorySegment here = MemorySegment.ofArray(tiles[tile]).asSlice(64L * row, sizes[1]);
            if (load) {
                here.copyFrom(there);
            } else {
                there.copyFrom(here);
            }
        }
    }

    private void dotTiles(int acc, int a, int b) {
        require(acc != a && acc != b && a != b, "three tiles");
        int rows = sizes(acc)[0];
        int columns = sizes(acc)[1] / 4;
        int pairs = sizes(a)[1] / 4;
        require(sizes(a)[0] == rows && sizes(b)[0] == pairs && sizes(b)[1] == 4 * columns, "tiles that fit");
        MemorySegment left = MemorySegment.ofArray(tiles[a]);
        MemorySegment right = MemorySegment.ofArray(tiles[b]);
        MemorySegment result = MemorySegment.ofArray(tiles[acc]);
        for (int m = 0; m < rows; m++) {
            for (int n = 0; n < columns; n++) {
                float even = 0;
                float odd = 0;
                for (int k = 0; k < pairs; k++) {
                    int x = left.get(INT, 64L * m + 4L * k);
                    int y = right.get(INT, 64L * k + 4L * n);
                    even = flushed(Math.fma(lower(x), lower(y), even));
                    odd = flushed(Math.fma(upper(x), upper(y), odd));
                }
                float before = flushed(result.get(FLOAT, 64L * m + 4L * n));
                result.set(FLOAT, 64L * m + 4L * n, flushed(before + flushed(even + odd)));
            }
        }
    }
}
