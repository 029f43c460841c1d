package dev.loran.engine.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Autograd;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.testing.OpCase.Input;
import dev.loran.engine.testing.OpCase.Role;
import dev.loran.engine.testing.OpCase.Run;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;

/// The harness, applied to an operation from outside the engine: it must accept the correct version and detect every
/// flaw.
class OpCaseTest {
    /// The ways in which an operation can be wrong.
    private enum Flaw {
        NONE,
        GRADIENT,
        KEEPS_MEMORY,
        LEAKS,
        SHAPE,
        COMPOSED
    }

    /// y = x · silu(gate), as a user of the library would write it.
    private record Swiglu(Tensor x, Tensor gate, Tensor silu, Flaw flaw) implements Op {
        static Tensor forward(Tensor x, Tensor gate, Flaw flaw) {
            Backend be = x.backend();
            try (Scratch scratch = new Scratch(be)) {
                Tensor silu = Tensor.own(x.shape(), scratch.like(x.buffer()));
                Buffer y = scratch.like(x.buffer());
                be.unary(UnaryFn.SILU, silu.buffer(), gate.buffer());
                int[] n = {Math.toIntExact(y.size())};
                be.binary(BinaryFn.MUL, y, x.buffer(), silu.buffer(), n, new int[] {1}, new int[] {1});
                if (flaw == Flaw.KEEPS_MEMORY && !Autograd.isRecording() || flaw == Flaw.LEAKS) {
                    be.allocate(DType.F32, 100);
                }
                Shape shape = flaw == Flaw.SHAPE ? Shape.of(n) : x.shape();
                return Autograd.record(new Swiglu(x, gate, silu, flaw), shape, y.retain());
            }
        }

        @Override
        public List<Tensor> inputs() {
            return List.of(x, gate);
        }

        @Override
        public List<Tensor> saved() {
            return List.of(x, gate, silu);
        }

        @Override
        public void backward(Tensor gradOut, Gradients gradients) {
            Backend be = x.backend();
            int[] n = {Math.toIntExact(gradOut.shape().size())};
            int[] one = {1};
            try (Scratch scratch = new Scratch(be)) {
                Buffer dx = scratch.like(x.buffer());
                Buffer dSilu = scratch.like(x.buffer());
                be.binary(BinaryFn.MUL, dx, gradOut.buffer(), silu.buffer(), n, one, one);
                be.binary(BinaryFn.MUL, dSilu, gradOut.buffer(), x.buffer(), n, one, one);
                if (gradients.wants(x)) {
                    gradients.pass(x, dx);
                }
                if (gradients.wants(gate)) {
                    Gradient d = gradients.into(gate);
                    UnaryFn fn = flaw == Flaw.GRADIENT ? UnaryFn.SIGMOID : UnaryFn.SILU;
                    be.unaryBackward(fn, d.buffer(), dSilu, gate.buffer(), d.accumulate());
                }
            }
        }
    }

    private static OpCase swiglu(int n, int c, Flaw flaw) {
        return OpCase.of("swiglu", n + "x" + c, Shape.of(n, c), in -> Swiglu.forward(in.get("x"), in.get("gate"), flaw))
                .with(Input.trainable("x", n, c), Input.trainable("gate", n, c))
                .composed(in ->
                        in.get("x").mul(Functional.silu(in.get("gate")).scale(flaw == Flaw.COMPOSED ? 1.001 : 1)))
                .flops(5L * n * c, 9L * n * c);
    }

    @Test
    void passesTheRightOne() {
        swiglu(7, 33, Flaw.NONE).checkReference();
        swiglu(1, 1, Flaw.NONE).check(new ReferenceBackend());
    }

    @Test
    void catchesAWrongGradient() {
        assertThatThrownBy(swiglu(7, 33, Flaw.GRADIENT)::checkReference)
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith(
                        "gradCheck swiglu (7x33): gradient of gate (7, 33) is wrong: <v, Jᵀ·u> by " + "backward is ")
                .hasMessageContaining(" but <J·v, u> by differences is ");
    }

    @Test
    void catchesMemoryKeptUnderNoGrad() {
        assertThatThrownBy(swiglu(7, 33, Flaw.KEEPS_MEMORY)::checkReference)
                .isInstanceOf(AssertionError.class)
                .hasMessage("swiglu (7x33): under noGrad forward keeps 2248 bytes, its result has 1848");
    }

    @Test
    void catchesALeak() {
        assertThatThrownBy(() -> swiglu(7, 33, Flaw.LEAKS).check(new ReferenceBackend()))
                .isInstanceOf(AssertionError.class)
                .hasMessageMatching("swiglu \\(7x33\\) on reference, F64: \\d+ bytes were never released");
    }

    @Test
    void catchesAWrongShape() {
        assertThatThrownBy(swiglu(7, 33, Flaw.SHAPE)::checkReference)
                .isInstanceOf(AssertionError.class)
                .hasMessage("swiglu (7x33): result is (231), the case says (7, 33)");
    }

    @Test
    void catchesAFusedFormThatDiffersFromTheComposedOne() {
        assertThatThrownBy(swiglu(7, 33, Flaw.COMPOSED)::checkReference)
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("swiglu (7x33) on composed form: result: element 0 is ")
                .hasMessageContaining("231 of 231 elements");
    }

    // ---- another backend

    /// A backend whose SILU is off in one element, or whose backward overwrites where it should accumulate.
    private static final class Wrong extends ReferenceBackend {
        boolean forward;
        boolean accumulates;

        @Override
        public String name() {
            return "wrong";
        }

        @Override
        public boolean supports(DType dtype) {
            return dtype == DType.F32;
        }

        @Override
        public void unary(UnaryFn fn, Buffer y, Buffer x) {
            super.unary(fn, y, x);
            if (forward) {
                Buffer last = y.slice(y.size() - 1, 1);
                axpby(last, last, 1.01, 0);
            }
        }

        @Override
        public void unaryBackward(UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
            super.unaryBackward(fn, dx, dy, x, accumulate && !accumulates);
        }
    }

    @Test
    void catchesABackendThatIsOffInOneElement() {
        Wrong backend = new Wrong();
        backend.forward = true;
        assertThatThrownBy(() -> swiglu(7, 33, Flaw.NONE).check(backend))
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("swiglu (7x33) on wrong, F32: result: element 230 is ")
                .hasMessageContaining("1 of 231 elements");
    }

    @Test
    void catchesABackendThatOverwritesWhereItShouldAdd() {
        Wrong backend = new Wrong();
        backend.accumulates = true;
        assertThatThrownBy(() -> swiglu(7, 33, Flaw.NONE).check(backend))
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("swiglu (7x33) on wrong, F32: gradient of gate accumulated: element 0 is ");
    }

    @Test
    void aLooserBoundIsTheCasesOwn() {
        Wrong backend = new Wrong();
        backend.forward = true;
        OpCase loose = swiglu(7, 33, Flaw.NONE).tolerance(DType.F32, 0.1);
        assertThat(loose.tolerance(DType.F32).bound()).isEqualTo(0.1);
        assertThat(loose.tolerance(DType.F64)).isEqualTo(Tolerance.of(DType.F64));
        assertThatCode(() -> loose.check(backend)).doesNotThrowAnyException();
    }

    @Test
    void aBackendThatSupportsNothingIsNoSuccess() {
        ReferenceBackend none = new ReferenceBackend() {
            @Override
            public boolean supports(DType dtype) {
                return false;
            }
        };
        assertThatThrownBy(() -> swiglu(7, 33, Flaw.NONE).check(none))
                .isInstanceOf(AssertionError.class)
                .hasMessage("swiglu (7x33): reference supports none of [F64, F32, BF16, F16]");
    }

    // ---- what is not supported

    @Test
    void whatIsListedMustBeRefused() {
        OpCase listed = swiglu(7, 33, Flaw.NONE).unsupported("reference", DType.F32, "for the test");
        ReferenceBackend backend = new ReferenceBackend();
        assertThat(listed.refusal(backend, DType.F32)).isEqualTo("for the test");
        assertThat(listed.refusal(backend, DType.F64)).isNull();
        assertThat(listed.refusal(backend, DType.BF16)).isEqualTo("reference computes no BF16");
        assertThatThrownBy(() -> listed.check(backend))
                .isInstanceOf(AssertionError.class)
                .hasMessage(
                        "swiglu (7x33) on reference, F32 is listed as unsupported, but works: take it off the list");
        OpCase refusing = OpCase.of("refusing", "", Shape.of(3), in -> {
                    if (in.get("x").dtype() == DType.F32) {
                        throw new DTypeException("refusing: F32");
                    }
                    return in.get("x").scale(2);
                })
                .with(Input.trainable("x", 3))
                .unsupported("reference", DType.F32, "for the test");
        assertThatCode(() -> refusing.check(backend)).doesNotThrowAnyException();
    }

    // ---- the description

    @Test
    void bytesAreThoseOfArgumentsAndResult() {
        OpCase c = OpCase.of("op", "", Shape.of(7, 3), in -> in.get("x"))
                .with(Input.trainable("x", 7, 5), Input.prepared("w", 3, 5), Input.integers("ids", 0, 9, 7));
        assertThat(c.bytes(DType.F32)).isEqualTo((21 + 35 + 15 + 7) * 4);
        assertThat(c.bytes(DType.BF16)).isEqualTo((21 + 35 + 15) * 2 + 7 * 4);
        assertThat(c.backwardBytes(DType.F32)).isEqualTo(c.bytes(DType.F32) + 35 * 4);
    }

    @Test
    void anArgumentThatIsNotThereIsNamed() {
        OpCase c = OpCase.of("op", "", Shape.of(3), in -> in.get("y")).with(Input.trainable("x", 3));
        assertThatThrownBy(c::checkReference)
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("opCase: the case has no input named y");
        assertThatThrownBy(() -> c.with(Input.trainable("x", 5)))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("op (): two inputs have the same name");
    }

    @Test
    void theSameArgumentsEachTimeAndOnEachBackend() {
        ReferenceBackend backend = new ReferenceBackend();
        OpCase c = swiglu(7, 33, Flaw.NONE);
        try (Run a = c.on(backend, DType.F64);
                Run b = c.on(backend, DType.F64)) {
            assertThat(a.get("x").toDoubles()).containsExactly(b.get("x").toDoubles());
            assertThat(a.get("x").toDoubles()).isNotEqualTo(a.get("gate").toDoubles());
            a.step();
            assertThat(a.get("x").grad()).as("a step drops its gradients").isNull();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void casesHaveNamesOfTheirOwn() {
        Set<String> names = new HashSet<>();
        for (OpCase c : OpCases.all()) {
            assertThat(names.add(c.toString())).as(c.toString()).isTrue();
        }
    }

    /// At these sizes the reference would take minutes, so this only checks that arguments and results fit.
    @Test
    void benchmarksDescribeWhatTheyTime() {
        Set<String> ops = new HashSet<>();
        for (OpCase c : OpCases.benchmarks()) {
            assertThat(OpCases.benchmark(c.op()).op()).isEqualTo(c.op());
            assertThat(ops.add(c.op())).as("%s twice", c.op()).isTrue();
            assertThat(c.inputs()).anyMatch(i -> i.role() == Role.TRAINABLE);
            assertThat(c.bytes(DType.F32)).isGreaterThan(1 << 20);
        }
        assertThatThrownBy(() -> OpCases.benchmark("nothing"))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageStartingWith("benchmark: no case for nothing; there are [add, mul, ");
    }
}
