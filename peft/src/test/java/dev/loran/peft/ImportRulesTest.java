package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/// The allowed dependencies, checked in the sources of all modules: engine depends on nothing; kernels depends on
/// engine, and is the only one to use vectors and CUDA; models and tuners depend only on engine; only the command line
/// and the façade choose a backend.
class ImportRulesTest {
    /// One of our classes or packages, wherever it is named: in an import or in the code.
    private static final Pattern OURS = Pattern.compile("\\bdev\\.loran(\\.[a-z]+)+(?=[.;\\s])");

    private static final Pattern FOREIGN = Pattern.compile("\\b(jdk\\.incubator\\.vector|jcuda)\\b");

    /// A source file: its package, its name, and those of our packages that its code names.
    private record Source(String inPackage, String file, Set<String> knows, boolean seesForeign) {
        static Source of(String file, String text) {
            String code = text.lines()
                    .filter(line -> !line.strip().startsWith("//"))
                    .collect(Collectors.joining("\n"))
                    .replaceAll("\"(\\\\.|[^\"\\\\\n])*\"", "\"\"");
            Matcher own = Pattern.compile("(?m)^package ([\\w.]+);").matcher(code);
            assertThat(own.find()).as(file).isTrue();
            Set<String> knows = new TreeSet<>();
            Matcher m = OURS.matcher(code.substring(own.end()));
            while (m.find()) {
                knows.add(m.group());
            }
            knows.remove(own.group(1));
            return new Source(own.group(1), file, knows, FOREIGN.matcher(code).find());
        }

        boolean isUnder(String name) {
            return inPackage.equals(name) || inPackage.startsWith(name + ".");
        }
    }

    private static List<Source> sources() throws IOException {
        Path root = Path.of("").toAbsolutePath();
        while (!Files.isDirectory(root.resolve("engine/src/main/java"))) {
            root = java.util.Objects.requireNonNull(root.getParent(), "the folder of all modules");
        }
        List<Source> sources = new ArrayList<>();
        for (String module : List.of("engine", "kernels", "peft", "benchmarks")) {
            try (Stream<Path> files = Files.walk(root.resolve(module).resolve("src/main/java"))) {
                for (Path file : files.filter(f -> f.toString().endsWith(".java"))
                        .sorted()
                        .toList()) {
                    sources.add(Source.of(root.relativize(file).toString(), Files.readString(file)));
                }
            }
        }
        return sources;
    }

    /// The files of `who` that depend on one of our packages outside `allowed`.
    private static List<String> offences(List<Source> sources, String who, Predicate<String> allowed) {
        return sources.stream()
                .filter(s -> s.isUnder(who))
                .flatMap(s -> s.knows.stream().filter(allowed.negate()).map(k -> s.file + " knows " + k))
                .toList();
    }

    private static Predicate<String> under(String... names) {
        return k -> Stream.of(names).anyMatch(n -> k.equals(n) || k.startsWith(n + "."));
    }

    @Test
    void modulesKnowOnlyThoseBelowThem() throws IOException {
        List<Source> sources = sources();
        assertThat(sources).hasSizeGreaterThan(80);
        assertThat(offences(sources, "dev.loran.engine", under("dev.loran.engine")))
                .isEmpty();
        assertThat(offences(sources, "dev.loran.kernels", under("dev.loran.engine", "dev.loran.kernels")))
                .isEmpty();
        assertThat(offences(
                        sources, "dev.loran.peft", under("dev.loran.engine", "dev.loran.kernels", "dev.loran.peft")))
                .isEmpty();
        assertThat(offences(sources, "dev.loran.peft.tokenizer", under())).isEmpty();
    }

    @Test
    void modelsTunersDataAndTrainerKnowNoKernels() throws IOException {
        List<Source> sources = sources();
        List<String> offences = offences(sources, "dev.loran.peft", under("dev.loran.engine", "dev.loran.peft"));
        assertThat(offences.stream()
                        .filter(o -> !o.startsWith("peft/src/main/java/dev/loran/peft/cli/"))
                        .filter(o -> !o.startsWith("peft/src/main/java/dev/loran/peft/Peft.java")))
                .isEmpty();
        assertThat(offences).isNotEmpty();
        assertThat(offences(
                        sources,
                        "dev.loran.peft.model",
                        under("dev.loran.engine", "dev.loran.peft.io", "dev.loran.peft.model")))
                .isEmpty();
        assertThat(offences(
                        sources,
                        "dev.loran.peft.tuner",
                        under("dev.loran.engine", "dev.loran.peft.io", "dev.loran.peft.model")))
                .isEmpty();
    }

    @Test
    void onlyKernelsAndMeasurementsSeeVectorsAndCuda() throws IOException {
        assertThat(sources().stream()
                        .filter(s ->
                                s.seesForeign && !s.isUnder("dev.loran.kernels") && !s.isUnder("dev.loran.benchmarks"))
                        .map(Source::file))
                .isEmpty();
    }

    /// Projects that depend on the library do not get these: they are optional dependencies. Those that draw are loaded
    /// only for a report.
    @Test
    void onlyTheCommandLineSeesItsLibraries() throws IOException {
        Path peft = Path.of("").toAbsolutePath();
        Map<String, Pattern> own = Map.of(
                "/peft/cli/", Pattern.compile("\\b(picocli|me\\.tongfei|org\\.jline)\\b"),
                "/peft/cli/report/", Pattern.compile("\\b(org\\.knowm|org\\.apache\\.batik|java\\.awt)\\b"));
        try (Stream<Path> files = Files.walk(peft.resolve("src/main/java"))) {
            for (Path file : files.filter(f -> f.toString().endsWith(".java")).toList()) {
                String text = Files.readString(file);
                own.forEach(
                        (place, libraries) -> assertThat(libraries.matcher(text).find()
                                        && !file.toString().contains(place))
                                .as(file.toString())
                                .isFalse());
            }
        }
        String pom = Files.readString(peft.resolve("pom.xml"));
        for (String library : List.of("picocli", "progressbar", "xchart", "batik-svggen")) {
            assertThat(pom.replaceAll("\\s", ""))
                    .contains("<artifactId>" + library + "</artifactId><optional>true</optional>");
        }
    }

    @Test
    void packagesFormNoCircle() throws IOException {
        assertThat(circle(sources())).isEmpty();
    }

    /// Packages that depend on each other in a cycle, in order; empty if there are none.
    private static List<String> circle(List<Source> sources) {
        Map<String, Set<String>> graph = new TreeMap<>();
        sources.forEach(
                s -> graph.computeIfAbsent(s.inPackage, k -> new TreeSet<>()).addAll(s.knows));
        Set<String> done = new TreeSet<>();
        for (String start : graph.keySet()) {
            List<String> found = circle(start, graph, new ArrayList<>(), done);
            if (!found.isEmpty()) {
                return found;
            }
        }
        return List.of();
    }

    private static List<String> circle(String at, Map<String, Set<String>> graph, List<String> path, Set<String> done) {
        if (path.contains(at)) {
            return List.copyOf(path.subList(path.indexOf(at), path.size()));
        }
        if (done.contains(at)) {
            return List.of();
        }
        path.add(at);
        for (String next : graph.getOrDefault(at, Set.of())) {
            List<String> found = circle(next, graph, path, done);
            if (!found.isEmpty()) {
                return found;
            }
        }
        path.removeLast();
        done.add(at);
        return List.of();
    }

    @Test
    void theRulesFindWhatTheyLookFor() {
        Source a = Source.of("A.java", "package dev.loran.a;\nimport dev.loran.b.B;\n");
        Source b = Source.of("B.java", "package dev.loran.b;\nvoid f() { dev.loran.c.C.g(); }\n");
        Source c = Source.of("C.java", "package dev.loran.c;\nimport static dev.loran.a.A.h;\n");
        Source comment =
                Source.of("D.java", "package dev.loran.d;\n/// [dev.loran.a.A] and \n String s = \"jcuda\";\n");
        assertThat(circle(List.of(a, b, c, comment))).containsExactly("dev.loran.a", "dev.loran.b", "dev.loran.c");
        assertThat(circle(List.of(a, b, comment))).isEmpty();
        assertThat(offences(List.of(a, b), "dev.loran.b", under("dev.loran.a")))
                .containsExactly("B.java knows dev.loran.c");
        assertThat(Source.of("E.java", "package e;\nimport jdk.incubator.vector.FloatVector;\n").seesForeign)
                .isTrue();
        assertThat(comment.seesForeign || !comment.knows.isEmpty()).isFalse();
    }
}
