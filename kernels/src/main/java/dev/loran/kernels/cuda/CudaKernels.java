package dev.loran.kernels.cuda;

import dev.loran.engine.BackendException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import jcuda.driver.CUfunction;
import jcuda.driver.CUmodule;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;

/// The kernels of one device: each file of PTX is compiled by the driver when the first of its kernels is launched. Used
/// on the device's thread alone.
///
/// Arguments go through one block of memory outside of the heap, values and table of their addresses: a tree of JCuda's
/// pointers would cost more than the launch.
final class CudaKernels {
    /// Arguments of one launch, a struct counted by its 8-byte words: what the driver takes at most.
    private static final int MAX_ARGUMENTS = 512;

    private final Map<String, CUmodule> modules = new HashMap<>();
    private final Map<String, CUfunction> functions = new HashMap<>();
    private final MemorySegment values;
    private final MemorySegment addresses;

    /// The argument block lives in `arena`.
    CudaKernels(Arena arena) {
        values = arena.allocate(MAX_ARGUMENTS * 8L, 16);
        addresses = arena.allocate(MAX_ARGUMENTS * 8L, 16);
        for (int i = 0; i < MAX_ARGUMENTS; i++) {
            addresses.setAtIndex(ValueLayout.JAVA_LONG, i, values.address() + 8L * i);
        }
    }

    /// Launches kernel `name` of `file`; the driver has copied the arguments when this returns.
    void launch(CUstream stream, String file, String name, int[] grid, int[] block, int shared, long[] arguments) {
        MemorySegment.copy(arguments, 0, values, ValueLayout.JAVA_LONG, 0, arguments.length);
        CudaDevice.check(
                name,
                JCudaDriver.cuLaunchKernel(
                        function(file, name),
                        grid[0],
                        at(grid, 1),
                        at(grid, 2),
                        block[0],
                        at(block, 1),
                        at(block, 2),
                        shared,
                        stream,
                        new CudaDevice.Address(addresses.address()),
                        null));
    }

    /// A float as an argument.
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

    private CUfunction function(String file, String name) {
        return functions.computeIfAbsent(name, n -> {
            CUfunction f = new CUfunction();
            CudaDevice.check("cuModuleGetFunction of " + n, JCudaDriver.cuModuleGetFunction(f, module(file), n));
            return f;
        });
    }

    private CUmodule module(String file) {
        return modules.computeIfAbsent(file, f -> {
            CUmodule m = new CUmodule();
            CudaDevice.check("cuModuleLoadData of " + f + ".ptx", JCudaDriver.cuModuleLoadData(m, ptx(f)));
            return m;
        });
    }

    void unload() {
        modules.values().forEach(JCudaDriver::cuModuleUnload);
    }

    /// The shipped text of `file`.
    static String ptx(String file) {
        try (InputStream in = CudaKernels.class.getResourceAsStream(file + ".ptx")) {
            if (in == null) {
                throw new BackendException("cuda: " + file + ".ptx is not among the resources; run src-cuda/build");
            }
            return new String(in.readAllBytes(), StandardCharsets.US_ASCII);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
