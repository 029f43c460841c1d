package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;

/// A user-defined kernel for [CudaContext#launch]: the name of an `.entry`, and the PTX text that contains it, which
/// the driver compiles when the first of its kernels is launched.
public record PtxKernel(String name, String ptx) {

    /// The text of `file`, a resource next to `owner`.
    ///
    /// @throws BackendException if there is none
    public static String text(Class<?> owner, String file) {
        try (InputStream in = owner.getResourceAsStream(file)) {
            if (in == null) {
                throw new BackendException("cuda: " + file + " is not among the resources beside " + owner.getName());
            }
            return new String(in.readAllBytes(), StandardCharsets.US_ASCII);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
