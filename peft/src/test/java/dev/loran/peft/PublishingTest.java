package dev.loran.peft;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.xml.parsers.DocumentBuilderFactory;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.w3c.dom.NodeList;

/// What is published has everything that Maven Central requires, and brings its users only the libraries that they
/// need: read from the poms, each with its parents.
class PublishingTest {
    private static final Path ROOT = root();

    /// A pom and, inherited from, those of its parents.
    private record Pom(Path file, Element project, @Nullable Pom parent) {
        static Pom read(Path file) {
            try {
                Element project = DocumentBuilderFactory.newInstance()
                        .newDocumentBuilder()
                        .parse(file.toFile())
                        .getDocumentElement();
                Element parent = child(project, "parent");
                if (parent == null) {
                    return new Pom(file, project, null);
                }
                String at = text(parent, "relativePath");
                Path folder = Objects.requireNonNull(file.getParent());
                Pom above =
                        read(folder.resolve(at.isEmpty() ? "../pom.xml" : at).normalize());
                assertThat(text(parent, "artifactId")).isEqualTo(text(above.project, "artifactId"));
                assertThat(text(parent, "version"))
                        .as("%s: its parent's version", file)
                        .isEqualTo(above.value("version"));
                return new Pom(file, project, above);
            } catch (Exception e) {
                throw new AssertionError(file.toString(), e);
            }
        }

        /// An element's text, its own or inherited.
        String value(String... path) {
            Element at = project;
            for (String name : path) {
                at = at == null ? null : child(at, name);
            }
            if (at != null) {
                return at.getTextContent().strip();
            }
            return parent == null ? "" : parent.value(path);
        }

        /// Every element of this name in this pom and its parents.
        List<Element> all(String name) {
            List<Element> found = new ArrayList<>(parent == null ? List.of() : parent.all(name));
            NodeList here = project.getElementsByTagName(name);
            for (int i = 0; i < here.getLength(); i++) {
                found.add((Element) here.item(i));
            }
            return found;
        }
    }

    private static Path root() {
        Path root = Path.of("").toAbsolutePath();
        while (!Files.isRegularFile(root.resolve("bom/pom.xml"))) {
            root = Objects.requireNonNull(root.getParent(), "the folder of bom");
        }
        return root;
    }

    private static Pom pom(String module) {
        return Pom.read(ROOT.resolve(module).resolve("pom.xml").normalize());
    }

    private static @Nullable Element child(Element parent, String name) {
        for (Node n = parent.getFirstChild(); n != null; n = n.getNextSibling()) {
            if (n instanceof Element e && e.getTagName().equals(name)) {
                return e;
            }
        }
        return null;
    }

    private static String text(Element parent, String name) {
        Element found = child(parent, name);
        return found == null ? "" : found.getTextContent().strip();
    }

    @ParameterizedTest
    @ValueSource(strings = {"bom", ".", "engine", "kernels", "peft"})
    void eachArtifactSaysWhatCentralRequires(String module) {
        Pom pom = pom(module);
        assertThat(text(pom.project, "name")).as("its own name").startsWith("Loran");
        assertThat(text(pom.project, "description")).as("its own description").isNotEmpty();
        assertThat(pom.value("groupId")).isEqualTo("dev.loran");
        assertThat(pom.value("url")).startsWith("https://");
        assertThat(pom.value("licenses", "license", "name")).isEqualTo("Apache-2.0");
        assertThat(pom.value("licenses", "license", "url")).startsWith("https://");
        assertThat(pom.value("developers", "developer", "name")).isNotEmpty();
        assertThat(pom.value("scm", "connection")).startsWith("scm:git:");
        assertThat(pom.value("scm", "developerConnection")).startsWith("scm:git:");
        assertThat(pom.value("scm", "url")).startsWith("https://");
        // Central takes everything from itself.
        for (String elsewhere :
                List.of("repository", "pluginRepository", "snapshotRepository", "distributionManagement")) {
            assertThat(pom.all(elsewhere)).as(elsewhere).isEmpty();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"bom", ".", "engine", "kernels", "peft"})
    void aReleaseDependsOnReleases(String module) {
        for (Element dependency : pom(module).all("dependency")) {
            if (!text(dependency, "groupId").equals("dev.loran")) {
                assertThat(text(dependency, "version")).doesNotContain("SNAPSHOT");
            }
        }
        pom(module)
                .all("properties")
                .forEach(p -> assertThat(p.getTextContent()).doesNotContain("SNAPSHOT"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"engine", "kernels", "peft"})
    void theReleaseProfileMakesSourcesDocumentationAndSignatures(String module) {
        List<String> plugins = pom(module).all("profile").stream()
                .filter(p -> text(p, "id").equals("release"))
                .flatMap(p -> {
                    NodeList names = p.getElementsByTagName("artifactId");
                    return java.util.stream.IntStream.range(0, names.getLength())
                            .mapToObj(i -> names.item(i).getTextContent());
                })
                .toList();
        assertThat(plugins).containsExactly("maven-source-plugin", "maven-javadoc-plugin", "maven-gpg-plugin");
    }

    @Test
    void benchmarksAreNotPublished() {
        Pom pom = pom("benchmarks");
        assertThat(pom.value("properties", "maven.deploy.skip")).isEqualTo("true");
        assertThat(pom.value("properties", "skipPublishing")).isEqualTo("true");
        assertThat(pom("peft").value("properties", "maven.deploy.skip")).isEmpty();
    }

    /// A BOM that managed other libraries would change the versions of its users.
    @Test
    void theBomManagesEveryArtifactAndNothingElse() {
        Pom bom = pom("bom");
        assertThat(bom.parent).isNull();
        Set<String> managed = new TreeSet<>();
        for (Element dependency : bom.all("dependency")) {
            assertThat(text(dependency, "groupId")).isEqualTo("dev.loran");
            assertThat(text(dependency, "version")).isEqualTo("${project.version}");
            managed.add(text(dependency, "artifactId"));
        }
        Set<String> published = new TreeSet<>();
        for (Element module : pom(".").all("module")) {
            Pom pom = pom(module.getTextContent());
            if (text(pom.project, "packaging").isEmpty()
                    && pom.value("properties", "skipPublishing").isEmpty()) {
                published.add(text(pom.project, "artifactId"));
            }
        }
        assertThat(managed).isEqualTo(published).hasSize(3);
    }

    /// Whoever depends on an artifact gets these libraries, and no others: what only the command line, CUDA or the
    /// compiler needs is optional or provided.
    @Test
    void usersGetOnlyTheLibrariesThatTheyNeed() {
        Map<String, Set<String>> passed = new TreeMap<>();
        for (String module : List.of("engine", "kernels", "peft")) {
            Set<String> libraries = new TreeSet<>();
            for (Element dependencies : direct(pom(module))) {
                NodeList each = dependencies.getElementsByTagName("dependency");
                for (int i = 0; i < each.getLength(); i++) {
                    Element d = (Element) each.item(i);
                    if (!text(d, "optional").equals("true")
                            && !Set.of("test", "provided").contains(text(d, "scope"))) {
                        libraries.add(text(d, "artifactId"));
                    }
                }
            }
            passed.put(module, libraries);
        }
        assertThat(passed.get("engine")).isEmpty();
        assertThat(passed.get("kernels")).containsExactly("loran-engine", "slf4j-api");
        // JSON files, CSV rows, and the singular values that PiSSA and merging take.
        assertThat(passed.get("peft"))
                .containsExactly("ejml-ddense", "fastcsv", "jackson-databind", "loran-kernels", "slf4j-api");
    }

    /// The dependencies of a pom, its parents and their profiles, without those that are only managed.
    private static List<Element> direct(Pom pom) {
        return pom.all("dependencies").stream()
                .filter(d -> !((Element) d.getParentNode()).getTagName().equals("dependencyManagement"))
                .toList();
    }

    /// Wherever a document or an example tells users which version to take, it is the present one.
    @Test
    void documentsNameThePresentVersion() throws IOException {
        String version = pom("bom").value("version");
        int found = 0;
        for (String file : List.of("README.md", "docs/library.md", "examples/FineTune.java")) {
            Path path = ROOT.resolve(file);
            if (!Files.exists(path)) {
                continue;
            }
            Matcher named = Pattern.compile(
                            "(?s)dev\\.loran:loran-\\w+:([\\w.-]+)|<artifactId>loran-\\w+</artifactId>\\s*"
                                    + "<version>([^<]*)</version>")
                    .matcher(Files.readString(path));
            while (named.find()) {
                assertThat(named.group(1) == null ? named.group(2) : named.group(1))
                        .as(file)
                        .isEqualTo(version);
                found++;
            }
        }
        assertThat(found).isPositive();
    }
}
