package dev.loran.peft.watch;

import com.sun.management.OperatingSystemMXBean;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.MemoryPlan;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryPoolMXBean;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;

/// The memory of the machine, and the peak memory use of this process.
public final class ProcessMemory {
    private static final double MIB = 1 << 20;

    private ProcessMemory() {}

    /// The memory of this machine, or of this container, in bytes.
    public static long totalBytes() {
        return ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class).getTotalMemorySize();
    }

    /// Refuses a run that does not fit.
    ///
    /// @param available the available memory in bytes
    /// @throws InputException that says what is needed, what is available, and what would reduce the need
    public static void requireRoom(MemoryPlan plan, long available, int batchSize, int maxLength) {
        if (plan.total() > available) {
            throw new InputException(String.format(
                    Locale.ROOT,
                    "the tensors of this run need %,.0f MiB (%s), and there are %,.0f MiB here; lower --batch-size (%d)"
                            + " or --max-length (%d), keep less with --gradient-checkpointing, or halve the weights"
                            + " with --dtype bf16; --ignore-memory tries all the same",
                    plan.total() / MIB,
                    plan,
                    available / MIB,
                    batchSize,
                    maxLength));
        }
    }

    /// Resets the high-water mark to the current resident memory, if the kernel supports it (Linux).
    ///
    /// @return whether it was reset
    public static boolean resetPeak() {
        try {
            Files.writeString(Path.of("/proc/self/clear_refs"), "5");
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    /// The high-water mark of resident memory in MiB, as counted by the kernel (`VmHWM`). If the system has no such
    /// count (not Linux), the sum of the peaks of the JVM's own pools and `tensorBytes`, which excludes code and mapped
    /// files.
    public static double peakMib(long tensorBytes) {
        double counted = counted("VmHWM:");
        if (counted > 0) {
            return counted;
        }
        long bytes = tensorBytes;
        for (MemoryPoolMXBean pool : ManagementFactory.getMemoryPoolMXBeans()) {
            bytes += pool.getPeakUsage().getUsed();
        }
        return bytes / MIB;
    }

    /// The resident memory in MiB; 0 if the system does not count it (not Linux).
    public static double residentMib() {
        return counted("VmRSS:");
    }

    private static double counted(String name) {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith(name)) {
                    return Long.parseLong(line.replaceAll("\\D", "")) / 1024.0;
                }
            }
        } catch (IOException e) {
            // There is no such file.
        }
        return 0;
    }
}
