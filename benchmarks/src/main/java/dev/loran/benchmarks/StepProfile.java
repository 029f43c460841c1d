package dev.loran.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordedFrame;
import jdk.jfr.consumer.RecordingFile;
import org.jspecify.annotations.Nullable;

/// Shows where the time of training steps goes, from stack samples of their threads every 10 ms (JDK Flight Recorder).
///
/// The calling thread determines the operation: the innermost `…Op` of the engine, its direction, and the backend
/// method it is in. All threads determine the kernel: the innermost class of the kernels. The step itself needs no
/// instrumentation.
final class StepProfile implements AutoCloseable {
    private static final Duration PERIOD = Duration.ofMillis(10);

    /// To the JVM, hand-written machine code is native code.
    private static final List<String> EVENTS = List.of("jdk.ExecutionSample", "jdk.NativeMethodSample");

    private static final String ENGINE = "dev.loran.engine.";
    private static final String KERNELS = "dev.loran.kernels.";

    /// Helpers that all kernels use.
    private static final Set<String> SHARED = Set.of("Vectors", "VectorMath", "Workspace", "Operand");

    /// Prefix of the names of the threads in the backend's pool.
    private static final String WORKER = "loran-";

    private final Recording recording = new Recording();
    private final String caller = Thread.currentThread().getName();
    private final Map<String, Integer> operations = new HashMap<>();
    private final Map<String, Integer> kernels = new HashMap<>();

    /// Whether this runtime supports profiling; must be checked before using anything else in this class.
    static boolean available() {
        return ModuleLayer.boot().findModule("jdk.jfr").isPresent();
    }

    /// Starts sampling the calling thread and those of the pool.
    void start() {
        EVENTS.forEach(event -> recording.enable(event).withPeriod(PERIOD));
        recording.start();
    }

    /// Stops sampling and evaluates the samples.
    void stop() throws IOException {
        recording.stop();
        Path file = Files.createTempFile("loran", ".jfr");
        try {
            recording.dump(file);
            try (RecordingFile events = new RecordingFile(file)) {
                while (events.hasMoreEvents()) {
                    count(events.readEvent());
                }
            }
        } finally {
            Files.delete(file);
        }
    }

    private void count(RecordedEvent event) {
        if (!EVENTS.contains(event.getEventType().getName()) || event.getStackTrace() == null) {
            return;
        }
        String thread = event.getThread("sampledThread").getJavaName();
        List<Frame> stack =
                event.getStackTrace().getFrames().stream().map(Frame::of).toList();
        if (thread == null || !thread.equals(caller) && !thread.startsWith(WORKER)) {
            return;
        }
        kernels.merge(kernel(stack), 1, Integer::sum);
        if (thread.equals(caller)) {
            operations.merge(operation(stack), 1, Integer::sum);
        }
    }

    /// A method on a stack.
    record Frame(String type, String method) {
        static Frame of(RecordedFrame frame) {
            return new Frame(
                    frame.getMethod().getType().getName(), frame.getMethod().getName());
        }

        /// The top-level class without its package, also for a lambda, whose class is named `Type$$Lambda.0x…`.
        String simpleType() {
            String file = type.replaceFirst("\\$.*", "");
            return file.substring(file.lastIndexOf('.') + 1);
        }
    }

    /// Returns the innermost class of the kernels on a stack, which is given innermost frame first; `waiting` for a
    /// thread without work, `engine` outside all kernels.
    static String kernel(List<Frame> stack) {
        for (Frame frame : stack) {
            String type = frame.simpleType();
            if (frame.type.startsWith(KERNELS) && !SHARED.contains(type)) {
                return type.equals("Parallel") ? "waiting" : type;
            }
        }
        return "engine";
    }

    /// Returns the operation that a stack, given innermost frame first, is in: its class, direction and backend method,
    /// such as `LinearOp backward linearBackwardInput`; or the optimizer's class and method; or `other`.
    static String operation(List<Frame> stack) {
        String backend = null;
        Frame found = null;
        for (Frame frame : stack) {
            String type = frame.simpleType();
            // If methods of the operation call one another, the outermost one determines the direction.
            if (found != null && !frame.type.equals(found.type)) {
                break;
            }
            if (frame.type.startsWith(ENGINE + "optim.") || frame.type.startsWith(ENGINE) && type.endsWith("Op")) {
                found = frame;
            } else if (frame.type.startsWith(KERNELS) || type.endsWith("Backend") || type.endsWith("Kernels")) {
                // The outermost method of a backend or family is the one that the operation called.
                backend = plain(frame.method);
            }
        }
        return named(found == null ? "other" : found.simpleType() + " " + plain(found.method), backend);
    }

    private static String named(String operation, @Nullable String backend) {
        return backend == null ? operation : operation + " " + backend;
    }

    /// Returns the method in which a lambda was written.
    private static String plain(String method) {
        return method.replaceFirst("^lambda\\$(\\w+)\\$\\d+$", "$1");
    }

    /// Prints both tables, for steps of `ms` milliseconds.
    void print(double ms) {
        print("operation, on the calling thread", operations, ms);
        print("kernel, on all threads", kernels, ms);
    }

    private static void print(String title, Map<String, Integer> counts, double ms) {
        System.out.printf(Locale.ROOT, "%n%-64s %9s %6s%n", title, "ms", "share");
        for (Map.Entry<String, Integer> e : sorted(counts)) {
            double share = share(e, counts);
            System.out.printf(Locale.ROOT, "%-64s %9.3f %6.3f%n", e.getKey(), share * ms, share);
        }
    }

    /// Returns the same as a JSON object.
    String json(double ms) {
        return "{\"operations\":" + json(operations, ms) + ",\"kernels\":" + json(kernels, ms) + "}";
    }

    private static String json(Map<String, Integer> counts, double ms) {
        return sorted(counts).stream()
                .map(e -> String.format(
                        Locale.ROOT,
                        "{\"name\":\"%s\",\"samples\":%d,\"ms\":%.4f,\"share\":%.5f}",
                        e.getKey(),
                        e.getValue(),
                        share(e, counts) * ms,
                        share(e, counts)))
                .collect(Collectors.joining(",", "[", "]"));
    }

    private static double share(Map.Entry<String, Integer> entry, Map<String, Integer> counts) {
        return (double) entry.getValue()
                / counts.values().stream().mapToInt(n -> n).sum();
    }

    private static List<Map.Entry<String, Integer>> sorted(Map<String, Integer> counts) {
        return counts.entrySet().stream()
                .sorted(Map.Entry.<String, Integer>comparingByValue(Comparator.reverseOrder())
                        .thenComparing(Map.Entry.comparingByKey()))
                .toList();
    }

    @Override
    public void close() {
        recording.close();
    }
}
