package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.Backend;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.kernels.simd.vector.Vectors;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class BackendsTest {
    @Test
    void bestIsSimdWhereTheFlagsAreSet() {
        try (Backend backend = Backends.best(2)) {
            assertThat(backend).isInstanceOf(SimdBackend.class);
        }
        assertThat(Backends.describe()).startsWith("backend: simd, " + Vectors.F.vectorBitSize() + "-bit vectors on ");
    }

    @Test
    void withoutTheModuleTheLineNamesTheFlag() throws Exception {
        assertThat(inOtherJvm())
                .contains(
                        "backend: reference, scalar loops on one thread; not simd: the Vector API is off; start the JVM with"
                                + " --add-modules=jdk.incubator.vector")
                .contains("best: reference")
                .contains("simd: the Vector API is off");
    }

    @Test
    void theSlowBackendIsToldOnceOnStandardErrorWhereNoLoggerIs() throws Exception {
        String slow =
                "WARNING: backend: reference, scalar loops on one thread; not simd: the Vector API is off; start the"
                        + " JVM with --add-modules=jdk.incubator.vector";
        assertThat(inOtherJvm()).containsOnlyOnce(slow);
        assertThat(inOtherJvm("--add-modules=jdk.incubator.vector")).doesNotContain("WARNING: backend");
    }

    @Test
    void withoutC2TheLineSaysSo() throws Exception {
        assertThat(inOtherJvm("--add-modules=jdk.incubator.vector", "-XX:TieredStopAtLevel=1"))
                .contains("not simd: the C2 compiler is off; start the JVM without -Xint and -XX:TieredStopAtLevel")
                .contains("best: reference");
    }

    @Test
    void withoutNativeAccessTheLineNamesTheFlag() throws Exception {
        assertThat(inOtherJvm("--add-modules=jdk.incubator.vector"))
                .contains("backend: simd, ")
                .contains("--enable-native-access=ALL-UNNAMED")
                .contains("best: simd");
    }

    @Test
    void machineCodeIsSwitchedOffByOneOption() throws Exception {
        assertThat(inOtherJvm(
                        "--add-modules=jdk.incubator.vector",
                        "--enable-native-access=ALL-UNNAMED",
                        "-Dloran.machineCode=off"))
                .contains("BF16 weights widened to F32 in products, for machine code is switched off by"
                        + " -Dloran.machineCode=off");
        assertThat(Backends.describeBf16()).startsWith("BF16 ");
    }

    /// Returns what [Main] prints on a JVM started with `flags` and no others.
    private static String inOtherJvm(String... flags) throws IOException, InterruptedException {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(List.of(flags));
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), Main.class.getName()));
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().remove("JDK_JAVA_OPTIONS");
        builder.environment().remove("JAVA_TOOL_OPTIONS");
        Process process = builder.start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(output).isZero();
        return output;
    }

    /// Runs in a separate JVM.
    static final class Main {
        private Main() {}

        public static void main(String[] args) {
            System.out.println(Backends.describe());
            System.out.println(Backends.describeBf16());
            try (Backend backend = Backends.best()) {
                System.out.println("best: " + backend.name());
            }
            Backends.best().close();
            try (Backend backend = Backends.simd(1)) {
                System.out.println("simd: " + backend.name());
            } catch (dev.loran.engine.backend.BackendException e) {
                System.out.println(e.getMessage());
            }
        }
    }
}
