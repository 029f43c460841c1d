package dev.loran.kernels.cuda;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.backend.DType;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/// The CPU stand-in that the build created before the tests, or with `-Dloran.test.gpu=true` a real GPU.
final class StandIn {
    private static final Path FOLDER = Path.of("target", "standin");

    private StandIn() {}

    static boolean isGpu() {
        return Boolean.getBoolean("loran.test.gpu");
    }

    /// Opens a backend on it; if the build could not create it, the test is skipped with the build's reason.
    static CudaBackend open() {
        return open(DType.F32);
    }

    /// As [#open()], for products with operands of type `operands`.
    static CudaBackend open(DType operands) {
        if (isGpu()) {
            return CudaBackend.open(0, operands);
        }
        Path reason = FOLDER.resolve("why-not");
        assumeTrue(!Files.exists(reason), () -> read(reason));
        assumeTrue(Files.isDirectory(FOLDER), "JCuda has no natives for this system");
        return CudaBackend.standIn(FOLDER, operands);
    }

    private static String read(Path file) {
        try {
            return Files.readString(file).strip();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
