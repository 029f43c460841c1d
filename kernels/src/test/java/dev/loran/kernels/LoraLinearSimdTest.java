package dev.loran.kernels;

import dev.loran.engine.Buffer;
import dev.loran.engine.DropoutMask;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// The linear layer with LoRA against the composed one in double precision, at sizes of several blocks.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class LoraLinearSimdTest {
    private KernelCheck check;

    @BeforeAll
    void open() {
        check = new KernelCheck();
    }

    @AfterAll
    void close() {
        check.close();
    }

    @ParameterizedTest
    @CsvSource({
        "1, 1, 1, 1, true, false",
        "7, 33, 5, 1, true, true",
        "33, 7, 33, 3, false, true",
        "65, 64, 48, 8, true, false",
        "70, 130, 65, 16, false, false",
        "300, 100, 64, 16, true, true",
    })
    void agreesWithComposed(int n, int in, int out, int r, boolean dropout, boolean accumulate) {
        check.agree("loraLinear", m -> {
            Buffer x = m.in((long) n * in);
            Buffer w = m.prepared(m.in((long) out * in, 1 / Math.sqrt(in), 0), out, in);
            Buffer bias = accumulate ? m.in(out) : null;
            Buffer a = m.in((long) r * in, 1 / Math.sqrt(in), 0);
            Buffer b = m.in((long) out * r);
            Buffer dy = m.in((long) n * out);
            DropoutMask mask = dropout ? new DropoutMask(0.3, 77, 5, m.ints(9)) : null;
            Buffer t = m.out("t", (long) n * r);
            m.backend().loraLinear(m.out("y", (long) n * out), t, x, w, bias, a, b, mask, n, in, out, r, 1.5);
            m.backend()
                    .loraLinearBackward(
                            m.out("dx", (long) n * in, accumulate),
                            m.out("da", (long) r * in, accumulate),
                            m.out("db", (long) out * r, accumulate),
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            accumulate,
                            accumulate,
                            accumulate);
            m.backend()
                    .loraLinearBackward(
                            null,
                            m.out("da alone", (long) r * in),
                            null,
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            false,
                            false,
                            false);
            m.backend()
                    .loraLinearBackward(
                            m.out("dx alone", (long) n * in),
                            null,
                            null,
                            dy,
                            x,
                            t,
                            w,
                            a,
                            b,
                            mask,
                            n,
                            in,
                            out,
                            r,
                            1.5,
                            false,
                            false,
                            false);
        });
    }
}
