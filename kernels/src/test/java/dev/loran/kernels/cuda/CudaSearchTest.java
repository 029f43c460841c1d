package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CublasSearch.Cublas;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Where cuBLAS is found, and the messages if a GPU cannot be used.
class CudaSearchTest {
    private static final String LINUX = "Linux on amd64";

    private final Map<String, String> properties = new HashMap<>();
    private final Map<String, String> environment = new HashMap<>();
    private final Set<String> known = new HashSet<>();

    @TempDir
    private Path root;

    private CublasSearch search() {
        return new CublasSearch(properties::get, environment::get, root, known::contains);
    }

    private Path file(String name) throws IOException {
        Path file = root.resolve(name);
        Files.createDirectories(file.getParent());
        return Files.writeString(file, "no library");
    }

    /// The places from last to first: each new one takes precedence over the previous ones.
    @Test
    void thePlacesComeInOrder() throws IOException {
        assertThat(search().find()).isNull();
        prefers(13, file("usr/lib/python3/dist-packages/nvidia/cu13/lib/libcublas.so.13"));
        prefers(12, file("usr/local/lib/python3.12/dist-packages/nvidia/cublas/lib/libcublas.so.12"));
        properties.put("user.home", root.resolve("home").toString());
        prefers(13, file("home/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libcublas.so.13"));
        environment.put("PATH", root.resolve("none/bin") + File.pathSeparator + root.resolve("opt/py/bin"));
        Path onPath = file("opt/py/lib/python3.13/site-packages/nvidia/cu13/lib/libcublas.so.13");
        assertThat(search().find()).isNotEqualTo(new Cublas(13, onPath));
        assertThat(file("opt/py/bin/python3").toFile().setExecutable(true)).isTrue();
        prefers(13, onPath);
        environment.put("CONDA_PREFIX", root.resolve("conda").toString());
        prefers(12, file("conda/lib/python3.10/site-packages/nvidia/cublas/lib/libcublas.so.12"));
        environment.put("VIRTUAL_ENV", root.resolve("venv").toString());
        prefers(13, file("venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13"));
        known.add("libcublas.so.13");
        prefers(13, null);
        known.add("libcublas.so.12");
        prefers(12, null);
        prefers(13, file("usr/local/cuda/lib64/libcublas.so.13"));
        environment.put("CUDA_PATH", root.resolve("path").toString());
        prefers(13, file("path/lib64/libcublas.so.13"));
        environment.put("CUDA_HOME", root.resolve("toolkit").toString());
        prefers(13, file("toolkit/lib64/libcublas.so.13"));
        prefers(12, file("toolkit/lib64/libcublas.so.12"));
        environment.put("LORAN_CUBLAS", file("variable/libcublas.so.13.1").toString());
        prefers(13, root.resolve("variable/libcublas.so.13.1"));
        properties.put("loran.cublas", file("property/libcublas.so.12.6").toString());
        prefers(12, root.resolve("property/libcublas.so.12.6"));
    }

    private void prefers(int major, @Nullable Path path) {
        assertThat(search().find()).isEqualTo(new Cublas(major, path));
    }

    @ParameterizedTest
    @ValueSource(strings = {"CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LORAN_CUBLAS", "PATH"})
    void anEmptyVariableNamesNothing(String variable) {
        environment.put(variable, "");
        assertThat(search().find()).isNull();
    }

    // ---- messages

    @Test
    void whatIsMissingIsSaidInTheOrderInWhichItIsInstalled() {
        assertThatThrownBy(() -> CudaLibraries.require("Mac OS X on aarch64", search()))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: JCuda has no natives for Mac OS X on aarch64, only for Linux on x86-64");
        assertThatThrownBy(() -> CudaLibraries.require(LINUX, search()))
                .isInstanceOf(BackendException.class)
                .hasMessage(
                        "cuda: no NVIDIA driver (libcuda.so.1 is not on the library path); install one, version 525 or"
                                + " newer");
        known.add("libcuda.so.1");
        assertThatThrownBy(() -> CudaLibraries.require(LINUX, search()))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: no cuBLAS; install the CUDA toolkit 12 or 13, or name the file by"
                        + " -Dloran.cublas=/path/to/libcublas.so.12");
        known.add("libcublas.so.12");
        assertThat(CudaLibraries.require(LINUX, search()).describe()).isEqualTo("cuBLAS 12");
        environment.put("LORAN_CUBLAS", "/nowhere/libcublas.so.12");
        assertThatThrownBy(() -> CudaLibraries.require(LINUX, search()))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: /nowhere/libcublas.so.12, named as cuBLAS, is no file");
    }

    @Test
    void aFileThatIsNoLibrary() throws IOException {
        Path file = file("libcublas.so.12");
        assertThatThrownBy(() -> CudaLibraries.preload(file))
                .isInstanceOf(BackendException.class)
                .hasMessageStartingWith("cuda: " + file + " cannot be loaded: ")
                .hasMessageContaining("file too short");
    }

    @Test
    void aProcessHasTheStandInOrADriver() {
        assumeFalse(StandIn.isGpu(), "this process has a driver");
        StandIn.open().close();
        assertThat(Backends.describeCuda()).isEqualTo("cuda: this process runs on the CPU stand-in");
    }

    /// The device's own reasons: a process initializes the driver once, so each case starts another process.
    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
                    LORAN_STANDIN_INIT=100     | cuda: the driver sees no GPU that this process may use; see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it
                    LORAN_STANDIN_INIT=803     | cuda: libcuda.so.1 and the kernel's NVIDIA driver are of different versions; restart the machine after an update of the driver
                    LORAN_STANDIN_INIT=3       | cuda: cuInit failed: CUDA_ERROR_NOT_INITIALIZED (3)
                    LORAN_STANDIN_DRIVER=11080 | cuda: the driver supports CUDA 11.8, needs 12.0; install driver 525 or newer
                    LORAN_STANDIN_CAPABILITY=7 | cuda: Loran CPU stand-in (not a GPU) has compute capability 7.x, needs 8.0 (Ampere) or newer
                    LORAN_STANDIN_MIB=1        | cuda: no memory for the 4194304 bytes that cuBLAS works in; other processes hold the device's
                    """)
    void theDeviceCannotBeUsed(String setting, String text) throws Exception {
        String[] pair = setting.split("=");
        assertThat(say(Map.of(pair[0], pair[1]), System.getProperty("java.class.path")))
                .contains(text);
    }

    @Test
    void jcudaIsNotOnTheClassPath() throws Exception {
        assertThat(say(Map.of(), without("/jcu[a-z]+-natives-[^/]*$")))
                .contains(
                        "cuda: libJCudaDriver-12.6.0-linux-x86_64.so is not on the class path; add JCuda's natives with the"
                                + " classifier linux-x86_64");
        assertThat(say(Map.of(), without("/jcu(da|blas)-[0-9][^/]*$")))
                .contains(
                        "cuda: JCuda is not on the class path; add org.jcuda:jcuda and org.jcuda:jcublas 12.6.0 and their"
                                + " natives with the classifier linux-x86_64");
    }

    @Test
    void thereIsNoRoomForTheNatives() throws Exception {
        assertThat(say(Map.of(), System.getProperty("java.class.path"), "-Djava.io.tmpdir=/nowhere"))
                .contains("cuda: JCuda's natives cannot be extracted: ", "/nowhere");
    }

    private static String without(String regex) {
        String path = Arrays.stream(System.getProperty("java.class.path").split(File.pathSeparator))
                .filter(p -> p.replaceAll(regex, "").equals(p))
                .collect(Collectors.joining(File.pathSeparator));
        assertThat(path).isNotEqualTo(System.getProperty("java.class.path"));
        return path;
    }

    /// The output of a process that opens the stand-in with `settings` in its environment.
    private static String say(Map<String, String> settings, String classPath, String... options)
            throws IOException, InterruptedException {
        assumeFalse(StandIn.isGpu(), "these are the stand-in's settings");
        StandIn.open().close();
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                classPath));
        command.addAll(List.of(options));
        command.add(Main.class.getName());
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().putAll(settings);
        Process process = builder.start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(output).isEqualTo(3);
        return output;
    }

    /// Opens the stand-in; if that fails, prints the reason and exits with status 3.
    static final class Main {
        private Main() {}

        public static void main(String[] args) {
            try (CudaBackend backend = CudaBackend.standIn(Path.of("target", "standin"), DType.F32)) {
                System.out.println(backend.describe());
            } catch (BackendException e) {
                System.out.println(e.getMessage());
                System.exit(3);
            }
        }
    }
}
