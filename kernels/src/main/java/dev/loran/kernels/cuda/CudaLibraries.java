package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.cuda.CublasSearch.Cublas;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.SymbolLookup;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import jcuda.Pointer;
import jcuda.driver.CUresult;
import jcuda.driver.JCudaDriver;
import jcuda.jcublas.JCublas2;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/// Loads the driver, cuBLAS and JCuda's native libraries into this process, once.
///
/// JCuda's native library is linked to cuBLAS 12. If [CublasSearch] finds only version 13, which has all functions of
/// 12, the extracted copy is linked to that instead.
///
/// JCuda's own extraction writes to a fixed name in the shared temporary folder and uses any file that it finds there.
/// The libraries are therefore extracted into a private folder first, where JCuda then finds them.
final class CudaLibraries {
    private static final Logger LOG = LoggerFactory.getLogger(CudaLibraries.class);
    private static final String DRIVER = "libcuda.so.1";
    private static final String CUBLAS_12 = "libcublas.so.12";
    private static final String CUBLAS_13 = "libcublas.so.13";
    private static final String VERSION = "12.6.0";
    private static final String NATIVE = "lib%s-" + VERSION + "-linux-x86_64.so";

    /// What this process has loaded: native libraries can be neither unloaded nor loaded twice.
    private static @Nullable CudaLibraries loaded;

    private final Cublas cublas;
    private final boolean standIn;

    private CudaLibraries(Cublas cublas, boolean standIn) {
        this.cublas = cublas;
        this.standIn = standIn;
    }

    Cublas cublas() {
        return cublas;
    }

    /// Loads the installed driver and cuBLAS.
    ///
    /// @throws BackendException saying what is missing and how to fix it
    static synchronized CudaLibraries load() {
        if (loaded != null && loaded.standIn) {
            throw new BackendException("cuda: this process runs on the CPU stand-in");
        }
        if (loaded == null) {
            warnOfNativeAccess();
            Cublas cublas = require(
                    system(),
                    new CublasSearch(System::getProperty, System::getenv, Path.of("/"), CudaLibraries::byName));
            if (cublas.path() != null) {
                preload(cublas.path());
            }
            loaded = loadNatives(cublas, false);
        }
        return loaded;
    }

    /// Loads the CPU stand-in in `folder`, for tests.
    static synchronized CudaLibraries loadStandIn(Path folder) {
        if (loaded != null && !loaded.standIn) {
            throw new BackendException("cuda: this process runs on the installed driver, not on a stand-in");
        }
        if (loaded == null) {
            requirePlatform(system());
            load(folder.resolve(DRIVER));
            boolean is12 = Files.exists(folder.resolve(CUBLAS_12));
            Path cublas = folder.resolve(is12 ? CUBLAS_12 : CUBLAS_13);
            load(cublas);
            loaded = loadNatives(new Cublas(is12 ? 12 : 13, cublas), true);
        }
        return loaded;
    }

    private static String system() {
        return System.getProperty("os.name", "") + " on " + System.getProperty("os.arch", "");
    }

    private static void requirePlatform(String system) {
        if (!system.toLowerCase(Locale.ROOT).matches("linux on (amd64|x86_64)")) {
            throw new BackendException("cuda: JCuda has no natives for " + system + ", only for Linux on x86-64");
        }
    }

    private static void warnOfNativeAccess() {
        if (!CudaLibraries.class.getModule().isNativeAccessEnabled()) {
            LOG.warn("cuda: start the JVM with --enable-native-access=ALL-UNNAMED");
        }
    }

    /// Checks the requirements for a GPU, in the usual order of installation: a platform that JCuda supports, a driver,
    /// cuBLAS.
    ///
    /// @throws BackendException saying what is missing and how to fix it
    static Cublas require(String system, CublasSearch search) {
        requirePlatform(system);
        if (!search.loaderKnows().test(DRIVER)) {
            throw new BackendException("cuda: no NVIDIA driver (" + DRIVER
                    + " is not on the library path); install one, version 525 or newer");
        }
        Cublas cublas = search.find();
        if (cublas == null) {
            throw new BackendException("cuda: no cuBLAS; install the CUDA toolkit 12 or 13, or name the file by"
                    + " -Dloran.cublas=/path/to/" + CUBLAS_12);
        }
        return cublas;
    }

    @SuppressWarnings("restricted")
    private static boolean byName(String library) {
        try (Arena arena = Arena.ofConfined()) {
            return SymbolLookup.libraryLookup(library, arena) != null;
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    // ---- natives

    /// Preloads a library: the loader resolves later references to the same name to it.
    static void preload(Path cublas) {
        Path light = cublas.resolveSibling(cublas.getFileName().toString().replace("cublas", "cublasLt"));
        if (Files.isRegularFile(light)) {
            load(light);
        }
        load(cublas);
    }

    @SuppressWarnings("restricted")
    private static void load(Path library) {
        try {
            System.load(library.toAbsolutePath().toString());
        } catch (UnsatisfiedLinkError e) {
            throw new BackendException("cuda: " + library + " cannot be loaded: " + e.getMessage(), e);
        }
    }

    private static CudaLibraries loadNatives(Cublas cublas, boolean standIn) {
        try {
            // The folder is accessible to this user only.
            Path folder = Files.createTempDirectory("loran-cuda-");
            List<Path> files = List.of(
                    extract(folder, "JCudaDriver", cublas.major()),
                    extract(folder, "JCudaRuntime", cublas.major()),
                    extract(folder, "JCublas2", cublas.major()));
            String before = System.getProperty("java.io.tmpdir");
            // JCuda reads this property when it loads, and uses files that exist there already.
            System.setProperty("java.io.tmpdir", folder.toString());
            try {
                JCudaDriver.setExceptionsEnabled(false);
                JCublas2.initialize();
                JCublas2.setExceptionsEnabled(false);
            } finally {
                System.setProperty("java.io.tmpdir", before);
            }
            // Loaded libraries remain usable after their files are deleted.
            for (Path file : files) {
                Files.deleteIfExists(file);
            }
            Files.deleteIfExists(folder);
            return new CudaLibraries(cublas, standIn);
        } catch (IOException e) {
            throw new BackendException("cuda: JCuda's natives cannot be extracted: " + e.getMessage(), e);
        } catch (NoClassDefFoundError e) {
            throw new BackendException(
                    "cuda: JCuda is not on the class path; add org.jcuda:jcuda and org.jcuda:jcublas " + VERSION
                            + " and their natives with the classifier linux-x86_64",
                    e);
        } catch (UnsatisfiedLinkError e) {
            throw new BackendException("cuda: JCuda's natives cannot be loaded: " + e.getMessage(), e);
        }
    }

    private static Path extract(Path folder, String library, int cublasMajor) throws IOException {
        String name = NATIVE.formatted(library);
        try (InputStream in = CudaLibraries.class.getResourceAsStream("/lib/" + name)) {
            if (in == null) {
                throw new BackendException("cuda: " + name
                        + " is not on the class path; add JCuda's natives with the classifier linux-x86_64");
            }
            byte[] bytes = in.readAllBytes();
            if (cublasMajor == 13) {
                retarget(bytes, CUBLAS_12, CUBLAS_13);
            }
            return Files.write(folder.resolve(name), bytes);
        }
    }

    /// Changes a dependency of the ELF library `elf` from `from` to `to`, a name of the same length, in its string
    /// table and in the hashes of that name in the symbol versions. A library that does not depend on `from` stays
    /// unchanged.
    static void retarget(byte[] elf, String from, String to) {
        ByteBuffer b = ByteBuffer.wrap(elf).order(ByteOrder.LITTLE_ENDIAN);
        long sections = b.getLong(0x28);
        int size = b.getShort(0x3a);
        int count = b.getShort(0x3c);
        for (int i = 0; i < count; i++) {
            int section = (int) sections + i * size;
            int type = b.getInt(section + 4);
            int at = (int) b.getLong(section + 0x18);
            if (type == 11) { // SHT_DYNSYM: linked to the dynamic string table
                int strings = (int) sections + b.getInt(section + 0x28) * size;
                rename(elf, (int) b.getLong(strings + 0x18), (int) b.getLong(strings + 0x20), from, to);
            } else if (type == 0x6ffffffe) { // SHT_GNU_verneed: a chain of files, each with a chain of versions
                for (int need = at, next = -1; next != 0; need += next) {
                    int version = need + b.getInt(need + 8);
                    for (int following = -1; following != 0; version += following) {
                        if (b.getInt(version) == elfHash(from)) {
                            b.putInt(version, elfHash(to));
                        }
                        following = b.getInt(version + 12);
                    }
                    next = b.getInt(need + 12);
                }
            }
        }
    }

    private static void rename(byte[] elf, int at, int size, String from, String to) {
        byte[] old = ('\0' + from + '\0').getBytes(StandardCharsets.US_ASCII);
        byte[] name = ('\0' + to + '\0').getBytes(StandardCharsets.US_ASCII);
        for (int i = at; i + old.length <= at + size; i++) {
            if (Arrays.equals(elf, i, i + old.length, old, 0, old.length)) {
                System.arraycopy(name, 0, elf, i, name.length);
            }
        }
    }

    /// The System V ABI's hash function for symbol names.
    private static int elfHash(String name) {
        int h = 0;
        for (int i = 0; i < name.length(); i++) {
            h = (h << 4) + name.charAt(i);
            int high = h & 0xf0000000;
            h = (h ^ high >>> 24) & ~high;
        }
        return h;
    }

    /// An address that JCuda takes as a pointer.
    static final class Address extends Pointer {
        Address(long address) {
            super(address);
        }

        long value() {
            return getNativePointer() + getByteOffset();
        }
    }

    /// @throws BackendException unless the driver's `function` returned success
    static void check(String function, int status) {
        if (status != CUresult.CUDA_SUCCESS) {
            String[] name = new String[1];
            JCudaDriver.cuGetErrorName(status, name);
            throw new BackendException("cuda: " + function + " failed: " + name[0] + " (" + status + ")");
        }
    }
}
