package dev.loran.peft.train;

import dev.loran.peft.io.InputException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/// Trains once for every write of a run, in a process whose disk fails at the first write, then at the second, and so
/// on, and resumes each time until the end: `FailingDisk LIBRARY FOLDER METHOD STEPS`, with the library loaded before
/// the C library. All later writes fail too, as if the process had ended; with more than one step, each write also
/// fails once on its own. Prints `n failures` if every run ended like the uninterrupted one.
public final class FailingDisk {
    private static final TrainingListener NOBODY = new TrainingListener() {};
    /// A checkpoint after each step, of which one is kept, and an evaluation after the last.
    private static final TrainerConfig CONFIG = KilledRun.CONFIG
            .withEvaluation(0, 0)
            .withRate(new TrainerConfig.Rate(2e-2, 2, TrainerConfig.Schedule.LINEAR, 0))
            .withCheckpoints(new TrainerConfig.Checkpoints(1, 1));

    private final MethodHandle set;
    private final MethodHandle count;
    private final Arena arena = Arena.global();
    private TrainerConfig config = CONFIG;

    @SuppressWarnings("restricted")
    private FailingDisk(Path library) {
        SymbolLookup symbols = SymbolLookup.libraryLookup(library, arena);
        Linker linker = Linker.nativeLinker();
        set = linker.downcallHandle(
                symbols.findOrThrow("failing_disk"),
                FunctionDescriptor.ofVoid(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
        count = linker.downcallHandle(
                symbols.findOrThrow("failing_disk_count"), FunctionDescriptor.of(ValueLayout.JAVA_LONG));
    }

    public static void main(String[] args) throws Throwable {
        FailingDisk disk = new FailingDisk(Path.of(args[0]));
        disk.config = CONFIG.withSteps(Integer.parseInt(args[3]));
        Path folder = Path.of(args[1]);
        RunFolder straight = RunFolder.create(folder.resolve("straight"));
        disk.train(args[2], straight);
        Map<String, String> expected = RunFiles.of(straight.path());
        int failures = 0;
        for (boolean ever : disk.config.steps() > 1 ? List.of(true, false) : List.of(true)) {
            int n = 1;
            while (disk.fails(n, ever, args[2], folder.resolve((ever ? "ever-" : "once-") + n), expected)) {
                n++;
            }
            failures += n - 1;
        }
        System.out.println(failures + " failures");
    }

    /// Whether the run made that many writes.
    private boolean fails(int n, boolean ever, String method, Path path, Map<String, String> expected)
            throws Throwable {
        String error = null;
        set.invoke(arena.allocateFrom(path.toString()), (long) n, ever ? 1L : 0L);
        try {
            train(method, RunFolder.create(path));
        } catch (InputException | UncheckedIOException e) {
            error = String.valueOf(e.getMessage());
        }
        boolean failed = (long) count.invoke() >= n;
        set.invoke(MemorySegment.NULL, 0L, 0L);
        require(failed || error == null, "without a failure: " + error);
        if (error != null) {
            require(error.contains("No space left on device") && !error.contains("\n"), error);
            train(method, RunFolder.isRun(path) ? RunFolder.resume(path) : RunFolder.create(path));
        }
        Map<String, String> files = RunFiles.of(path);
        require(files.equals(expected), "failure " + n + " (" + error + "): " + RunFiles.difference(files, expected));
        return failed;
    }

    private static void require(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    private void train(String method, RunFolder folder) {
        KilledRun.train(method, folder, config, NOBODY);
    }
}
