package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.Backends;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/// A program that was started without the Vector API's module is told once that it is slow.
class SlowBackendTest {
    private static final String SLOW =
            "backend: reference, scalar loops on one thread; not simd: the Vector API is off; start the JVM with"
                    + " --add-modules=jdk.incubator.vector";

    @Test
    void withALoggerItTells() throws Exception {
        assertThat(standardError(true)).containsOnlyOnce(SLOW).contains("WARN " + Backends.class.getName());
    }

    @Test
    void withoutOneStandardErrorDoes() throws Exception {
        assertThat(standardError(false)).containsOnlyOnce(SLOW).contains("WARNING: " + SLOW);
    }

    private static String standardError(boolean logger) throws IOException, InterruptedException {
        String classPath = Arrays.stream(System.getProperty("java.class.path").split(File.pathSeparator))
                .filter(entry -> logger || !entry.contains("slf4j-simple"))
                .collect(Collectors.joining(File.pathSeparator));
        ProcessBuilder builder = new ProcessBuilder(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp",
                classPath,
                Program.class.getName()));
        builder.environment().remove("JDK_JAVA_OPTIONS");
        builder.environment().remove("JAVA_TOOL_OPTIONS");
        builder.redirectOutput(ProcessBuilder.Redirect.DISCARD);
        Process process = builder.start();
        String told = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(told).isZero();
        return told;
    }

    /// Runs in a separate JVM.
    static final class Program {
        private Program() {}

        public static void main(String[] args) {
            Backends.best().close();
            Backends.best(1).close();
            try {
                Backends.requireFast();
                throw new AssertionError("the reference is not fast");
            } catch (BackendException expected) {
                System.out.println(expected.getMessage());
            }
        }
    }
}
