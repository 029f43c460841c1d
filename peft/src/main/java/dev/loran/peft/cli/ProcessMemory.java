package dev.loran.peft.cli;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryPoolMXBean;
import java.nio.file.Files;
import java.nio.file.Path;

/// How much memory this process took at most.
final class ProcessMemory {
    private static final double MIB = 1 << 20;

    private ProcessMemory() {}

    /// The high-water mark of resident memory in MiB, as the kernel counts it (`VmHWM`). Where there is no such count (not
    /// Linux): the peaks of the JVM's own pools and `tensorBytes` together, which leaves out code and mapped files.
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
