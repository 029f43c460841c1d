package dev.loran.engine.backend;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.PackingBackend;
import dev.loran.engine.Tensor;
import org.junit.jupiter.api.Test;

/// Reference counting.
class BufferTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @Test
    void theLastReleaseGivesTheMemoryBack() {
        Buffer b = backend.allocate(DType.F32, 7);
        assertThat(b.isUnique()).isTrue();
        assertThat(b.retain()).isSameAs(b);
        assertThat(b.isUnique()).isFalse();
        b.release();
        assertThat(b.isLive()).isTrue();
        assertThat(backend.liveBytes()).isEqualTo(28);
        b.release();
        assertThat(b.isLive()).isFalse();
        assertThat(backend.liveBytes()).isZero();
    }

    @Test
    void aSliceSharesTheCountOfItsRoot() {
        Buffer b = backend.allocate(DType.F64, 10);
        backend.fill(b, 1);
        Buffer slice = b.slice(2, 6);
        Buffer inner = slice.slice(1, 2);
        assertThat(inner.size()).isEqualTo(2);
        backend.fill(inner, 5);
        slice.retain();
        b.release();
        assertThat(inner.isLive()).isTrue();
        assertThat(HostBuffer.get(HostBuffer.segment(slice), DType.F64, 0)).isEqualTo(1);
        assertThat(HostBuffer.get(HostBuffer.segment(slice), DType.F64, 1)).isEqualTo(5);
        inner.release();
        assertThat(b.isLive()).isFalse();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void releasingTooOftenIsRefused() {
        Buffer b = backend.allocate(DType.F32, 7);
        b.release();
        assertThatThrownBy(b::release)
                .isInstanceOf(BackendException.class)
                .hasMessage("buffer: released more often than retained (F32, 7 elements)");
    }

    @Test
    void retainingWhatIsGoneIsRefused() {
        Buffer b = backend.allocate(DType.F32, 7);
        b.release();
        assertThatThrownBy(b::retain)
                .isInstanceOf(BackendException.class)
                .hasMessage("buffer: retain after the last release (F32, 7 elements)");
        assertThat(b.isLive()).isFalse();
    }

    @Test
    void memoryElsewhereIsNoSegment() {
        PackingBackend packing = new PackingBackend();
        try (Tensor w = Tensor.full(packing, DType.F32, 1, 2, 3)) {
            w.prepare();
            assertThatThrownBy(() -> HostBuffer.segment(w.buffer()))
                    .isInstanceOf(BackendException.class)
                    .hasMessage("buffer: not host memory, but Packed");
        }
    }

    @Test
    void scratchGivesBackWhatItHeldAlsoWhenTheBlockThrows() {
        Buffer[] kept = new Buffer[1];
        assertThatThrownBy(() -> {
                    try (Scratch scratch = new Scratch(backend)) {
                        Buffer a = scratch.allocate(DType.F32, 3);
                        scratch.like(a);
                        kept[0] = scratch.hold(backend.of(DType.F64, 1)).retain();
                        throw new IllegalStateException("test");
                    }
                })
                .hasMessage("test");
        assertThat(backend.liveBuffers()).isEqualTo(1);
        kept[0].release();
        assertThat(backend.liveBuffers()).isZero();
    }
}
