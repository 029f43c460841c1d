package dev.loran.kernels.simd.machine;

import dev.loran.engine.backend.BackendException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.Set;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// Memory pages with machine code of our own, and what this processor can do. A page is written first and then made
/// executable and read-only, for good: it is never both writable and executable. Linux on x86-64.
public final class MachineCode {
    private static final int PROT_READ = 1;
    private static final int PROT_WRITE = 2;
    private static final int PROT_EXEC = 4;
    private static final int MAP_PRIVATE_ANONYMOUS = 0x22;

    /// The state of the tiles is large, and Linux keeps it only for processes that ask for it.
    private static final long SYS_ARCH_PRCTL = 158;

    private static final long ARCH_REQ_XCOMP_PERM = 0x1023;
    private static final long XFEATURE_XTILEDATA = 18;

    /// Set to `off`, it forbids all machine code: `-Dloran.machineCode=off`.
    private static final String OPTION = "loran.machineCode";

    private MachineCode() {}

    /// What stands in the way of code that needs the processor's `flags` (names of /proc/cpuinfo); null if nothing
    /// does.
    public static @Nullable String obstacle(String... flags) {
        if ("off".equals(System.getProperty(OPTION))) {
            return "machine code is switched off by -D" + OPTION + "=off";
        }
        if (!System.getProperty("os.name", "").equals("Linux")
                || !System.getProperty("os.arch", "").equals("amd64")) {
            return "machine code is written for Linux on x86-64 only";
        }
        if (!MachineCode.class.getModule().isNativeAccessEnabled()) {
            return "machine code needs native access; start the JVM with --enable-native-access=ALL-UNNAMED";
        }
        Set<String> has = processorFlags();
        return Arrays.stream(flags)
                .filter(flag -> !has.contains(flag))
                .findFirst()
                .map(flag -> "the processor has no " + flag)
                .orElse(null);
    }

    private static Set<String> processorFlags() {
        try {
            return Files.readAllLines(Path.of("/proc/cpuinfo")).stream()
                    .filter(line -> line.startsWith("flags"))
                    .limit(1)
                    .flatMap(line -> Arrays.stream(
                            line.substring(line.indexOf(':') + 1).trim().split(" ", -1)))
                    .collect(Collectors.toSet());
        } catch (IOException e) {
            return Set.of();
        }
    }

    /// Asks the system to let this process, now and for good, use the processor's tiles; what stands in the way, or
    /// null.
    @SuppressWarnings("restricted")
    public static @Nullable String tileObstacle() {
        Linker linker = Linker.nativeLinker();
        MethodHandle syscall = linker.downcallHandle(
                linker.defaultLookup().findOrThrow("syscall"),
                FunctionDescriptor.of(
                        ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG),
                Linker.Option.firstVariadicArg(1));
        try {
            long answer = (long) syscall.invokeExact(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
            return answer == 0 ? null : "the system does not let this process use tiles; it takes Linux 5.16 or newer";
        } catch (Throwable e) {
            throw new BackendException("machine code: " + e, e);
        }
    }

    /// Calls machine code at an address, its first argument, with so many 64-bit integers. The code must be short:
    /// while it runs, the garbage collector waits.
    @SuppressWarnings("restricted")
    public static MethodHandle function(int arguments) {
        MemoryLayout[] longs =
                Collections.nCopies(arguments, ValueLayout.JAVA_LONG).toArray(MemoryLayout[]::new);
        return Linker.nativeLinker().downcallHandle(FunctionDescriptor.ofVoid(longs), Linker.Option.critical(false));
    }

    /// Executable pages that begin with `code`; they live as long as the process.
    ///
    /// @throws BackendException if the system refuses
    @SuppressWarnings("restricted")
    public static MemorySegment load(byte[] code) {
        Linker linker = Linker.nativeLinker();
        MethodHandle mmap = linker.downcallHandle(
                linker.defaultLookup().findOrThrow("mmap"),
                FunctionDescriptor.of(
                        ValueLayout.JAVA_LONG,
                        ValueLayout.JAVA_LONG,
                        ValueLayout.JAVA_LONG,
                        ValueLayout.JAVA_INT,
                        ValueLayout.JAVA_INT,
                        ValueLayout.JAVA_INT,
                        ValueLayout.JAVA_LONG));
        MethodHandle mprotect = linker.downcallHandle(
                linker.defaultLookup().findOrThrow("mprotect"),
                FunctionDescriptor.of(
                        ValueLayout.JAVA_INT, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_INT));
        try {
            long length = code.length;
            long address = (long) mmap.invokeExact(0L, length, PROT_READ | PROT_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0L);
            if (address == -1) {
                throw new BackendException("machine code: the system gave no memory of " + length + " bytes");
            }
            MemorySegment pages = MemorySegment.ofAddress(address).reinterpret(length, Arena.global(), null);
            MemorySegment.copy(code, 0, pages, ValueLayout.JAVA_BYTE, 0, code.length);
            if ((int) mprotect.invokeExact(address, length, PROT_READ | PROT_EXEC) != 0) {
                throw new BackendException("machine code: the system does not let memory become executable"
                        + "; start the JVM with -D" + OPTION + "=off");
            }
            return pages.asReadOnly();
        } catch (RuntimeException | Error e) {
            throw e;
        } catch (Throwable e) {
            throw new BackendException("machine code: " + e, e);
        }
    }
}
