package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.train.RunFiles;
import dev.loran.peft.train.RunFolder;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;

/// `loran train`, killed repeatedly at random moments and resumed, leaves the same bytes as when it is never killed,
/// and no other files. `-Dloran.kills` (SIGKILL) and `-Dloran.terms` (SIGTERM) set how often, `-Dloran.seed` the first
/// seed.
@DisabledOnOs(OS.WINDOWS)
class KilledRunsTest extends CommandLineTest {
    private static final int KILLS = Integer.getInteger("loran.kills", 8);
    private static final int TERMS = Integer.getInteger("loran.terms", 2);
    private static final long SEED = Long.getLong("loran.seed", 1);
    private static final Pattern LAST_LINE = Pattern.compile("stopped after \\d+ of its steps; it goes on by: loran.*");
    private static final int STEPS = 8;
    /// About the time that a process needs to reach its first step.
    private static final int START_MILLISECONDS = 2500;

    /// The options of a run: a method, and settings that make resuming harder.
    private record Kind(String method, List<String> options) {}

    private static final List<Kind> KINDS = List.of(
            new Kind("lora", List.of("--accumulation", "2", "--dropout", "0.2")),
            new Kind("adalora", List.of("--dropout", "0.1")),
            new Kind("full", List.of()),
            new Kind("p-tuning", List.of("--accumulation", "2", "--virtual-tokens", "4")),
            new Kind("lora", List.of("--dtype", "bf16", "--dropout", "0.1")),
            new Kind("dora", List.of("--accumulation", "3")),
            new Kind("prompt", List.of("--virtual-tokens", "4")),
            new Kind("prefix", List.of("--virtual-tokens", "4", "--dtype", "bf16")),
            new Kind("adapter", List.of("--dropout", "0.2", "--accumulation", "2")),
            new Kind("ia3", List.of()),
            new Kind("ln-tuning", List.of("--dtype", "bf16", "--accumulation", "2")),
            new Kind("bitfit", List.of()),
            new Kind("seo", List.of("--dropout", "0.2")));

    /// The moments at which a process may be ended.
    private enum Moment {
        START,
        STEP,
        CHECKPOINT,
        END
    }

    private final Random random = new Random(SEED);
    private final Map<Kind, Map<String, String>> unbroken = new HashMap<>();
    private int runs;
    private long longest;

    @Test
    void aKilledRunEndsAsIfNobodyHadKilledIt() throws IOException, InterruptedException {
        Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
        int kills = KILLS;
        int terms = TERMS;
        Map<Moment, Integer> moments = new HashMap<>();
        Map<Integer, Integer> codes = new HashMap<>();
        for (int i = 0; kills + terms > 0; i++) {
            Kind kind = KINDS.get(i % KINDS.size());
            Path run = folder.resolve("run-" + i);
            // The same run is killed up to four times, unless it has ended before.
            for (int again = random.nextInt(4); again >= 0 && kills + terms > 0; again--) {
                boolean term = random.nextInt(kills + terms) < terms;
                Moment moment = Moment.values()[random.nextInt(Moment.values().length)];
                int code = killed(kind, run, term, moment);
                codes.merge(code, 1, Integer::sum);
                if (code == 0) {
                    break;
                }
                moments.merge(moment, 1, Integer::sum);
                terms -= term ? 1 : 0;
                kills -= term ? 0 : 1;
            }
            toTheEnd(kind, run);
            assertThat(RunFiles.difference(files(run), unbroken(kind)))
                    .as("%s, %s", kind, run)
                    .isEmpty();
        }
        System.out.printf(
                "%d processes and runs; killed %d times, asked to end %d times, which took %d ms at most: %s, exit codes %s%n",
                runs, KILLS, TERMS, longest, moments, codes);
    }

    /// Which of the older checkpoints are kept depends on when a run was asked to end.
    private static Map<String, String> files(Path run) throws IOException {
        Map<String, String> files = RunFiles.of(run);
        files.keySet()
                .removeIf(f -> f.matches("checkpoints/step-\\d+.*") && !f.startsWith("checkpoints/step-" + STEPS));
        return files;
    }

    private List<String> arguments(Kind kind, Path run) {
        List<String> args = new ArrayList<>(List.of("train", "--task", "classify", "--eval", held.toString()));
        if (kind.method.equals("seo")) {
            args.addAll(List.of(
                    "--model",
                    "seo",
                    "--tokenizer",
                    folder.resolve("tokenizer.json").toString()));
            args.addAll(List.of("--hidden", "16", "--layers", "1", "--heads", "2"));
        } else {
            args.addAll(List.of("--model", encoder.toString(), "--method", kind.method));
        }
        args.addAll(List.of("--train", train.toString(), "--out", run.toString(), "--steps", "" + STEPS));
        args.addAll(List.of("--eval-every", "3", "--save-steps", "2", "--batch-size", "4", "--max-length", "20"));
        args.addAll(List.of("--threads", "1", "--lr", "1e-2"));
        args.addAll(kind.options);
        return args;
    }

    /// The command line that resumes a run, or starts it if it was killed before it had begun.
    private List<String> next(Kind kind, Path run) {
        return RunFolder.isRun(run) ? List.of("train", "--resume", run.toString()) : arguments(kind, run);
    }

    /// Finishes the run in this process.
    private void toTheEnd(Kind kind, Path run) {
        runs++;
        Result result = loran(next(kind, run).toArray());
        assertThat(result.code()).as(result.err()).isZero();
    }

    private Map<String, String> unbroken(Kind kind) throws IOException {
        if (!unbroken.containsKey(kind)) {
            Path run = folder.resolve("unbroken-" + unbroken.size());
            toTheEnd(kind, run);
            unbroken.put(kind, files(run));
        }
        return unbroken.get(kind);
    }

    /// Starts or resumes a run in a separate process and ends that process.
    private int killed(Kind kind, Path run, boolean term, Moment moment) throws IOException, InterruptedException {
        runs++;
        // A process that was killed has left its own files.
        Set<String> before = temporary();
        Process child = started(next(kind, run));
        List<String> lines = new ArrayList<>();
        long asked = System.nanoTime();
        try (BufferedReader err = child.errorReader(StandardCharsets.UTF_8)) {
            waitFor(moment, run, err, lines, child);
            asked = System.nanoTime();
            // Through its handle: destroying the process object would also close its output.
            if (term) {
                child.toHandle().destroy();
            } else {
                child.toHandle().destroyForcibly();
            }
            err.lines().forEach(lines::add);
        }
        int code = child.waitFor();
        assertThat(code).as("%s", lines).isIn(0, 128 + 9, 128 + 15);
        if (term && code != 0) {
            longest = Math.max(longest, TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - asked));
            boolean trains = lines.stream().anyMatch(l -> l.contains(" steps; "));
            boolean says = lines.stream().anyMatch(l -> LAST_LINE.matcher(l).matches());
            assertThat(says || !trains || Files.exists(run.resolve("last")) || !RunFolder.isRun(run))
                    .as("%s", lines)
                    .isTrue();
            assertThat(temporary()).as("temporary folders").isEqualTo(before);
        }
        return code;
    }

    private Set<String> temporary() throws IOException {
        try (Stream<Path> files = Files.list(Files.createDirectories(folder.resolve("tmp")))) {
            return files.map(f -> f.getFileName().toString())
                    .filter(f -> f.startsWith("loran-"))
                    .collect(Collectors.toSet());
        }
    }

    private void waitFor(Moment moment, Path run, BufferedReader err, List<String> lines, Process child)
            throws IOException, InterruptedException {
        Path drafts = run.resolve(moment == Moment.END ? ".loran-draft/last" : "checkpoints/.loran-draft");
        switch (moment) {
            case START -> child.waitFor(random.nextLong(START_MILLISECONDS), TimeUnit.MILLISECONDS);
            case STEP -> {
                String step = "step " + (1 + random.nextInt(STEPS)) + "/";
                for (String line = err.readLine(); line != null; line = err.readLine()) {
                    lines.add(line);
                    if (line.startsWith(step)) {
                        break;
                    }
                }
                child.waitFor(random.nextInt(40), TimeUnit.MILLISECONDS);
            }
            case CHECKPOINT, END -> {
                // This moment is not announced: poll without a pause, so as not to miss it.
                while (child.isAlive() && !Files.exists(drafts)) {
                    Thread.onSpinWait();
                }
                child.waitFor(random.nextLong(3_000_000), TimeUnit.NANOSECONDS);
            }
            default -> throw new IllegalStateException();
        }
    }
}
