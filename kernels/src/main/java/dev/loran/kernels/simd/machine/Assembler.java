package dev.loran.kernels.simd.machine;

import java.util.Arrays;

/// Emits the few x86-64 instructions that the Vector API cannot express, and those needed for loops around them.
///
/// General-purpose registers have names. Vector registers are numbers 0 … 31 and, except in [#storeHalf], 512 bits wide;
/// in the methods whose names end in 256, they are numbers 0 … 15 and 256 bits wide (AVX2). Tiles are numbers 0 … 7. A
/// memory operand is `[base + index · scale + displacement]`. **Source**: Intel 64 and IA-32 Architectures Software
/// Developer's Manual, volume 1, chapter 18 (tiles), and volume 2, chapters 2 (prefixes) and 3 to 5 (instructions).
public final class Assembler {
    /// General-purpose registers, in order of their numbers.
    public enum Gp {
        RAX,
        RCX,
        RDX,
        RBX,
        RSP,
        RBP,
        RSI,
        RDI,
        R8,
        R9,
        R10,
        R11
    }

    /// `[base + index · scale + displacement]`; without an index, scale is 0.
    public record Mem(Gp base, Gp index, int scale, int displacement) {
        public static Mem at(Gp base) {
            return at(base, 0);
        }

        public static Mem at(Gp base, int displacement) {
            return new Mem(base, Gp.RSP, 0, displacement);
        }

        public static Mem at(Gp base, Gp index, int scale) {
            return at(base, index, scale, 0);
        }

        public static Mem at(Gp base, Gp index, int scale, int displacement) {
            return new Mem(base, index, scale, displacement);
        }

        private int indexNumber() {
            return scale == 0 ? 0 : number(index);
        }
    }

    private static final int MAP_0F = 1;
    private static final int MAP_0F38 = 2;
    private static final int P_NONE = 0;
    private static final int P_66 = 1;
    private static final int P_F3 = 2;
    private static final int P_F2 = 3;
    /// The W bit of an EVEX prefix, combined with the `P_…` constants.
    private static final int WIDE = 0x80;

    private static final int BITS_256 = 1;
    private static final int BITS_512 = 2;

    private byte[] code = new byte[1024];
    private int size;

    private static int number(Gp register) {
        return switch (register) {
            case RAX -> 0;
            case RCX -> 1;
            case RDX -> 2;
            case RBX -> 3;
            case RSP -> 4;
            case RBP -> 5;
            case RSI -> 6;
            case RDI -> 7;
            case R8 -> 8;
            case R9 -> 9;
            case R10 -> 10;
            case R11 -> 11;
        };
    }

    public byte[] bytes() {
        return Arrays.copyOf(code, size);
    }

    /// The position of the next instruction, used as a label to jump back to.
    public int here() {
        return size;
    }

    private void emit(int... bytes) {
        for (int b : bytes) {
            if (size == code.length) {
                code = Arrays.copyOf(code, 2 * size);
            }
            code[size++] = (byte) b;
        }
    }

    private void emitInt(int value) {
        emit(value, value >> 8, value >> 16, value >> 24);
    }

    // ---- vectors

    /// z = 0.
    public void zero(int z) {
        evex(P_66, MAP_0F, BITS_512, 0xef, z, z, z);
    }

    /// z = 16 floats.
    public void load(int z, Mem from) {
        evex(P_NONE, MAP_0F, BITS_512, 0x10, z, from);
    }

    /// 16 floats = z.
    public void store(Mem to, int z) {
        evex(P_NONE, MAP_0F, BITS_512, 0x11, z, to);
    }

    /// 8 floats, or 16 BF16, = the lower half of z.
    public void storeHalf(Mem to, int z) {
        evex(P_NONE, MAP_0F, BITS_256, 0x11, z, to);
    }

    /// Every 32-bit lane of z = the 32 bits in memory.
    public void broadcast(int z, Mem from) {
        evex(P_66, MAP_0F38, BITS_512, 0x58, z, from);
    }

    /// acc += x0 · y0 + x1 · y1 in every 32-bit lane, which holds a pair of BF16 in x and in y and an F32 in acc.
    public void dotBf16(int acc, int x, int y) {
        evex(P_F3, MAP_0F38, BITS_512, 0x52, acc, x, y);
    }

    /// The lower half of z = 16 floats in memory, rounded to BF16, to nearest even; subnormals become zero.
    public void toBf16(int z, Mem from) {
        evex(P_F3, MAP_0F38, BITS_512, 0x72, z, from);
    }

    /// The lower half of z = the floats of `lower`, its upper half = those of `upper`, rounded as in
    /// [#toBf16(int, Mem)].
    public void toBf16(int z, int upper, int lower) {
        evex(P_F2, MAP_0F38, BITS_512, 0x72, z, upper, lower);
    }

    /// 16-bit lane i of z = the lane of `from` whose number is in lane i of `index`.
    public void permuteHalves(int z, int index, int from) {
        evex(WIDE | P_66, MAP_0F38, BITS_512, 0x8d, z, index, from);
    }

    /// Sets the upper parts of all vector registers to zero, as older vector code expects.
    public void vzeroupper() {
        emit(0xc5, 0xf8, 0x77);
    }

    private void evex(int prefix, int map, int bits, int opcode, int reg, int vvvv, int rm) {
        evexPrefix(prefix, map, bits, reg, vvvv, rm >> 4 & 1, rm >> 3 & 1);
        emit(opcode, 0xc0 | (reg & 7) << 3 | rm & 7);
    }

    private void evex(int prefix, int map, int bits, int opcode, int reg, Mem mem) {
        evexPrefix(prefix, map, bits, reg, 0, mem.indexNumber() >> 3, number(mem.base()) >> 3);
        emit(opcode);
        operand(reg, mem);
    }

    private void evexPrefix(int prefix, int map, int bits, int reg, int vvvv, int x, int b) {
        emit(
                0x62,
                (~reg >> 3 & 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (~reg >> 4 & 1) << 4 | map,
                (~vvvv & 15) << 3 | 1 << 2 | prefix,
                bits << 5 | (~vvvv >> 4 & 1) << 3);
    }

    /// Emits the bytes of a memory operand. Displacements always take four bytes, because a one-byte displacement would
    /// be scaled by the vector size.
    private void operand(int reg, Mem mem) {
        int base = number(mem.base()) & 7;
        boolean displaced = mem.displacement() != 0 || base == 5;
        boolean indexed = mem.scale() != 0 || base == 4;
        emit((displaced ? 2 : 0) << 6 | (reg & 7) << 3 | (indexed ? 4 : base));
        if (indexed) {
            int index = mem.scale() == 0 ? 4 : mem.indexNumber() & 7;
            emit(Integer.numberOfTrailingZeros(Math.max(1, mem.scale())) << 6 | index << 3 | base);
        }
        if (displaced) {
            emitInt(mem.displacement());
        }
    }

    // ---- vectors of AVX2

    /// y = 0.
    public void zero256(int y) {
        vex256(P_NONE, MAP_0F, 0x57, y, y, y);
    }

    /// y = 8 floats.
    public void load256(int y, Mem from) {
        vex256(P_NONE, MAP_0F, 0x10, y, 0, from);
    }

    /// 8 floats = y.
    public void store256(Mem to, int y) {
        vex256(P_NONE, MAP_0F, 0x11, y, 0, to);
    }

    /// Every float of y = the float in memory.
    public void broadcast256(int y, Mem from) {
        vex256(P_66, MAP_0F38, 0x18, y, 0, from);
    }

    /// sum = x + 8 floats in memory.
    public void add256(int sum, int x, Mem from) {
        vex256(P_NONE, MAP_0F, 0x58, sum, x, from);
    }

    /// Every bit of y = 1.
    public void ones256(int y) {
        vex256(P_66, MAP_0F, 0x76, y, y, y);
    }

    /// y = x & z.
    public void and256(int y, int x, int z) {
        vex256(P_NONE, MAP_0F, 0x54, y, x, z);
    }

    /// y = the 32-bit integers of x, shifted to the left.
    public void shiftLeft256(int y, int x, int bits) {
        vex256(P_66, MAP_0F, 0x72, 6, y, x);
        emit(bits);
    }

    /// acc += x · y, rounded once.
    public void multiplyAdd256(int acc, int x, int y) {
        vex256(P_66, MAP_0F38, 0xb8, acc, x, y);
    }

    private void vex256(int prefix, int map, int opcode, int reg, int vvvv, int rm) {
        emit(0xc4, (~reg >> 3 & 1) << 7 | 0x40 | (~rm >> 3 & 1) << 5 | map, (~vvvv & 15) << 3 | 4 | prefix, opcode);
        emit(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    private void vex256(int prefix, int map, int opcode, int reg, int vvvv, Mem mem) {
        int x = mem.indexNumber() >> 3;
        int b = number(mem.base()) >> 3;
        emit(0xc4, (~reg >> 3 & 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map, (~vvvv & 15) << 3 | 4 | prefix, opcode);
        operand(reg, mem);
    }

    // ---- tiles

    /// Loads the sizes of all tiles from 64 bytes of memory, and sets all tiles to zero.
    public void loadTileConfig(Mem from) {
        vex(P_NONE, 0x49, 0, 0, from);
    }

    /// Returns all tiles to their initial state, in which the operating system need not save them.
    public void releaseTiles() {
        vex(P_NONE, 0x49, 0, 0, 0);
    }

    /// tile = 0.
    public void zeroTile(int tile) {
        vex(P_F2, 0x49, tile, 0, 0);
    }

    /// tile = rows of memory, which begin at `base + displacement` and are `index` bytes apart; `scale` is 1.
    public void loadTile(int tile, Mem from) {
        vex(P_F2, 0x4b, tile, 0, from);
    }

    /// Rows of memory, specified as in [#loadTile], = tile.
    public void storeTile(Mem to, int tile) {
        vex(P_F3, 0x4b, tile, 0, to);
    }

    /// acc (m, n) += a · b, accumulated in F32. In a, (m, k), pairs of BF16 run along a row; in b, (k, n), each pair
    /// runs down a column.
    public void dotTiles(int acc, int a, int b) {
        vex(P_F3, 0x5c, acc, b, a);
    }

    private void vex(int prefix, int opcode, int reg, int vvvv, int rm) {
        emit(0xc4, 0xe0 | MAP_0F38, (~vvvv & 15) << 3 | prefix, opcode, 0xc0 | reg << 3 | rm);
    }

    private void vex(int prefix, int opcode, int reg, int vvvv, Mem mem) {
        int x = mem.indexNumber() >> 3;
        int b = number(mem.base()) >> 3;
        emit(0xc4, 0x80 | (x ^ 1) << 6 | (b ^ 1) << 5 | MAP_0F38, (~vvvv & 15) << 3 | prefix, opcode);
        operand(reg, mem);
    }

    // ---- integers and jumps

    private void wide(int reg, Mem mem, int opcode) {
        emit(0x48 | reg >> 3 << 2 | mem.indexNumber() >> 3 << 1 | number(mem.base()) >> 3, opcode);
        operand(reg, mem);
    }

    /// to = 8 bytes of memory.
    public void move(Gp to, Mem from) {
        wide(number(to), from, 0x8b);
    }

    /// to = the address.
    public void address(Gp to, Mem of) {
        wide(number(to), of, 0x8d);
    }

    /// to = from.
    public void move(Gp to, Gp from) {
        emit(0x48 | number(from) >> 3 << 2 | number(to) >> 3, 0x89, 0xc0 | (number(from) & 7) << 3 | number(to) & 7);
    }

    /// to = value.
    public void set(Gp to, int value) {
        emit(0x48 | number(to) >> 3, 0xc7, 0xc0 | number(to) & 7);
        emitInt(value);
    }

    /// to += value.
    public void add(Gp to, int value) {
        emit(0x48 | number(to) >> 3, 0x81, 0xc0 | number(to) & 7);
        emitInt(value);
    }

    /// register -= 1, setting the zero flag if the result is 0.
    public void decrement(Gp register) {
        emit(0x48 | number(register) >> 3, 0xff, 0xc8 | number(register) & 7);
    }

    /// Brings the cache line with this address into the first-level cache.
    public void prefetch(Mem line) {
        if ((number(line.base()) | line.indexNumber()) > 7) {
            emit(0x40 | line.indexNumber() >> 3 << 1 | number(line.base()) >> 3);
        }
        emit(0x0f, 0x18);
        operand(1, line);
    }

    /// Jumps over what `body` emits if the register is zero.
    public void unlessZero(Gp register, Runnable body) {
        int r = number(register);
        emit(0x48 | r >> 3 << 2 | r >> 3, 0x85, 0xc0 | (r & 7) << 3 | r & 7, 0x0f, 0x84);
        emitInt(0);
        int from = size;
        body.run();
        int to = size;
        size = from - 4;
        emitInt(to - from);
        size = to;
    }

    /// Jumps back to `label` unless the last [#decrement] resulted in zero.
    public void jumpIfNotZero(int label) {
        emit(0x0f, 0x85);
        emitInt(label - (here() + 4));
    }

    public void push(Gp register) {
        if (number(register) > 7) {
            emit(0x41);
        }
        emit(0x50 | number(register) & 7);
    }

    public void pop(Gp register) {
        if (number(register) > 7) {
            emit(0x41);
        }
        emit(0x58 | number(register) & 7);
    }

    public void ret() {
        emit(0xc3);
    }
}
