package dev.loran.peft.cli.ui;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.cli.report.Palette;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.watch.Diagnosis.UsualRates;
import java.io.IOException;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// Requests as a browser sends them, and as one should not.
class PageServerTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    Path folder;

    private Path place = Path.of("");
    private PageServer server;

    @BeforeEach
    void serve() throws IOException {
        place = Files.createDirectory(folder.resolve("runs"));
        server = PageServer.start(List.of(place), 0, method -> new UsualRates(1e-4, 5e-4));
    }

    @AfterEach
    void stop() {
        server.close();
    }

    private record Reply(int status, String head, String body) {
        String header(String name) {
            return head.lines()
                    .filter(line -> line.toLowerCase(java.util.Locale.ROOT).startsWith(name + ":"))
                    .map(line -> line.substring(name.length() + 1).strip())
                    .findFirst()
                    .orElse("");
        }

        JsonNode json() throws IOException {
            assertThat(status).as(body).isEqualTo(200);
            assertThat(header("content-type")).isEqualTo("application/json");
            return JSON.readTree(body);
        }
    }

    private String host() {
        return "localhost:" + server.address().getPort();
    }

    /// Sends a request as it is, since an HTTP client would correct it.
    private Reply send(String method, String target, String... headers) throws IOException {
        try (Socket socket =
                new Socket(InetAddress.getLoopbackAddress(), server.address().getPort())) {
            String request = method + " " + target + " HTTP/1.1\r\n"
                    + String.join(
                            "", List.of(headers).stream().map(h -> h + "\r\n").toList())
                    + "Connection: close\r\n\r\n";
            socket.getOutputStream().write(request.getBytes(StandardCharsets.UTF_8));
            String all = new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            String[] parts = all.split("\r\n\r\n", 2);
            return new Reply(Integer.parseInt(all.split(" ", 3)[1]), parts[0], parts.length == 2 ? parts[1] : "");
        }
    }

    private Reply get(String target) throws IOException {
        return send("GET", target, "Host: " + host());
    }

    private JsonNode runs() throws IOException {
        return get("/api/runs").json().get("runs");
    }

    /// A run of lora with the rate 1e-3 that is to have 10 steps.
    private RunFolder run(String name) {
        RunFolder run = RunFolder.create(
                place.resolve(name),
                false,
                begun -> begun.options(Map.of("method", "lora", "task", "classify", "model", "minilm", "lr", 1e-3)));
        run.facts(JSON.createObjectNode().put("steps", 10).put("trainable_parameters", 77));
        return run;
    }

    private static String step(int step, double loss) {
        return ("{\"step\":%d,\"loss\":%s,\"lr\":0.001,\"grad_norm\":1.5,\"tokens\":100,\"data_seconds\":0.0,"
                        + "\"seconds\":%s}%n")
                .formatted(step, loss, 0.5 * step);
    }

    private static String evaluation(int step, double loss, double accuracy, boolean best) {
        return "{\"step\":%d,\"eval_loss\":%s,\"eval_accuracy\":%s,\"best\":%s}%n"
                .formatted(step, loss, accuracy, best);
    }

    private static void add(RunFolder run, String lines) throws IOException {
        Files.writeString(run.path().resolve("metrics.jsonl"), lines, StandardOpenOption.APPEND);
    }

    private static List<Double> numbers(JsonNode array) {
        return array.valueStream().map(JsonNode::asDouble).toList();
    }

    // ---- contents

    @Test
    void theListOfRunsHasTheirStateAndTheirLatestNumbers() throws IOException {
        RunFolder run = run("first");
        add(run, step(1, 2) + step(2, 1) + evaluation(2, 1.5, 0.5, true) + step(3, 1));
        add(run, step(4, 1) + evaluation(4, 1.6, 0.75, false));
        JsonNode first = runs().get(0);
        assertThat(first.get("state").asText()).isEqualTo("stopped");
        assertThat(first.get("group").asText()).isEqualTo("runs");
        assertThat(first.get("name").asText()).isEqualTo("first");
        assertThat(first.get("method").asText()).isEqualTo("lora");
        assertThat(first.get("headline").asText()).isEqualTo("accuracy");
        assertThat(first.get("step").intValue()).isEqualTo(4);
        assertThat(first.get("total").intValue()).isEqualTo(10);
        assertThat(first.get("seconds").doubleValue()).isEqualTo(2);
        assertThat(first.get("train_loss").doubleValue()).isEqualTo(1.25);
        assertThat(first.get("tokens_per_second").doubleValue()).isEqualTo(200);
        assertThat(first.get("trainable_parameters").intValue()).isEqualTo(77);
        // Of the evaluation with the lowest loss, as in result.json.
        assertThat(first.at("/metrics/accuracy").doubleValue()).isEqualTo(0.5);

        run.result(JSON.createObjectNode().put("method", "lora").put("peak_tensor_mib", 12.5));
        JsonNode finished = runs().get(0);
        assertThat(finished.get("state").asText()).isEqualTo("finished");
        assertThat(finished.get("peak_tensor_mib").doubleValue()).isEqualTo(12.5);
    }

    @Test
    void runsThatBeginLaterAppearAndKeepTheirColours() throws IOException {
        assertThat(runs()).isEmpty();
        run("b");
        assertThat(runs()).hasSize(1);
        run("a");
        run("sweep/rank=4");
        JsonNode all = runs();
        assertThat(all.findValuesAsText("name")).containsExactly("b", "a", "rank=4");
        assertThat(all.findValuesAsText("group")).containsExactly("runs", "runs", "runs/sweep");
        assertThat(all.findValuesAsText("color"))
                .containsExactly(Palette.BLUE.variable(), Palette.ORANGE.variable(), Palette.GREEN.variable());
    }

    @Test
    void theTasksOfARunHaveItsOptions() throws IOException {
        RunFolder whole = run("whole");
        RunFolder task = RunFolder.create(whole.task(1));
        add(task, step(1, 2));
        JsonNode part = runs().get(1);
        assertThat(part.get("name").asText()).isEqualTo("whole, task 1");
        assertThat(part.get("method").asText()).isEqualTo("lora");
        JsonNode details = get("/api/runs/" + part.get("id").asText()).json();
        assertThat(details.at("/options/model").asText()).isEqualTo("minilm");
    }

    @Test
    void aPageGetsOnlyWhatIsNewInACourse() throws IOException {
        RunFolder run = run("run");
        add(run, step(1, 3) + step(2, 2) + evaluation(2, 1.5, 0.5, true) + "{\"step\":3,\"lo");
        String course = "/api/runs/" + runs().get(0).get("id").asText() + "/course";
        JsonNode first = get(course).json();
        assertThat(numbers(first.at("/steps/step"))).containsExactly(1.0, 2.0);
        assertThat(numbers(first.at("/steps/loss"))).containsExactly(3.0, 2.0);
        assertThat(numbers(first.at("/evaluations/accuracy"))).containsExactly(0.5);
        assertThat(numbers(first.at("/evaluations/seconds"))).containsExactly(1.0);

        add(run, step(3, 1).substring("{\"step\":3,\"lo".length()) + step(4, 0.5));
        assertThat(runs().get(0).get("step").intValue()).isEqualTo(4);
        JsonNode more = get(course + "?known=0,1,2,1,1").json();
        assertThat(more.at("/steps/from").intValue()).isEqualTo(1);
        assertThat(numbers(more.at("/steps/step"))).containsExactly(2.0, 3.0, 4.0);
        assertThat(numbers(more.at("/evaluations/step"))).containsExactly(2.0);
    }

    @Test
    void aRunThatWentBackToACheckpointIsReadAgain() throws IOException {
        RunFolder run = run("run");
        add(run, step(1, 3) + step(2, 2) + step(3, 1));
        assertThat(runs().get(0).get("version").intValue()).isZero();
        Files.writeString(run.path().resolve("metrics.jsonl"), step(1, 3) + step(2, 5) + step(3, 6) + step(4, 7));
        JsonNode again = runs().get(0);
        assertThat(again.get("version").intValue()).isEqualTo(1);
        JsonNode course = get("/api/runs/" + again.get("id").asText() + "/course?known=0,1,3,1,0")
                .json();
        assertThat(numbers(course.at("/steps/loss"))).containsExactly(3.0, 5.0, 6.0, 7.0);
    }

    @Test
    void aLongRunIsThinnedWithoutLosingAJump() throws IOException {
        int steps = 100_000;
        String lines = IntStream.rangeClosed(1, steps)
                .mapToObj(s -> step(s, s == 77_777 ? 50 : s % 2))
                .collect(Collectors.joining());
        add(run("long"), lines);
        JsonNode run = runs().get(0);
        assertThat(run.get("step").intValue()).isEqualTo(steps);
        JsonNode course =
                get("/api/runs/" + run.get("id").asText() + "/course").json().get("steps");
        assertThat(course.get("per_row").intValue()).isEqualTo(64);
        assertThat(course.get("step")).hasSizeBetween(Course.MOST / 2, Course.MOST);
        assertThat(course.get("step").get(0).intValue()).isEqualTo(64);
        assertThat(numbers(course.get("loss")).getFirst()).isEqualTo(0.5);
        assertThat(numbers(course.get("loss_low"))).containsOnly(0.0);
        assertThat(numbers(course.get("loss_high"))).containsOnlyOnce(50.0);
        assertThat(numbers(course.get("tokens")).stream()
                        .mapToDouble(Double::doubleValue)
                        .sum())
                .isEqualTo(100.0 * steps);
    }

    @Test
    void aRunShowsAnswersAndStepsThatJumped() throws IOException {
        RunFolder run = run("run");
        add(run, step(1, 2));
        String text = "<script>alert(1)</script>";
        Files.writeString(
                run.path().resolve("answers.jsonl"),
                "{\"text\":\"%s\",\"answer\":\"</td>\",\"ended\":true}%n{\"text\":\"cut".formatted(text));
        Files.writeString(run.path().resolve("other.jsonl"), "{\"a\":1}\n");
        Files.writeString(run.path().resolve("rows.jsonl"), """
                {"source":"boots","target":"Boots","answer":"Shoes"}
                {"prompt":"red boots","answer":"Boots"}
                {"instruction":"write","input":"boots","answer":"Boots"}
                {"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yes"}],"answer":"no"}
                {"conversations":[{"from":"gpt","value":"yes"},{"from":"human","value":"how"}],"answer":"so"}
                """);
        Files.createDirectory(run.spikes());
        Files.writeString(
                run.spikes().resolve("step-7.json"), "{\"step\":7,\"rows\":[{\"texts\":[\"odd\"],\"ids\":[[1]]}]}");
        String id = runs().get(0).get("id").asText();
        Reply reply = get("/api/runs/" + id);
        JsonNode details = reply.json();
        // As data: the page only makes texts of it, and nosniff keeps a browser from making it a page.
        assertThat(reply.header("x-content-type-options")).isEqualTo("nosniff");
        assertThat(details.get("answers"))
                .satisfiesExactly(
                        a -> assertThat(a.at("/rows/0/text").asText()).isEqualTo(text),
                        a -> assertThat(a.get("rows").findValuesAsText("text"))
                                .containsExactly("boots", "red boots", "write\nboots", "hi", "how"));
        assertThat(details.at("/spikes/0/rows/0/texts/0").asText()).isEqualTo("odd");
        assertThat(details.at("/spikes/0/rows/0").has("ids")).isFalse();
        assertThat(details.at("/options/lr").doubleValue()).isEqualTo(1e-3);
    }

    @Test
    void aRunIsDiagnosedAsByTheDoctor() throws IOException {
        RunFolder run = run("run");
        add(run, IntStream.rangeClosed(1, 60).mapToObj(s -> step(s, s)).collect(Collectors.joining()));
        JsonNode diagnosis = get("/api/runs/" + runs().get(0).get("id").asText() + "/diagnosis")
                .json();
        assertThat(diagnosis.at("/findings/0/name").asText()).isEqualTo("rate_too_high");
        assertThat(diagnosis.at("/findings/0/advice").asText()).startsWith("--lr");
    }

    @Test
    void aReportIsServedWithoutAnOrigin() throws IOException {
        Path report = Files.createDirectories(place.resolve("compare/plots")).getParent();
        Files.writeString(Objects.requireNonNull(report).resolve("report.html"), "<p>all</p>");
        Files.writeString(report.resolve("plots/speed.svg"), "<svg/>");
        run("compare/lora");
        JsonNode all = get("/api/runs").json();
        String id = all.at("/reports/0/id").asText();
        assertThat(all.at("/runs/0/report").asText()).isEqualTo(id);
        Reply page = get("/reports/" + id + "/report.html");
        assertThat(page.body()).isEqualTo("<p>all</p>");
        assertThat(page.header("content-security-policy")).startsWith("sandbox allow-scripts; default-src 'none'");
        assertThat(get("/reports/" + id + "/plots/speed.svg").header("content-type"))
                .isEqualTo("image/svg+xml");
        assertThat(get("/reports/" + id + "/plots/none.svg").status()).isEqualTo(404);
    }

    // ---- damage

    @Test
    void aDamagedRunSaysSoAndTheOthersGoOn() throws IOException {
        RunFolder good = run("1");
        add(good, step(1, 2));
        Files.writeString(run("2").optionsFile(), "{\"method\":");
        RunFolder lines = run("3");
        add(lines, step(1, 2) + "no json\n" + step(2, 1));
        Files.writeString(run("4").path().resolve("result.json"), "[]");
        JsonNode all = runs();
        assertThat(all.findValuesAsText("state")).containsExactly("stopped", "unreadable", "unreadable", "unreadable");
        assertThat(all.get(1).get("problem").asText()).contains("run.json: is no JSON");
        assertThat(all.get(2).get("problem").asText()).contains("metrics.jsonl:2: is no line of a run's metrics");
        assertThat(all.get(3).get("problem").asText()).contains("result.json: is no JSON object");
        // What came before the damage is still shown.
        JsonNode course =
                get("/api/runs/" + all.get(2).get("id").asText() + "/course").json();
        assertThat(numbers(course.at("/steps/loss"))).containsExactly(2.0);
        assertThat(get("/api/runs/" + all.get(1).get("id").asText()).json().has("problem"))
                .isTrue();
        add(good, step(2, 1));
        assertThat(runs().get(0).get("step").intValue()).isEqualTo(2);
    }

    @Test
    void aRunThatLostItsNumbersHasDiverged() throws IOException {
        RunFolder run = run("run");
        add(run, step(1, 2) + step(2, 2).replace("\"loss\":2.0", "\"loss\":\"NaN\""));
        assertThat(runs().get(0).get("state").asText()).isEqualTo("diverged");
        RunFolder ended = run("z");
        add(ended, step(1, 2) + "{\"step\":1,\"diverged\":\"the loss is NaN at step 2\"}\n");
        JsonNode second = runs().get(1);
        assertThat(second.get("state").asText()).isEqualTo("diverged");
        assertThat(second.get("note").asText()).isEqualTo("the loss is NaN at step 2");
    }

    // ---- refusals

    @Test
    void onlyThisMachineIsAnswered() throws IOException {
        int port = server.address().getPort();
        for (String host : List.of("localhost:" + port, "127.0.0.1:" + port, "[::1]:" + port)) {
            assertThat(send("GET", "/api/runs", "Host: " + host).status()).isEqualTo(200);
        }
        for (String host : List.of("evil.example:" + port, "evil.example", "localhost", "localhost:1", "")) {
            Reply refused = send("GET", "/api/runs", "Host: " + host);
            assertThat(refused.status()).as(host).isIn(400, 403);
            assertThat(refused.body()).doesNotContain("folders");
        }
        assertThat(send("GET", "/api/runs").status()).isIn(400, 403);
        assertThat(send("GET", "/api/runs", "Host: " + host(), "Host: evil.example")
                        .status())
                .isIn(400, 403);
        assertThat(send("GET", "http://evil.example/api/runs", "Host: " + host())
                        .status())
                .isIn(400, 403);
        assertThat(InetAddress.getByName(server.address().getHost()).isLoopbackAddress())
                .isTrue();
    }

    @ParameterizedTest
    @ValueSource(strings = {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"})
    void nothingCanBeChanged(String method) throws IOException {
        run("run");
        Reply refused = send(method, "/api/runs", "Host: " + host(), "Content-Length: 0");
        assertThat(refused.status()).isEqualTo(405);
        assertThat(refused.header("allow")).isEqualTo("GET, HEAD");
        assertThat(refused.header("access-control-allow-origin")).isEmpty();
    }

    @Test
    void headHasTheHeadersOnly() throws IOException {
        Reply head = send("HEAD", "/", "Host: " + host());
        assertThat(head.status()).isEqualTo(200);
        assertThat(head.header("content-length"))
                .isEqualTo(String.valueOf(get("/").body().getBytes(StandardCharsets.UTF_8).length));
        assertThat(head.body()).isEmpty();
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "/..",
                "/../secret.txt",
                "/reports/ID/../secret.txt",
                "/reports/ID/plots/../../secret.txt",
                "/reports/ID/plots/..%2f..%2fsecret.txt",
                "/reports/ID/plots/%2e%2e/%2e%2e/secret.txt",
                "/reports/ID/report.html%00",
                "/reports/ID/report%2ehtml",
                "/reports/ID/run.json",
                "/reports/ID//report.html",
                "/reports/ID",
                "/reports//etc/passwd",
                "//etc/passwd",
                "/etc/passwd",
                "/api/runs/../runs",
                "/api/runs/%2e%2e",
                "/api/runs/ID/metrics.jsonl",
                "/api/runs/ID/course/../course",
                "/api/runs/0000000000000000",
                "/page.html/../page.js",
                "/PageServer.class",
                "/package-info.class"
            })
    void noOtherFileIsServed(String path) throws IOException {
        Files.writeString(folder.resolve("secret.txt"), "secret");
        Files.writeString(place.resolve("report.html"), "<p>report</p>");
        run("run");
        JsonNode all = get("/api/runs").json();
        String id = path.startsWith("/api")
                ? all.at("/runs/0/id").asText()
                : all.at("/reports/0/id").asText();
        Reply reply = get(path.replace("ID", id));
        assertThat(reply.status()).isIn(400, 403, 404);
        assertThat(reply.body()).doesNotContain("secret").doesNotContain("root:");
    }

    @Test
    @DisabledOnOs(OS.WINDOWS)
    void linksAreNotFollowed() throws IOException {
        Path outside = Files.createDirectories(folder.resolve("outside/plots")).getParent();
        Files.writeString(Objects.requireNonNull(outside).resolve("report.html"), "secret");
        Files.writeString(outside.resolve("plots/speed.svg"), "secret");
        Files.writeString(outside.resolve("run.json"), "{\"method\":\"secret\"}");
        Files.writeString(outside.resolve("answers.jsonl"), "{\"text\":\"secret\",\"answer\":\"secret\"}\n");
        Files.createSymbolicLink(place.resolve("linked"), outside);

        RunFolder options = run("options");
        Files.delete(options.optionsFile());
        Files.createSymbolicLink(options.optionsFile(), outside.resolve("run.json"));
        RunFolder files = run("files");
        Files.createSymbolicLink(files.path().resolve("answers.jsonl"), outside.resolve("answers.jsonl"));
        Files.createSymbolicLink(files.path().resolve("report.html"), outside.resolve("report.html"));
        Files.writeString(place.resolve("report.html"), "mine");
        Files.createSymbolicLink(place.resolve("plots"), outside.resolve("plots"));

        JsonNode all = get("/api/runs").json();
        assertThat(all.toString()).doesNotContain("secret");
        assertThat(all.get("runs").findValuesAsText("name")).containsExactly("options", "files");
        assertThat(all.at("/runs/0/problem").asText()).contains("is a link");
        assertThat(get("/api/runs/" + all.at("/runs/1/id").asText()).json().get("answers"))
                .isEmpty();
        assertThat(all.get("reports")).hasSize(1);
        String report = "/reports/" + all.at("/reports/0/id").asText();
        assertThat(get(report + "/report.html").body()).isEqualTo("mine");
        assertThat(get(report + "/plots/speed.svg").status()).isEqualTo(404);
    }

    @Test
    void whatCannotBeServedIsRefusedAtOnce() {
        int port = server.address().getPort();
        assertThatThrownBy(() -> PageServer.start(List.of(place), port, m -> new UsualRates(1, 2)))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("port " + port + " cannot be used")
                .hasMessageContaining("--port 0");
        assertThatThrownBy(() -> PageServer.start(List.of(folder.resolve("none")), 0, m -> new UsualRates(1, 2)))
                .isInstanceOf(InputException.class)
                .hasMessageEndingWith("none: no such file");
    }

    // ---- the page itself

    @Test
    void thePageNeedsNothingFromElsewhere() throws IOException {
        Reply page = get("/");
        assertThat(page.header("content-type")).isEqualTo("text/html; charset=utf-8");
        assertThat(page.header("content-security-policy"))
                .startsWith("default-src 'none'; script-src 'self'; style-src 'self';")
                .doesNotContain("unsafe");
        assertThat(page.header("cache-control")).isEqualTo("no-store");
        assertThat(page.header("access-control-allow-origin")).isEmpty();
        // The policy would block these.
        assertThat(page.body())
                .doesNotContain("<style")
                .doesNotContain(" style=")
                .doesNotContainPattern(" on\\w+=");
        assertThat(page.body()).doesNotContainPattern("<script(?![^>]*src=)");
        Matcher named = Pattern.compile("(?:src|href)=\"([^\"]+)\"").matcher(page.body());
        int assets = 0;
        for (; named.find(); assets++) {
            requireOwn(named.group(1));
        }
        assertThat(assets).isGreaterThanOrEqualTo(4);
    }

    /// A file of the page, and the modules that it names.
    private void requireOwn(String path) throws IOException {
        Reply asset = get(path);
        assertThat(asset.status()).as(path).isEqualTo(200);
        assertThat(asset.body().replace("http://www.w3.org/2000/svg", ""))
                .as(path)
                .doesNotContainPattern("https?:|//[a-z]+\\.[a-z]|@import|url\\((?!#)");
        if (path.endsWith(".js")) {
            // Texts of runs never become markup.
            assertThat(asset.body())
                    .as(path)
                    .doesNotContainPattern(
                            "innerHTML|outerHTML|insertAdjacentHTML|document\\.write|eval\\(|Function\\(");
            Matcher module = Pattern.compile("from '([^']+)'").matcher(asset.body());
            while (module.find()) {
                requireOwn(module.group(1));
            }
        }
    }
}
