package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// A run's folder is created atomically, is locked while in use, and is not lost by mistake.
class RunFolderTest {
    private static final TrainingListener NOBODY = new TrainingListener() {};

    @TempDir
    Path folder;

    private Path path = Path.of("");

    @BeforeEach
    void place() {
        path = folder.resolve("run");
    }

    private static void begin(RunFolder draft) {
        Path base = draft.base();
        try {
            Files.writeString(Files.createDirectories(base).resolve("config.json"), "{}");
        } catch (IOException e) {
            throw InputException.io(base, "cannot be written", e);
        }
        draft.options(Map.of("lr", 1));
    }

    /// Creates the remains of a process that was killed before the run's folder was complete.
    private static void killedAtTheStart(Path run) throws IOException {
        Files.createDirectories(run.resolve(".loran-draft/base"));
        Files.writeString(run.resolve(".loran-draft/.run.json.part"), "{\"lr\"");
        Files.createFile(run.resolve("metrics.jsonl"));
        Files.createDirectories(run.resolve("base"));
    }

    @Test
    void itHasItsOptionsAndItsModelFromTheBeginning() throws IOException {
        RunFolder run = RunFolder.create(path, false, draft -> {
            assertThat(RunFolder.isRun(path)).isFalse();
            begin(draft);
            assertThat(RunFolder.isRun(path)).isFalse();
        });
        assertThat(run.hasOptions()).isTrue();
        assertThat(run.base()).isDirectoryContaining("glob:**config.json");
        assertThat(names(path)).containsExactly("base", "metrics.jsonl", "run.json");
    }

    @Test
    void whatIsLeftOfOneThatNeverBeganIsInNobodysWay() throws IOException {
        killedAtTheStart(path);
        assertThat(RunFolder.isFree(path)).isTrue();
        assertThatThrownBy(() -> RunFolder.resume(path))
                .hasMessage(path + ": holds no run that could go on (run.json); name the --out of one");
        RunFolder.create(path, false, RunFolderTest::begin);
        assertThat(names(path)).containsExactly("base", "metrics.jsonl", "run.json");
    }

    @Test
    void oneThatCannotBeginLeavesNothingBehind() throws IOException {
        assertThatThrownBy(() -> RunFolder.create(path, false, draft -> {
                    begin(draft);
                    throw new InputException("full");
                }))
                .hasMessage("full");
        assertThat(path).doesNotExist();
        Files.createDirectory(path);
        assertThatThrownBy(() -> RunFolder.create(path, false, draft -> {
                    throw new InputException("full");
                }))
                .hasMessage("full");
        assertThat(path).isEmptyDirectory();
    }

    @Test
    void aRunIsReplacedOnlyWhereThatIsSaid() throws IOException {
        KilledRun.train("lora", RunFolder.create(path), 5, NOBODY);
        Map<String, String> before = RunFiles.of(path);
        assertThatThrownBy(() -> RunFolder.create(path))
                .isInstanceOf(InputException.class)
                .hasMessage(path + ": holds a run already; go on with it (--resume " + path
                        + "), replace it (--overwrite), or choose another folder (--out)");
        assertThatThrownBy(() -> RunFolder.create(path, true, draft -> {
                    throw new InputException("full");
                }))
                .hasMessage("full");
        assertThat(RunFiles.of(path)).isEqualTo(before);
        Files.writeString(path.resolve("notes.txt"), "mine");
        RunFolder.create(path, true, RunFolderTest::begin);
        assertThat(names(path)).containsExactly("base", "metrics.jsonl", "notes.txt", "run.json");
        assertThat(path.resolve("metrics.jsonl")).isEmptyFile();
    }

    @Test
    void aFolderIsOfOneTrainerAtATime() {
        RunFolder run = RunFolder.create(path);
        String taken =
                path + ": another process trains there; wait until it has ended, or choose another folder (--out)";
        try (MetricsFile held = run.open()) {
            assertThatThrownBy(() -> KilledRun.train("lora", RunFolder.resume(path), 5, NOBODY))
                    .isInstanceOf(InputException.class)
                    .hasMessage(taken);
            assertThatThrownBy(() -> RunFolder.create(path, true, RunFolderTest::begin))
                    .hasMessage(taken);
            held.keep(0, false);
        }
        assertThat(KilledRun.train("lora", RunFolder.resume(path), 5, NOBODY).steps())
                .isEqualTo(12);
    }

    @Test
    void aProcessThatWasKilledWhileItReplacedTheBestLeavesTheOldOneOrTheNewOne() throws IOException {
        RunFolder run = RunFolder.create(path);
        KilledRun.train("lora", run, 5, NOBODY);
        Map<String, String> best = RunFiles.of(run.best());
        // The old one has been moved away, and the new one is not there yet.
        Path draft = Files.createDirectories(path.resolve(".loran-draft"));
        Files.move(run.best(), draft.resolve("best.old"));
        Files.createDirectory(draft.resolve("best"));
        assertThat(RunFiles.of(RunFolder.adapter(path))).isEqualTo(best);
        run.open().close();
        assertThat(RunFiles.of(run.best())).isEqualTo(best);
        assertThat(draft).doesNotExist();
        assertThat(RunFolder.adapter(path)).isEqualTo(run.best());
    }

    @Test
    void anAdapterThatIsNotWhatWasWrittenIsRefused() throws IOException {
        RunFolder run = RunFolder.create(path);
        KilledRun.train("lora", run, 0, NOBODY);
        Path file = run.best().resolve("adapter_model.safetensors");
        byte[] bytes = Files.readAllBytes(file);
        bytes[bytes.length - 1] ^= 1;
        Files.write(file, bytes);
        assertThatThrownBy(() -> RunFolder.adapter(path))
                .isInstanceOf(InputException.class)
                .hasMessage(run.best()
                        + ": is damaged (adapter_model.safetensors is not what was written: its SHA-256 is not"
                        + " that of SHA256SUMS); if it was changed on purpose, name this folder instead of the run's");
        assertThat(RunFolder.adapter(run.best())).isEqualTo(run.best());
    }

    private static Stream<String> names(Path folder) throws IOException {
        try (Stream<Path> all = Files.list(folder)) {
            return all.map(f -> f.getFileName().toString()).sorted().toList().stream();
        }
    }
}
