package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.ReferenceBackend;
import dev.loran.engine.Tensor;
import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import dev.loran.engine.testing.Tolerance;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Operations on F32 whose products take operands of BF16, against the reference in double precision on the same, unrounded
/// inputs: as close as BF16 is.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaMixedTest {
    private static final Set<String> PRODUCTS = Set.of(
            "matmul",
            "linear",
            "loraLinear",
            "bottleneck",
            "attention",
            "linearCrossEntropy",
            "embedding",
            "checkpoint");

    private CudaBackend backend;

    @BeforeAll
    void open() {
        backend = StandIn.open(DType.BF16);
    }

    @AfterAll
    void close() {
        if (backend != null) {
            backend.close();
        }
    }

    static Collection<OpCase> operations() {
        return OpCases.all().stream().filter(c -> PRODUCTS.contains(c.op())).toList();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("operations")
    void staysWithinWhatRoundedOperandsCost(OpCase c) {
        Tolerance tolerance = c.tolerance(DType.BF16);
        try (ReferenceBackend reference = new ReferenceBackend()) {
            List<double[]> expected = run(c, reference, DType.F64);
            List<double[]> actual = run(c, backend, DType.F32);
            assertThat(actual).hasSameSizeAs(expected);
            for (int i = 0; i < expected.size(); i++) {
                tolerance.check(c + (i == 0 ? ": result" : ": gradient " + (i - 1)), expected.get(i), actual.get(i));
            }
        }
        assertThat(backend.liveBytes()).isZero();
    }

    /// The result, then the gradients.
    private static List<double[]> run(OpCase c, Backend backend, DType dtype) {
        List<double[]> all = new ArrayList<>();
        try (OpCase.Run run = c.on(backend, dtype);
                Tensor y = run.forward();
                Tensor dy = slopes(y)) {
            y.backward(dy);
            all.add(y.toDoubles());
            for (Tensor t : run.arguments().values()) {
                Tensor grad = t.grad();
                if (grad != null) {
                    all.add(grad.toDoubles());
                }
            }
        }
        return all;
    }

    private static Tensor slopes(Tensor y) {
        double[] values = new double[Math.toIntExact(y.shape().size())];
        Arrays.setAll(values, i -> 1 + Math.sin(i));
        return Tensor.of(y.backend(), y.dtype(), values, y.shape().dims());
    }
}
