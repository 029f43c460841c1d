package dev.loran.peft.cli;

import com.sun.management.OperatingSystemMXBean;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.MemoryPlan;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryPoolMXBean;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;

/// How much memory this process took at most.
final class ProcessMemory {
    private static final double MIB = 1 << 20;

    private ProcessMemory() {}

    /// Bytes of memory that this machine, or this container, has.
    static long totalBytes() {
        return ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class).getTotalMemorySize();
    }

    /// Refuses a run that does not fit.
    ///
    /// @param available bytes that there are
    /// @throws InputException saying what is needed, what there is, and what would lower it
    static void requireRoom(MemoryPlan plan, long available, int batchSize, int maxLength) {
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

    /// Makes what is resident now the high-water mark, where the kernel can (Linux).
    ///
    /// @return whether it did
    static boolean resetPeak() {
        try {
            Files.writeString(Path.of("/proc/self/clear_refs"), "5");
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    /// The high-water mark of resident memory in MiB, as the kernel counts it (`VmHWM`). Where there is no such count
    /// (not Linux): the peaks of the JVM's own pools and `tensorBytes` together, which leaves out code and mapped
    /// files.
    static double peakMib(long tensorBytes) {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("VmHWM:")) {
                    return Long.parseLong(line.replaceAll("\\D", "")) / 1024.0;
                }
            }
        } catch (IOException e) {
            // No such file here: counted below.
        }
        long bytes = tensorBytes;
        for (MemoryPoolMXBean pool : ManagementFactory.getMemoryPoolMXBeans()) {
            bytes += pool.getPeakUsage().getUsed();
        }
        return bytes / MIB;
    }
}
