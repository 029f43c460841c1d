package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import jcuda.nvptxcompiler.JNvPTXCompiler;
import jcuda.nvptxcompiler.nvPTXCompilerHandle;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// The shipped PTX, and the relinking of JCuda's native libraries to another cuBLAS.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaDeliveryTest {
    private static final Path SOURCES = Path.of("..", "src-cuda");

    @BeforeAll
    void extractWhereNobodyElseWrites(@TempDir Path folder) throws IOException {
        assumeTrue(
                CudaDeliveryTest.class.getResource("/lib/libJNvPTXCompiler-12.6.0-linux-x86_64.so") != null,
                "JCuda has no natives for this system");
        String before = System.getProperty("java.io.tmpdir");
        System.setProperty("java.io.tmpdir", Files.createDirectories(folder).toString());
        try {
            JNvPTXCompiler.setExceptionsEnabled(false);
            assertThat(JNvPTXCompiler.nvPTXCompilerGetVersion(new int[1], new int[1]))
                    .isZero();
        } finally {
            System.setProperty("java.io.tmpdir", before);
        }
    }

    static Stream<String> files() throws IOException {
        List<String> stems = new ArrayList<>();
        try (DirectoryStream<Path> sources = Files.newDirectoryStream(SOURCES, "*.cu")) {
            sources.forEach(p -> stems.add(p.getFileName().toString().replace(".cu", "")));
        }
        return stems.stream().sorted();
    }

    /// This is the compiler inside a CUDA 12.0 driver.
    @ParameterizedTest
    @MethodSource("files")
    void driversFrom525OnCompileThePtx(String stem) {
        String ptx = CudaKernels.ptx(stem);
        assertThat(ptx).contains(".version 7.0\n").contains(".target sm_80").contains(".entry ");
        assertThat(compile(ptx, "sm_80")).isEmpty();
        assertThat(compile(ptx, "sm_90")).isEmpty();
    }

    @Test
    void theCompilerRefusesWhatItDoesNotKnow() {
        assertThat(compile(CudaKernels.ptx("dropout").replace(".version 7.0", ".version 9.0"), "sm_80"))
                .contains("9.0");
    }

    /// The errors that CUDA 12.0's compiler reports for `ptx`; empty if there are none.
    private static String compile(String ptx, String architecture) {
        byte[] text = ptx.getBytes(StandardCharsets.US_ASCII);
        nvPTXCompilerHandle compiler = new nvPTXCompilerHandle();
        assertThat(JNvPTXCompiler.nvPTXCompilerCreate(compiler, text.length + 1L, Arrays.copyOf(text, text.length + 1)))
                .isZero();
        try {
            int status = JNvPTXCompiler.nvPTXCompilerCompile(compiler, 1, new String[] {"--gpu-name=" + architecture});
            long[] size = new long[1];
            JNvPTXCompiler.nvPTXCompilerGetErrorLogSize(compiler, size);
            byte[] log = new byte[Math.toIntExact(size[0]) + 1];
            JNvPTXCompiler.nvPTXCompilerGetErrorLog(compiler, log);
            String said =
                    new String(log, StandardCharsets.US_ASCII).replace("\0", "").strip();
            return status == 0 ? said : "status " + status + ": " + said;
        } finally {
            JNvPTXCompiler.nvPTXCompilerDestroy(compiler);
        }
    }

    @Test
    void theNativeIsBoundToTheOtherCublasInTwoPlaces() throws IOException {
        byte[] before = read("/lib/libJCublas2-12.6.0-linux-x86_64.so");
        byte[] after = before.clone();
        CudaLibraries.retarget(after, "libcublas.so.12", "libcublas.so.13");
        int[] changed = changes(before, after);
        // One character of the name, and one of its hash, which ends in that character.
        assertThat(changed).hasSize(2);
        assertThat(before[changed[1]] == '2' || before[changed[0]] == '2').isTrue();
        CudaLibraries.retarget(after, "libcublas.so.13", "libcublas.so.12");
        assertThat(after).isEqualTo(before);
        byte[] driver = read("/lib/libJCudaDriver-12.6.0-linux-x86_64.so");
        byte[] same = driver.clone();
        CudaLibraries.retarget(same, "libcublas.so.12", "libcublas.so.13");
        assertThat(same).isEqualTo(driver);
    }

    private static int[] changes(byte[] a, byte[] b) {
        return java.util.stream.IntStream.range(0, a.length)
                .filter(i -> a[i] != b[i])
                .toArray();
    }

    private static byte[] read(String resource) throws IOException {
        try (InputStream in = CudaDeliveryTest.class.getResourceAsStream(resource)) {
            return in == null ? new byte[0] : in.readAllBytes();
        }
    }
}
