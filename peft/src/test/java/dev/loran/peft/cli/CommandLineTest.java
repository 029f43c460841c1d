package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Tiny;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.io.TempDir;

/// Runs command lines in this process, on tiny models and rows that they can learn.
abstract class CommandLineTest {
    static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    Path folder;

    Path encoder = Path.of("");
    Path causal = Path.of("");
    Path train = Path.of("");
    Path held = Path.of("");

    /// The output of a command line, and its exit code.
    record Result(int code, String out, String err) {
        JsonNode json() throws IOException {
            return JSON.readTree(out.lines().reduce((a, b) -> b).orElseThrow());
        }
    }

    static Result loran(Object... arguments) {
        String[] args = new String[arguments.length];
        for (int i = 0; i < args.length; i++) {
            args[i] = arguments[i].toString();
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        int code = Main.run(
                args,
                new PrintStream(out, true, StandardCharsets.UTF_8),
                new PrintStream(err, true, StandardCharsets.UTF_8));
        return new Result(code, out.toString(StandardCharsets.UTF_8), err.toString(StandardCharsets.UTF_8));
    }

    /// Starts a command line in a separate process whose temporary files go to `tmp` in [#folder]. Its standard output
    /// is discarded.
    Process started(List<String> arguments) throws IOException {
        return new ProcessBuilder(command(arguments))
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start();
    }

    /// The command that starts Loran in a process of its own.
    List<String> command(List<String> arguments) throws IOException {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--add-modules=jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED",
                // The same flags as this process: only the same vectors compute sums in the same order.
                "-XX:+IgnoreUnrecognizedVMOptions",
                "-XX:-UseProfiledLoopPredicate",
                "-XX:+UseSerialGC",
                "-Djava.io.tmpdir=" + Files.createDirectories(folder.resolve("tmp")),
                "-cp",
                System.getProperty("java.class.path"),
                Main.class.getName()));
        command.addAll(arguments);
        return command;
    }

    /// Checks for exit code 2, this one line, and no other output.
    static void assertRefused(Result result, String line) {
        assertThat(result.err().strip()).isEqualTo(line);
        assertThat(result.code()).isEqualTo(2);
        assertThat(result.out()).isEmpty();
    }

    @BeforeEach
    void models() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model bert = Tiny.encoder(backend, DType.F32);
                Model seo = Tiny.causal(backend, DType.F32)) {
            encoder = Tiny.save(bert, folder.resolve("encoder"));
            causal = Tiny.save(seo, folder.resolve("causal"));
        }
        train = Tiny.write(folder.resolve("train.jsonl"), Tiny.rows(48, 1));
        held = Tiny.write(folder.resolve("held.jsonl"), Tiny.rows(20, 2));
    }

    Result train(Object... more) {
        List<Object> args = new ArrayList<>(
                List.of("train", "--model", encoder, "--task", "classify", "--train", train, "--overwrite"));
        args.addAll(List.of("--out", folder.resolve("run")));
        args.addAll(List.of("--json", "--threads", 1, "--batch-size", 8, "--max-length", 24));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    Result eval(Object... more) {
        List<Object> args = new ArrayList<>(List.of("eval", "--json", "--threads", 1));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }
}
