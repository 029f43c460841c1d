package dev.loran.peft.cli.report;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.awt.image.BufferedImage;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import javax.imageio.ImageIO;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/// The page and the figures of fixed results, `results.json` in the test resources; its numbers are made up.
class ReportTest {
    private static final List<String> FIGURES = List.of(
            "parameters",
            "parameters-by-rank",
            "parameters-by-bottleneck",
            "memory",
            "tradeoff",
            "speed",
            "learning",
            "held-out",
            "ranks",
            "latency");

    @TempDir
    Path folder;

    private static ObjectNode results() throws IOException {
        try (InputStream file = Objects.requireNonNull(ReportTest.class.getResourceAsStream("results.json"))) {
            return (ObjectNode) new ObjectMapper().readTree(file);
        }
    }

    private static Document parsed(String xml) throws Exception {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setFeature("http://xml.org/sax/features/external-general-entities", false);
        factory.setAttribute("http://javax.xml.XMLConstants/property/accessExternalDTD", "");
        return factory.newDocumentBuilder().parse(new ByteArrayInputStream(xml.getBytes(StandardCharsets.UTF_8)));
    }

    private String page(ObjectNode results) throws IOException {
        Report.write(folder, results);
        return Files.readString(folder.resolve("report.html"));
    }

    private static List<Element> elements(Document page, String tag) {
        NodeList found = page.getElementsByTagName(tag);
        return IntStream.range(0, found.getLength())
                .mapToObj(i -> (Element) found.item(i))
                .toList();
    }

    private static List<String> matches(String pattern, String text) {
        Matcher m = Pattern.compile(pattern).matcher(text);
        List<String> found = new ArrayList<>();
        while (m.find()) {
            found.add(m.group(1));
        }
        return found;
    }

    @Test
    void thePageIsWellFormedAndNeedsNothingElse() throws Exception {
        String html = page(results());
        Document page = parsed(html);
        assertThat(html).doesNotContain("http").doesNotContain("src=").doesNotContain("@import");
        assertThat(page.getElementsByTagName("script").getLength()).isZero();
        assertThat(elements(page, "figure").stream().map(f -> f.getAttribute("id")))
                .containsExactlyElementsOf(FIGURES);
        assertThat(page.getElementsByTagName("figcaption").getLength()).isEqualTo(FIGURES.size());
        List<String> ids = matches("\\bid=\"([^\"]+)\"", html);
        assertThat(ids).doesNotHaveDuplicates();
        // References of one part to another, such as clip paths, find it.
        assertThat(ids).containsAll(matches("url\\(#([^)]+)\\)", html));
        assertThat(matches("url\\(([^)])", html)).containsOnly("#");
    }

    /// Drawn by colours that the page declares, once for light and once for dark.
    @Test
    void figuresTakeTheColoursOfThePage() throws Exception {
        String html = page(results());
        List<String> used =
                matches("var\\((--[a-z]+)\\)", html).stream().distinct().toList();
        assertThat(used).contains("--paper", "--ink", "--grid", "--blue", "--orange");
        for (String variable : used) {
            assertThat(matches("(" + variable + ":#)", html)).as(variable).hasSize(2);
        }
        assertThat(html).contains("prefers-color-scheme:dark").contains("width=device-width");
        String figure = html.substring(html.indexOf("<figure id=\"parameters\""), html.indexOf("</figure>"));
        assertThat(matches("\"(rgb\\([^)]*\\))", figure)).isEmpty();
    }

    @Test
    void everyFigureIsAnSvgAndAPng() throws Exception {
        page(results());
        try (Stream<Path> files = Files.list(folder.resolve("plots"))) {
            assertThat(files).hasSize(2 * FIGURES.size());
        }
        for (String name : FIGURES) {
            Element svg = parsed(Files.readString(folder.resolve("plots/" + name + ".svg")))
                    .getDocumentElement();
            assertThat(svg.getTagName()).isEqualTo("svg");
            int width = Integer.parseInt(svg.getAttribute("width"));
            int height = Integer.parseInt(svg.getAttribute("height"));
            assertThat(svg.getElementsByTagName("path").getLength()).as(name).isGreaterThan(10);
            BufferedImage png =
                    ImageIO.read(folder.resolve("plots/" + name + ".png").toFile());
            assertThat(png.getWidth()).isEqualTo(2 * width);
            assertThat(png.getHeight()).isEqualTo(2 * height);
            assertThat(IntStream.range(0, png.getWidth())
                            .flatMap(x -> IntStream.range(0, png.getHeight()).map(y -> png.getRGB(x, y)))
                            .distinct())
                    .as(name)
                    .hasSizeGreaterThan(20);
        }
    }

    @Test
    void theTableHoldsTheNumbersOfTheResults() throws Exception {
        ObjectNode results = results();
        Document page = parsed(page(results));
        List<Element> rows = elements(page, "tr");
        assertThat(rows).hasSize(1 + results.get("methods").size());
        for (int i = 0; i < results.get("methods").size(); i++) {
            JsonNode method = results.get("methods").get(i);
            NodeList cells = rows.get(i + 1).getElementsByTagName("data");
            List<String> shown = IntStream.range(0, cells.getLength())
                    .mapToObj(c -> ((Element) cells.item(c)).getAttribute("value"))
                    .toList();
            List<String> expected = Stream.of(
                            "trainable_parameters",
                            "trainable_percentage",
                            "adapter_bytes",
                            "learning_rate",
                            "steps",
                            "seconds",
                            "tokens_per_second",
                            "planned_tensor_mib",
                            "peak_tensor_mib",
                            "peak_memory_mib",
                            "latency_ms",
                            "latency_merged_ms",
                            "train_loss",
                            "loss",
                            "accuracy")
                    .map(method::get)
                    .filter(JsonNode::isNumber)
                    .map(JsonNode::asText)
                    .toList();
            assertThat(shown).isEqualTo(expected);
        }
        assertThat(new ObjectMapper().readTree(folder.resolve("results.json").toFile()))
                .isEqualTo(new ObjectMapper().readTree(results.toString()));
    }

    @Test
    void namesFromDataCannotBecomeMarkup() throws Exception {
        ObjectNode results = results();
        String evil = "</td><img src=x onerror=\"alert(1)\">&'";
        results.put("model", evil).put("task", evil);
        results.withArray("notices").add(evil);
        ((ObjectNode) results.get("methods").get(1)).put("name", evil);
        Document page = parsed(page(results));
        assertThat(elements(page, "img")).isEmpty();
        assertThat(elements(page, "th").stream().map(Element::getTextContent)).contains(evil);
        assertThat(page.getElementsByTagName("h1").item(0).getTextContent()).contains(evil);
    }

    @Test
    void whatWasNotMeasuredIsLeftOut() throws Exception {
        ObjectNode results = new ObjectMapper().createObjectNode();
        results.putArray("methods").addObject().put("name", "run").put("method", "lora");
        Document page = parsed(page(results));
        assertThat(elements(page, "figure")).isEmpty();
        assertThat(elements(page, "tr")).hasSize(2);
    }

    private static List<String> findings(ObjectNode results, int method) {
        return new Findings(results)
                .about(results.get("methods").get(method)).stream()
                        .map(f -> (f.strength() ? "+ " : "- ") + f.text())
                        .toList();
    }

    @Test
    void findingsFollowFromTheNumbers() throws Exception {
        ObjectNode results = results();
        assertThat(findings(results, 0))
                .startsWith("+ the best accuracy: 0.812")
                .contains("- trains every parameter (22,713,216), and saves 90.9 MB");
        assertThat(findings(results, 1))
                .contains(
                        "+ accuracy not measurably worse than the best: 0.803, full has 0.812; with 1,000 held-out rows,"
                                + " a gap of up to 0.035 may be chance",
                        "+ trains 0.66 % of the parameters (151,306), and saves 610 kB",
                        "+ needs 43 % of the tensor memory of full fine-tuning (142 against 330 MiB)",
                        "+ trains at 1.7 times the speed of full fine-tuning (1,490 against 900 tokens/s)");
        assertThat(findings(results, 3))
                .contains(
                        "- accuracy behind the best: 0.700, full has 0.812",
                        "- a prediction takes 4.10 ms, 1.77 times the 2.31 ms of a model without adapter; it was not"
                                + " merged");
        // The same gap is more than chance on more rows.
        results.put("held_out", 1_000_000);
        assertThat(findings(results, 1)).contains("- accuracy behind the best: 0.803, full has 0.812");
        // Lower is better.
        results.put("headline", "loss").put("higher_is_better", false);
        assertThat(findings(results, 3)).contains("- loss behind the best: 0.920, full has 0.550");
        // As fast and as large as full fine-tuning: neither a strength nor a weakness.
        ObjectNode lora = (ObjectNode) results.get("methods").get(1);
        lora.put("tokens_per_second", 930).put("peak_tensor_mib", 320).put("latency_ms", 2.4);
        lora.remove("latency_merged_ms");
        assertThat(findings(results, 1))
                .noneMatch(f -> f.contains("speed") || f.contains("memory") || f.contains("ms"));
    }

    @Test
    void theCourseOfTrainingShowsWhatIsLeftToLearn() throws Exception {
        ObjectNode results = results();
        ObjectNode run = (ObjectNode) results.get("methods").get(2);
        run.remove("evaluations");
        run.withArray("evaluations").addObject().put("step", 10).put("loss", 0.5);
        run.withArray("evaluations").addObject().put("step", 20).put("loss", 0.7);
        assertThat(findings(results, 2))
                .contains("- overfits: the held-out loss was lowest (0.500) after step 10 and rose to 0.700");
        run.withArray("evaluations").addObject().put("step", 30).put("loss", 0.3);
        assertThat(findings(results, 2))
                .contains("- not done learning: the held-out loss still fell from 0.700 to 0.300 before the last"
                        + " evaluation; more steps may help");
    }
}
