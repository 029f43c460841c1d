package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.peft.cli.ui.PageServer;
import dev.loran.peft.watch.Diagnosis.UsualRates;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.PipedInputStream;
import java.io.PipedOutputStream;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;

/// `loran ui` from its command line, and beside a run that trains.
class UiCommandTest extends CommandLineTest {
    private static String get(URI page, String path) throws IOException {
        return new String(page.resolve(path).toURL().openStream().readAllBytes(), StandardCharsets.UTF_8);
    }

    @Test
    void itPrintsTheAddressOfThePage() throws Exception {
        assertThat(train("--steps", 3).code()).isZero();
        PipedInputStream printed = new PipedInputStream();
        PrintStream out = new PrintStream(new PipedOutputStream(printed), true, StandardCharsets.UTF_8);
        FutureTask<Integer> command = new FutureTask<>(() -> Main.run(
                new String[] {"ui", folder.resolve("run").toString(), "--port", "0"},
                out,
                new PrintStream(PrintStream.nullOutputStream())));
        Thread thread = Thread.ofVirtual().start(command);
        try (BufferedReader lines =
                new BufferedReader(new java.io.InputStreamReader(printed, StandardCharsets.UTF_8))) {
            URI page = URI.create(lines.readLine());
            assertThat(page.toString()).matches("http://localhost:\\d+/");
            assertThat(get(page, "/")).contains("<title>Loran</title>");
            assertThat(get(page, "/api/runs"))
                    .contains("\"state\":\"finished\"")
                    .contains("\"step\":3,")
                    .contains("\"total\":3,");
        } finally {
            thread.interrupt();
        }
        assertThat(command.get(30, TimeUnit.SECONDS)).isNotNull();
    }

    @Test
    void unusableInput() throws IOException {
        Path none = folder.resolve("none");
        assertRefused(loran("ui", none), "loran: " + none + ": no such file");
        assertRefused(loran("ui", folder, "--port", 70_000), "loran: --port 70000 must be from 0 to 65535");
        try (ServerSocket taken = new ServerSocket(0, 1, java.net.InetAddress.getLoopbackAddress())) {
            Result refused = loran("ui", folder, "--port", taken.getLocalPort());
            assertThat(refused.code()).isEqualTo(2);
            assertThat(refused.err()).contains("port " + taken.getLocalPort()).contains("--port 0");
        }
    }

    /// Only Linux lists locks; elsewhere a run counts as training until its last line is old.
    @Test
    @EnabledOnOs(OS.LINUX)
    void aRunOfAnotherProcessIsSeenToTrainAndToStop() throws Exception {
        Path run = folder.resolve("run");
        Process child = started(List.of(
                "train",
                "--task",
                "classify",
                "--model",
                encoder.toString(),
                "--train",
                train.toString(),
                "--out",
                run.toString(),
                "--threads",
                "1",
                "--accumulation",
                "10000000",
                "--steps",
                "2"));
        try (BufferedReader err = child.errorReader(StandardCharsets.UTF_8);
                PageServer page = PageServer.start(List.of(folder), 0, method -> new UsualRates(1e-4, 5e-4))) {
            // Printed as the steps begin.
            for (String line = err.readLine(); line != null && !line.contains("tensors: "); line = err.readLine()) {
                assertThat(line).doesNotContain("loran:");
            }
            assertThat(get(page.address(), "/api/runs"))
                    .contains("\"state\":\"starting\"")
                    .contains("\"total\":2");
            child.destroyForcibly().waitFor();
            assertThat(get(page.address(), "/api/runs")).contains("\"state\":\"stopped\"");
        } finally {
            child.destroyForcibly();
        }
    }
}
