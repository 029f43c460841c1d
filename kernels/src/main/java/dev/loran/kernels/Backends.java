package dev.loran.kernels;

import com.sun.management.HotSpotDiagnosticMXBean;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.kernels.simd.gemm.FmaTiles;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.management.ManagementFactory;
import java.util.Locale;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.helpers.NOPLoggerFactory;

/// Picks the fastest backend that this machine and this JVM allow, and says why it is not a faster one.
///
/// | backend | needs |
/// |---|---|
/// | [SimdBackend] | the module `jdk.incubator.vector`, C2, vectors of 128 bits or more, fused multiply-add |
/// | [CudaBackend] | a GPU, its driver, cuBLAS, JCuda on the class path; only on request, through [#cuda] |
/// | [ReferenceBackend] | nothing; one thread, scalar loops: for tests and small models |
public final class Backends {
    private static final Logger LOG = LoggerFactory.getLogger(Backends.class);
    private static final String MODULE = "jdk.incubator.vector";
    private static final int C2_LEVEL = 4;
    /// Whether the warning that the reference is slow has been given.
    private static final AtomicBoolean WARNED = new AtomicBoolean();

    private Backends() {}

    /// Returns the fastest backend, with one thread per processor, and logs one line that says which it is and why. If
    /// it is the reference, which is many times slower, the line is a warning, given once per JVM, and written to
    /// standard error if no logger is configured. [#requireFast] throws instead.
    public static Backend best() {
        return best(Runtime.getRuntime().availableProcessors());
    }

    /// Returns the fastest backend, on `threads` threads, and logs one line that says which it is and why.
    public static Backend best(int threads) {
        return best(threads, DType.F32);
    }

    /// Returns the fastest backend, on `threads` threads. The products of linear layers and of attention take operands
    /// of type `operands`: F32, or BF16, which is less precise and takes less memory and, where the processor multiplies
    /// BF16, less time ([SimdBackend#SimdBackend(int, DType)]).
    public static Backend best(int threads, DType operands) {
        String choice = describe(threads, operands);
        if (whyNotSimd() == null) {
            LOG.info("{}", choice);
            return new SimdBackend(threads, operands);
        }
        if (WARNED.compareAndSet(false, true)) {
            if (LoggerFactory.getILoggerFactory() instanceof NOPLoggerFactory) {
                System.err.println("WARNING: " + choice);
            } else {
                LOG.warn("{}", choice);
            }
        }
        return new ReferenceBackend();
    }

    /// Throws on a JVM on which [#best] would be the reference, for callers who prefer an error to a long wait.
    ///
    /// @throws BackendException saying what is missing and what to do about it
    public static void requireFast() {
        String missing = whyNotSimd();
        if (missing != null) {
            throw new BackendException("simd: " + missing);
        }
    }

    /// Returns the Vector API backend, on `threads` threads.
    ///
    /// @throws BackendException saying what is missing and what to do about it
    public static Backend simd(int threads) {
        requireFast();
        return new SimdBackend(threads);
    }

    /// Returns a backend for the first GPU. [#best] always stays on the CPU; a GPU must be requested.
    ///
    /// @throws BackendException saying what is missing and what to do about it
    public static Backend cuda() {
        return cuda(DType.F32);
    }

    /// As [#cuda()], for models whose weights and activations are of type `operands`: F32, or BF16, which is faster,
    /// less precise and half the size ([CudaBackend#open]).
    public static Backend cuda(DType operands) {
        CudaBackend backend = CudaBackend.open(0, operands);
        LOG.info("backend: cuda, {}", backend.describe());
        return backend;
    }

    /// Says in one line whether [#cuda] would succeed and on which device, or else what is missing and what to do about
    /// it.
    public static String describeCuda() {
        try (CudaBackend backend = CudaBackend.open(0, DType.F32)) {
            return "ready: " + backend.describe();
        } catch (BackendException e) {
            return String.valueOf(e.getMessage());
        }
    }

    /// Says in one line what [#best] picks, and what prevents a faster backend.
    public static String describe() {
        return describe(Runtime.getRuntime().availableProcessors());
    }

    /// As [#describe()], for [#best(int)].
    public static String describe(int threads) {
        return describe(threads, DType.F32);
    }

    /// As [#describe()], for [#best(int, DType)].
    public static String describe(int threads, DType operands) {
        String missing = whyNotSimd();
        if (missing != null) {
            return "backend: reference, scalar loops on one thread; not simd: " + missing;
        }
        String line = "backend: simd, " + vectorBits() + "-bit vectors on " + threads
                + (threads == 1 ? " thread" : " threads")
                + (operands == DType.BF16 ? "; " + describeBf16() : "");
        return Backends.class.getModule().isNativeAccessEnabled()
                ? line
                : line
                        + "; start the JVM with --enable-native-access=ALL-UNNAMED to map model files without its"
                        + " warning";
    }

    /// Says in one line how products with BF16 operands are computed on this machine.
    public static String describeBf16() {
        String missing = whyNotSimd();
        return missing == null ? GemmBf16.describe() : "no BF16 products: " + missing;
    }

    /// Runs dot products of BF16 registers on the calling thread for about a third of a second, to measure the upper
    /// bound for products with BF16 operands.
    ///
    /// @return the number of floating-point operations done; 0 if no instruction computes such dot products
    public static long dotsOfBf16() {
        return whyNotSimd() == null ? GemmBf16.tiles().dots() : 0;
    }

    /// Runs F32 multiply-adds of registers on the calling thread for about a third of a second, to measure the upper
    /// bound for F32 products.
    ///
    /// @return the number of floating-point operations done; 0 if products are not computed by machine code
    public static long multiplyAddsOfF32() {
        return whyNotSimd() == null ? FmaTiles.multiplyAdds() : 0;
    }

    /// What is missing here for the Vector API backend, and the remedy; null if nothing.
    private static @Nullable String whyNotSimd() {
        // This check comes first: without the module, every class that uses vectors fails to link.
        if (ModuleLayer.boot().findModule(MODULE).isEmpty()) {
            return "the Vector API is off; start the JVM with --add-modules=" + MODULE;
        }
        String vm = System.getProperty("java.vm.name", "");
        if (!vm.toLowerCase(Locale.ROOT).contains("server vm") || "true".equals(option("UseJVMCICompiler"))) {
            return "this VM (" + vm + ") does not compile vectors with C2; use an OpenJDK HotSpot VM";
        }
        String level = option("TieredStopAtLevel");
        if (System.getProperty("java.vm.info", "").startsWith("interpreted")
                || level != null && Integer.parseInt(level) < C2_LEVEL) {
            return "the C2 compiler is off; start the JVM without -Xint and -XX:TieredStopAtLevel";
        }
        if ("false".equals(option("UseFMA"))) {
            return "no fused multiply-add; use a processor that has it (x86 since 2013), or drop -XX:-UseFMA";
        }
        int bits = vectorBits();
        return bits >= 128 ? null : "vectors here have " + bits + " bits, fewer than 128";
    }

    private static int vectorBits() {
        return Vectors.F.vectorBitSize();
    }

    /// Returns the value of a HotSpot option; null if this VM does not have the option.
    private static @Nullable String option(String name) {
        try {
            HotSpotDiagnosticMXBean bean = ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class);
            return bean == null ? null : bean.getVMOption(name).getValue();
        } catch (IllegalArgumentException e) {
            return null;
        }
    }
}
