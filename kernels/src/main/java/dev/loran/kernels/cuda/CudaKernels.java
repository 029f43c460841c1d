package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Supplier;
import jcuda.driver.CUfunction;
import jcuda.driver.CUmodule;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;

/// The kernels of one device: the driver compiles each PTX file when the first of its kernels is launched. Used only on
/// the device's thread.
///
/// Arguments are passed through one block of off-heap memory that holds the values and a table of their addresses: a
/// tree of JCuda pointers would cost more than the launch.
final class CudaKernels {
    /// Maximum number of arguments of a launch, where a struct counts as its 8-byte words: the driver's limit.
    private static final int MAX_ARGUMENTS = 512;

    private final Map<String, CUmodule> modules = new HashMap<>();
    private final Map<String, CUfunction> functions = new HashMap<>();
    private final Map<PtxKernel, CUfunction> own = new HashMap<>();
    private final MemorySegment values;
    private final MemorySegment addresses;

    /// Allocates the argument block in `arena`.
    CudaKernels(Arena arena) {
        values = arena.allocate(MAX_ARGUMENTS * 8L, 16);
        addresses = arena.allocate(MAX_ARGUMENTS * 8L, 16);
        for (int i = 0; i < MAX_ARGUMENTS; i++) {
            addresses.setAtIndex(ValueLayout.JAVA_LONG, i, values.address() + 8L * i);
        }
    }

    /// The kernel `name` of the bundled `file`.
    CUfunction shipped(String file, String name) {
        return functions.computeIfAbsent(name, n -> function(file, n, () -> ptx(file)));
    }

    /// A kernel supplied as PTX text.
    CUfunction own(PtxKernel kernel) {
        return own.computeIfAbsent(kernel, k -> function(k.ptx(), k.name(), k::ptx));
    }

    /// Launches a kernel; the driver has copied the arguments when this returns.
    void launch(
            CUstream stream, CUfunction kernel, String name, int[] grid, int[] block, int shared, long[] arguments) {
        if (arguments.length > MAX_ARGUMENTS) {
            throw new BackendException(
                    "cuda: " + name + ": " + arguments.length + " arguments, at most " + MAX_ARGUMENTS + " are passed");
        }
        MemorySegment.copy(arguments, 0, values, ValueLayout.JAVA_LONG, 0, arguments.length);
        CudaLibraries.check(
                name,
                JCudaDriver.cuLaunchKernel(
                        kernel,
                        grid[0],
                        at(grid, 1),
                        at(grid, 2),
                        block[0],
                        at(block, 1),
                        at(block, 2),
                        shared,
                        stream,
                        new CudaLibraries.Address(addresses.address()),
                        null));
    }

    /// A float as a kernel argument.
    static long bits(double value) {
        return Float.floatToRawIntBits((float) value) & 0xffffffffL;
    }

    /// `arguments` followed by a struct of 4-byte members.
    static long[] words(long[] arguments, int... members) {
        long[] all = Arrays.copyOf(arguments, arguments.length + (members.length + 1) / 2);
        for (int i = 0; i < members.length; i++) {
            all[arguments.length + i / 2] |= (members[i] & 0xffffffffL) << 32 * (i % 2);
        }
        return all;
    }

    private static int at(int[] sizes, int i) {
        return i < sizes.length ? sizes[i] : 1;
    }

    /// @param key identifies the PTX text
    private CUfunction function(String key, String name, Supplier<String> text) {
        CUmodule module = modules.computeIfAbsent(key, k -> {
            CUmodule m = new CUmodule();
            CudaLibraries.check("cuModuleLoadData for " + name, JCudaDriver.cuModuleLoadData(m, text.get()));
            return m;
        });
        CUfunction f = new CUfunction();
        CudaLibraries.check("cuModuleGetFunction of " + name, JCudaDriver.cuModuleGetFunction(f, module, name));
        return f;
    }

    void unload() {
        modules.values().forEach(JCudaDriver::cuModuleUnload);
    }

    /// The bundled PTX of `file`, which `src-cuda/build` generates.
    static String ptx(String file) {
        return PtxKernel.text(CudaKernels.class, file + ".ptx");
    }
}
