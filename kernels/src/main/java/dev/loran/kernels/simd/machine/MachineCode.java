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

/// Memory pages with hand-written machine code, and the capabilities of this processor. A page is written first and
/// then made executable and permanently read-only; it is never both writable and executable. Linux on x86-64 only.
public final class MachineCode {
    private static final int PROT_READ = 1;
    private static final int PROT_WRITE = 2;
    private static final int PROT_EXEC = 4;
    private static final int MAP_PRIVATE_ANONYMOUS = 0x22;

    /// For an arch_prctl call: the tile state is large, so Linux enables it only for processes that request it.
    private static final long SYS_ARCH_PRCTL = 158;

    private static final long ARCH_REQ_XCOMP_PERM = 0x1023;
    private static final long XFEATURE_XTILEDATA = 18;

    /// If set to `off`, no machine code is used: `-Dloran.machineCode=off`.
    private static final String OPTION = "loran.machineCode";

    private MachineCode() {}

    /// Says what prevents the use of code that needs the processor's `flags` (names from /proc/cpuinfo); null if
    /// nothing does.
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

    /// Asks the system to let this process use the processor's tiles from now on. Returns what prevents that, or null.
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

    /// Returns a handle that calls machine code at an address, its first argument, with `arguments` 64-bit integers.
    /// The code must be short, because the garbage collector waits while it runs.
    @SuppressWarnings("restricted")
    public static MethodHandle function(int arguments) {
        MemoryLayout[] longs =
                Collections.nCopies(arguments, ValueLayout.JAVA_LONG).toArray(MemoryLayout[]::new);
        return Linker.nativeLinker().downcallHandle(FunctionDescriptor.ofVoid(longs), Linker.Option.critical(false));
    }

    /// Loads `code` at the beginning of executable pages, which live as long as the process.
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
