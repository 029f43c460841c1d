package dev.loran.peft.model.encoder;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Attention that depends on distances.
class RelativeAttentionTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    /// Values of transformers' MPNetEncoder.relative_position_bucket.
    @Test
    void bucketsOfMpNet() {
        int[] distances = {-500, -128, -127, -91, -90, -64, -63, -16, -8, -7, 0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 128};
        int[] rows = {15, 15, 15, 15, 14, 14, 13, 10, 8, 7, 0, 17, 23, 24, 25, 26, 27, 28, 29, 30, 31};
        assertThat(IntStream.of(distances).map(MpNetModel::bucket).toArray()).isEqualTo(rows);
    }

    /// Values of transformers' make_log_bucket_position for 256 buckets and 512 positions, and for 8 and 20.
    @Test
    void bucketsOfDeberta() {
        int[] distances = {-511, -300, -129, -128, -127, -1, 0, 1, 128, 129, 130, 200, 256, 300, 400, 511};
        int[] rows = {-255, -207, -129, -128, -127, -1, 0, 1, 128, 129, 130, 169, 192, 207, 233, 255};
        assertThat(IntStream.of(distances)
                        .map(d -> DebertaModel.bucket(d, 256, 512))
                        .toArray())
                .isEqualTo(rows);
        int[] few = {0, 1, 2, 3, 4, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7};
        assertThat(IntStream.range(0, 20)
                        .map(d -> DebertaModel.bucket(d, 8, 20))
                        .toArray())
                .isEqualTo(few);
    }

    /// The same as with all scores at once.
    @ParameterizedTest
    @CsvSource({"1, 7", "2, 3", "3, 12", "5, 23"})
    void aWindowHidesWhatIsFar(int reach, int t) {
        try (Scope scope = Scope.open();
                RelativeAttention.Window window = new RelativeAttention.Window(reach)) {
            SplittableRandom random = new SplittableRandom(1);
            Tensor q = Tensor.randn(backend, DType.F64, random, 1, 2, 3, t, 4);
            Tensor k = Tensor.randn(backend, DType.F64, random, 1, 2, 3, t, 4);
            Tensor v = Tensor.randn(backend, DType.F64, random, 1, 2, 3, t, 4);
            int[] shown = IntStream.range(0, 3 * t)
                    .map(i -> i % t == 2 || i / t == 1 && i % t > t - 2 ? 0 : 1)
                    .toArray();
            Tensor mask = Tensor.ofInts(backend, shown, 3, t);
            double[] bias = new double[t * t];
            for (int i = 0; i < bias.length; i++) {
                bias[i] = Math.abs(i / t - i % t) <= reach ? 0 : -6e4;
            }
            Tensor whole =
                    RelativeAttention.attend(q, k, v, Tensor.of(backend, DType.F64, bias, 1, 1, t, t), mask, null);
            Tensor spans = window.attend(q, k, v, mask, null);
            assertThat(spans.shape()).isEqualTo(whole.shape());
            double[] expected = whole.toDoubles();
            double[] actual = spans.toDoubles();
            for (int i = 0; i < actual.length; i++) {
                assertThat(actual[i]).isCloseTo(expected[i], within(1e-12));
            }
        }
    }

    @Test
    void valuesMoveByDistanceToTheirPlaces() {
        try (Scope scope = Scope.open()) {
            int t = 4;
            // Row i holds 10 · i + the distance.
            double[] byDistance = IntStream.range(0, t * (2 * t - 1))
                    .mapToDouble(i -> 10 * (i / (2 * t - 1)) + i % (2 * t - 1) - (t - 1))
                    .toArray();
            Tensor x = Tensor.of(backend, DType.F64, byDistance, 1, t, 2 * t - 1);
            double[] y = RelativeAttention.byPlace(x).toDoubles();
            for (int i = 0; i < t; i++) {
                for (int j = 0; j < t; j++) {
                    assertThat(y[i * t + j]).isEqualTo(10 * i + j - i);
                }
            }
        }
    }
}
