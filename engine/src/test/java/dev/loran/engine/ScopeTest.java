package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/// Who closes a tensor, and when.
class ScopeTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    private Tensor make() {
        return Tensor.full(backend, DType.F32, 1, 3);
    }

    @Test
    void closesWhatWasMadeInIt() {
        Tensor before = make();
        Tensor inside;
        Tensor result;
        try (Scope scope = Scope.open()) {
            inside = make();
            result = inside.add(before);
        }
        assertThat(inside.isClosed()).isTrue();
        assertThat(result.isClosed()).isTrue();
        assertThat(before.isClosed()).isFalse();
        before.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void keepHandsOverToTheEnclosingScopeOnly() {
        Tensor kept;
        try (Scope outer = Scope.open()) {
            try (Scope inner = Scope.open()) {
                kept = inner.keep(make());
                make();
            }
            assertThat(kept.isClosed()).isFalse();
            assertThat(backend.liveBuffers()).isEqualTo(1);
        }
        assertThat(kept.isClosed()).isTrue();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void keepWithoutAnEnclosingScopeHandsToTheCaller() {
        Tensor kept;
        try (Scope scope = Scope.open()) {
            kept = scope.keep(make());
        }
        assertThat(kept.isClosed()).isFalse();
        kept.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void keepingWhatBelongsElsewhereChangesNothing() {
        try (Scope outer = Scope.open()) {
            Tensor x = make();
            try (Scope inner = Scope.open()) {
                assertThat(inner.keep(x)).isSameAs(x);
            }
            assertThat(x.isClosed()).isFalse();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aTensorTakenOutIsTheCallers() {
        Tensor x;
        try (Scope scope = Scope.open()) {
            x = make().detachFromScope();
        }
        assertThat(x.isClosed()).isFalse();
        x.close();
        x.close();
        assertThat(backend.liveBuffers()).as("closing twice does nothing").isZero();
    }

    @Test
    void whatBackwardNeedsOutlivesTheScope() {
        Tensor x = make().requiresGrad(true);
        Tensor loss;
        try (Scope scope = Scope.open()) {
            Tensor hidden = Functional.gelu(x);
            loss = scope.keep(hidden.mul(hidden).sum());
        }
        loss.backward();
        assertThat(x.grad()).isNotNull();
        loss.close();
        x.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void closesAlsoWhenTheBlockThrows() {
        assertThatThrownBy(() -> {
                    try (Scope scope = Scope.open()) {
                        make();
                        make().matmul(make());
                    }
                })
                .isInstanceOf(ShapeException.class);
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void closingOutOfOrderIsRefused() {
        Scope outer = Scope.open();
        Scope inner = Scope.open();
        assertThatThrownBy(outer::close)
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("scope: closed out of order, or by another thread than the one that opened it");
        inner.close();
        outer.close();
        assertThatThrownBy(outer::close).isInstanceOf(IllegalStateException.class);
    }

    @Test
    void closingOnAnotherThreadIsRefused() throws InterruptedException {
        List<Throwable> thrown = new ArrayList<>();
        try (Scope scope = Scope.open()) {
            Thread other = Thread.ofPlatform().start(() -> {
                try {
                    scope.close();
                } catch (IllegalStateException e) {
                    thrown.add(e);
                }
            });
            other.join();
        }
        assertThat(thrown).hasSize(1);
    }

    @Test
    void scopesOfDifferentThreadsKnowNothingOfEachOther() throws InterruptedException {
        List<Tensor> made = new ArrayList<>();
        try (Scope scope = Scope.open()) {
            Thread other = Thread.ofPlatform().start(() -> made.add(make()));
            other.join();
        }
        assertThat(made.getFirst().isClosed()).isFalse();
        made.getFirst().close();
        assertThat(backend.liveBuffers()).isZero();
    }
}
