package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.testing.OpCase;
import dev.loran.engine.testing.OpCases;
import org.junit.jupiter.api.Test;
import org.openjdk.jmh.annotations.Param;

class OpBenchmarkTest {
    @Test
    void timesEveryCaseThatIsWorthTiming() throws NoSuchFieldException {
        String[] names =
                OpBenchmark.class.getField("op").getAnnotation(Param.class).value();
        assertThat(names)
                .containsExactlyInAnyOrderElementsOf(
                        OpCases.benchmarks().stream().map(OpCase::op).toList());
    }
}
