package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Objects;
import javax.tools.ToolProvider;

/// Sources of the documentation, compiled as a user would: on the class path of this library, with every warning an
/// error, but that the variable of a scope is not used in its block.
record Compiled(Path folder) {
    /// The folder of the project.
    static Path root() {
        Path root = Path.of("").toAbsolutePath();
        while (!root.resolve("README.md").toFile().isFile()) {
            root = Objects.requireNonNull(root.getParent(), "the folder of README.md");
        }
        return root;
    }

    /// @param folder for the classes
    static Compiled of(Path folder, Collection<Path> sources) {
        ByteArrayOutputStream errors = new ByteArrayOutputStream();
        List<String> options = new ArrayList<>(List.of(
                "-Xlint:all,-try",
                "-Werror",
                "-proc:none",
                "-cp",
                System.getProperty("java.class.path"),
                "-d",
                folder.toString()));
        sources.forEach(file -> options.add(file.toString()));
        int compiled = ToolProvider.getSystemJavaCompiler().run(null, null, errors, options.toArray(String[]::new));
        assertThat(compiled).as(errors.toString(StandardCharsets.UTF_8)).isZero();
        return new Compiled(folder);
    }

    /// Runs a class's `main` in this JVM.
    ///
    /// @return what it printed
    String run(String type, Object... arguments) throws Exception {
        String[] args = new String[arguments.length];
        for (int i = 0; i < args.length; i++) {
            args[i] = arguments[i].toString();
        }
        PrintStream before = System.out;
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try (URLClassLoader loader =
                new URLClassLoader(new URL[] {folder.toUri().toURL()})) {
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            loader.loadClass(type).getMethod("main", String[].class).invoke(null, (Object) args);
        } finally {
            System.setOut(before);
        }
        return out.toString(StandardCharsets.UTF_8);
    }
}
