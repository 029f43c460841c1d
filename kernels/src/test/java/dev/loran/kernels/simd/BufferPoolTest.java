package dev.loran.kernels.simd;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.BackendException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BufferPoolTest {
    @ParameterizedTest
    @ValueSource(longs = {0, 1, 63, 64, 65, 255, 256, 257, 1000, 4096, 4097, 1 << 20, (1 << 20) + 1, 3_000_000_001L})
    void aClassHoldsWhatWasAskedForAndLittleMore(long bytes) {
        long size = BufferPool.sizeClass(bytes);
        assertThat(size)
                .isGreaterThanOrEqualTo(Math.max(1, bytes))
                .isLessThanOrEqualTo(Math.max(64, bytes + bytes / 4 + 64));
        assertThat(size % 64).isZero();
        assertThat(BufferPool.sizeClass(size)).isEqualTo(size);
    }

    @Test
    void memoryIsUsedAgainAndCountedExactly() {
        try (BufferPool pool = new BufferPool(null)) {
            BufferPool.Block a = pool.take(1000);
            assertThat(a.memory().address() % 64).isZero();
            assertThat(pool.liveBytes()).isEqualTo(1000);
            pool.give(a, 1000);
            BufferPool.Block b = pool.take(1020);
            assertThat(b.memory().address()).isEqualTo(a.memory().address());
            assertThat(pool.systemAllocations()).isEqualTo(1);
            assertThat(pool.liveBytes()).isEqualTo(1020);
            BufferPool.Block c = pool.take(7);
            assertThat(pool.peakBytes()).isEqualTo(1027);
            pool.give(b, 1020);
            pool.give(c, 7);
            assertThat(pool.liveBytes()).isZero();
            assertThat(pool.peakBytes()).isEqualTo(1027);
            pool.resetPeak();
            assertThat(pool.peakBytes()).isZero();
        }
    }

    @Test
    void shorterRowsLiveInTheMemoryOfLongerOnes() {
        try (BufferPool pool = new BufferPool(null)) {
            BufferPool.Block large = pool.take(64 << 10);
            BufferPool.Block medium = pool.take(20 << 10);
            pool.give(large, 64 << 10);
            pool.give(medium, 20 << 10);
            BufferPool.Block first = pool.take(10 << 10);
            BufferPool.Block second = pool.take(10 << 10);
            assertThat(first.memory().address()).isEqualTo(medium.memory().address());
            assertThat(second.memory().address()).isEqualTo(large.memory().address());
            assertThat(pool.liveBytes()).isEqualTo(20 << 10);
            pool.give(first, 10 << 10);
            pool.give(second, 10 << 10);
            // Neither block may be used for a request this small.
            BufferPool.Block small = pool.take(1 << 10);
            assertThat(pool.systemAllocations()).isEqualTo(3);
            pool.give(small, 1 << 10);
        }
    }

    @Test
    void trimGivesFreeMemoryBack() {
        try (BufferPool pool = new BufferPool(null)) {
            BufferPool.Block free = pool.take(1 << 20);
            BufferPool.Block live = pool.take(1 << 20);
            pool.give(free, 1 << 20);
            pool.trim();
            assertThat(free.arena().scope().isAlive()).isFalse();
            assertThat(live.arena().scope().isAlive()).isTrue();
            pool.give(live, 1 << 20);
        }
    }

    @Test
    void retiredMemoryGoesBackToTheSystem() {
        try (BufferPool pool = new BufferPool(null)) {
            BufferPool.Block weight = pool.take(1 << 20);
            pool.retire(weight.memory().address());
            assertThat(weight.arena().scope().isAlive()).isTrue();
            pool.give(weight, 1 << 20);
            assertThat(weight.arena().scope().isAlive()).isFalse();
        }
    }

    @Test
    void whatIsOutWhenThePoolClosesIsFreedLater() {
        BufferPool pool = new BufferPool(null);
        BufferPool.Block block = pool.take(100);
        pool.close();
        assertThat(block.arena().scope().isAlive()).isTrue();
        pool.give(block, 100);
        assertThat(block.arena().scope().isAlive()).isFalse();
    }

    @Test
    void tooMuchIsAnErrorThatSaysHowMuch() {
        try (BufferPool pool = new BufferPool(null)) {
            BufferPool.Block block = pool.take(100);
            assertThatThrownBy(() -> pool.take(1L << 60))
                    .isInstanceOf(BackendException.class)
                    .hasMessageContaining("no memory for " + (1L << 60) + " bytes")
                    .hasMessageContaining("live buffers hold 100")
                    .hasMessageContaining("-XX:MaxDirectMemorySize");
            assertThat(pool.liveBytes()).isEqualTo(100);
            pool.give(block, 100);
        }
    }
}
