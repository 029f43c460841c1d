package dev.loran.kernels.simd.gemm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// The tiles in machine code against those of the Vector API, bit for bit. They run where vectors have 256 bits: with
/// wider ones, in the build's second run of these tests.
final class FmaTilesTest {
    /// Elements around and between the rows of C, which must stay as they are.
    private static final int GAP = 3;

    @ParameterizedTest(name = "{0} x {1} x {2}")
    @CsvSource({
        "1, 1, 1",
        "6, 16, 4",
        "6, 16, 1",
        "7, 16, 3",
        "5, 17, 33",
        "12, 24, 64",
        "33, 40, 129",
        "66, 48, 511",
        "64, 7, 513",
        "3, 31, 1025",
        "31, 16, 100",
        "32, 18, 257",
        "2, 100, 5",
        "4, 33, 8"
    })
    void sameBits(int m, int n, int k) {
        String obstacle = FmaTiles.obstacle();
        assumeTrue(obstacle == null, obstacle);
        try (Arena arena = Arena.ofShared();
                Parallel parallel = new Parallel(1)) {
            SplittableRandom random = new SplittableRandom(m + 31L * n + 977L * k);
            Operand a = Operand.dense(normal(arena, random, m * (k + GAP)), 0, m, k);
            Operand wide = new Operand(a.memory(), 0, k + GAP, false, m, k);
            Operand b = Operand.dense(normal(arena, random, k * n), 0, k, n);
            GemmPanels packed = GemmPanels.packed(arena.allocate(4 * GemmPanels.floats(k, n), 64), 0, k, n)
                    .pack(parallel, b);
            check(parallel, arena, random, a, packed);
            check(parallel, arena, random, wide, packed);
            if (n >= GemmTiles.COLUMNS) {
                check(parallel, arena, random, a, GemmPanels.inPlace(b));
            }
        }
    }

    @Test
    void multiplyAddsOfRegisters() {
        assertThat(FmaTiles.multiplyAdds()).isEqualTo(FmaTiles.obstacle() == null ? 1_000 * 50_000L * 12 * 8 * 2 : 0);
    }

    @ParameterizedTest(name = "{0} x {1}")
    @CsvSource({"2, 8", "2, 16", "66, 8", "512, 16"})
    void widensWithTheSameBits(int k, int width) {
        String obstacle = FmaTiles.obstacle();
        assumeTrue(obstacle == null, obstacle);
        try (Arena arena = Arena.ofShared()) {
            SplittableRandom random = new SplittableRandom(k + 31L * width);
            MemorySegment pairs = arena.allocate(2L * k * width + 4, 64);
            for (int i = 0; i < pairs.byteSize() / 4; i++) {
                pairs.setAtIndex(ValueLayout.JAVA_INT, i, random.nextInt());
            }
            MemorySegment is = arena.allocate(4L * (k + 1) * width, 64);
            MemorySegment should = arena.allocate(is.byteSize(), 64);
            FmaTiles.widen(is, new Bf16Tiles.Right(pairs, 4, width, k));
            Bf16Panels.widen(should, pairs, 4, width, k / 2);
            assertThat(is.toArray(ValueLayout.JAVA_INT)).isEqualTo(should.toArray(ValueLayout.JAVA_INT));
            assertThat(is.mismatch(arena.allocate(is.byteSize()))).isNotNegative();
        }
    }

    private static void check(Parallel parallel, Arena arena, SplittableRandom random, Operand a, GemmPanels b) {
        int size = a.rows() * (b.n() + GAP) + GAP;
        MemorySegment before = normal(arena, random, size);
        MemorySegment is = arena.allocate(4L * size, 64).copyFrom(before);
        MemorySegment should = arena.allocate(4L * size, 64).copyFrom(before);
        float[] tile = parallel.workspace().tile();
        for (int block = 0; block < b.blocks(); block++) {
            Operand left = a.columns(block * b.kBlock(), b.blockLength(block));
            // The first block replaces C and the others add to it; then all add.
            for (boolean onto : block == 0 ? new boolean[] {false, true} : new boolean[] {true}) {
                for (int panel = 0; panel < b.count(); panel++) {
                    FmaTiles.product(parallel.workspace(), c(is, a, b), left, b, panel, block, onto);
                    for (int row = 0; row < a.rows(); row += GemmTiles.ROWS) {
                        GemmTiles.product(tile, c(should, a, b), left, row, b, panel, block, onto);
                    }
                }
            }
        }
        assertThat(is.toArray(ValueLayout.JAVA_INT)).isEqualTo(should.toArray(ValueLayout.JAVA_INT));
        assertThat(is.mismatch(before)).as("the first element that was written").isEqualTo(4L * GAP);
    }

    private static Operand c(MemorySegment memory, Operand a, GemmPanels b) {
        return new Operand(memory, 4L * GAP, b.n() + GAP, false, a.rows(), b.n());
    }

    private static MemorySegment normal(Arena arena, SplittableRandom random, int count) {
        MemorySegment memory = arena.allocate(4L * count, 64);
        for (int i = 0; i < count; i++) {
            memory.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) random.nextGaussian());
        }
        return memory;
    }
}
