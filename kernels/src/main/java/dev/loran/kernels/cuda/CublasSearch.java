package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.io.File;
import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/// Where cuBLAS is searched, in this order and with version 12 before 13 in each place: the file named by the system
/// property `loran.cublas`, then by the environment variable `LORAN_CUBLAS`; the folders in `CUDA_HOME` and
/// `CUDA_PATH`; `/usr/local/cuda*`; the system loader's library path; the `nvidia` packages of Python installations.
///
/// @param properties returns the value of a system property, null if it is not set
/// @param environment returns the value of an environment variable, null if it is not set
/// @param root the folder used as `/`
/// @param loaderKnows whether the system loader finds a library by its name
record CublasSearch(
        Function<String, @Nullable String> properties,
        Function<String, @Nullable String> environment,
        Path root,
        Predicate<String> loaderKnows) {
    private static final Logger LOG = LoggerFactory.getLogger(CublasSearch.class);

    /// Version 12 or 13, with its path; null if the system loader finds it by name.
    record Cublas(int major, @Nullable Path path) {
        String describe() {
            return "cuBLAS " + major + (path == null ? "" : " (" + path + ")");
        }
    }

    /// The first cuBLAS found; null if there is none.
    ///
    /// @throws BackendException if a file is named that does not exist
    @Nullable
    Cublas find() {
        for (String named : new String[] {properties.apply("loran.cublas"), environment.apply("LORAN_CUBLAS")}) {
            if (named != null && !named.isBlank()) {
                Path file = Path.of(named).toAbsolutePath();
                if (!Files.isRegularFile(file)) {
                    throw new BackendException("cuda: " + file + ", named as cuBLAS, is no file");
                }
                return new Cublas(file.getFileName().toString().contains(".so.13") ? 13 : 12, file);
            }
        }
        List<Path> folders = new ArrayList<>();
        named("CUDA_HOME", "CUDA_PATH").forEach(home -> folders.add(home.resolve("lib64")));
        children(root.resolve("usr/local"), "cuda*").forEach(cuda -> folders.add(cuda.resolve("lib64")));
        Cublas found = in(folders);
        for (int major = 12; found == null && major <= 13; major++) {
            found = loaderKnows.test("libcublas.so." + major) ? new Cublas(major, null) : null;
        }
        return found != null ? found : in(pythonFolders());
    }

    private static @Nullable Cublas in(List<Path> folders) {
        for (Path folder : folders) {
            for (int major = 12; major <= 13; major++) {
                Path file = folder.resolve("libcublas.so." + major);
                if (Files.isRegularFile(file)) {
                    return new Cublas(major, file);
                }
            }
        }
        return null;
    }

    /// The folders into which `pip install nvidia-cublas…` puts libraries, site-packages/nvidia/NAME/lib: for the
    /// active Python environment, those on the path, the user's and the system's.
    private List<Path> pythonFolders() {
        Set<Path> prefixes = new LinkedHashSet<>(named("VIRTUAL_ENV", "CONDA_PREFIX"));
        String path = environment.apply("PATH");
        for (String folder : path == null ? new String[0] : path.split(File.pathSeparator)) {
            Path prefix = Path.of(folder).getParent();
            if (prefix != null && Files.isExecutable(Path.of(folder, "python3"))) {
                prefixes.add(prefix);
            }
        }
        String home = properties.apply("user.home");
        if (home != null) {
            prefixes.add(Path.of(home, ".local"));
        }
        prefixes.add(root.resolve("usr/local"));
        prefixes.add(root.resolve("usr"));
        List<Path> folders = new ArrayList<>();
        for (Path prefix : prefixes) {
            for (Path python : children(prefix.resolve("lib"), "python3*")) {
                for (Path packages : children(python, "{site,dist}-packages")) {
                    children(packages.resolve("nvidia"), "*").forEach(p -> folders.add(p.resolve("lib")));
                }
            }
        }
        return folders;
    }

    /// The folders that environment variables name.
    private List<Path> named(String... variables) {
        List<Path> all = new ArrayList<>();
        for (String variable : variables) {
            String folder = environment.apply(variable);
            if (folder != null && !folder.isBlank()) {
                all.add(Path.of(folder));
            }
        }
        return all;
    }

    private static List<Path> children(Path folder, String glob) {
        List<Path> all = new ArrayList<>();
        if (Files.isDirectory(folder)) {
            try (DirectoryStream<Path> stream = Files.newDirectoryStream(folder, glob)) {
                stream.forEach(all::add);
            } catch (IOException e) {
                // An unreadable folder is treated as empty.
                LOG.debug("cuda: {} cannot be listed", folder, e);
            }
        }
        all.sort(null);
        return all;
    }
}
