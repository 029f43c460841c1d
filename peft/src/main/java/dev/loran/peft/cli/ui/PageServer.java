package dev.loran.peft.cli.ui;

import com.fasterxml.jackson.databind.JsonNode;
import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.loran.peft.cli.report.Palette;
import dev.loran.peft.cli.report.Report;
import dev.loran.peft.io.InputException;
import dev.loran.peft.watch.Diagnosis.UsualRates;
import java.io.IOException;
import java.io.InputStream;
import java.net.BindException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/// Serves the page with the runs in some folders, for this machine only, and changes nothing.
///
/// | path | content |
/// |---|---|
/// | `/`, `/page.css`, `/page.js` … | the page |
/// | `/api/runs` | all runs, with their state and latest numbers |
/// | `/api/runs/ID/course?known=…` | the curves of a run, or what is new in them ([Run#course]) |
/// | `/api/runs/ID`, `/api/runs/ID/diagnosis` | its options, facts and results; what `loran doctor` finds in it |
/// | `/reports/ID/report.html`, `/reports/ID/plots/NAME` | a report in one of the folders |
///
/// Nothing else is served, and a path cannot lead elsewhere: ids are looked up, and the name of a plot has only
/// letters, digits and hyphens. Other methods than GET and HEAD get 405. A request must name this machine
/// (`localhost`, `127.0.0.1` or `[::1]`, with the port) as its host, or gets 403: a page from elsewhere whose name was
/// made to point here (DNS rebinding) names its own. No other origin may read an answer.
public final class PageServer implements AutoCloseable {
    private static final Logger LOG = LoggerFactory.getLogger(PageServer.class);
    private static final int OK = 200;
    private static final int FORBIDDEN = 403;
    private static final int NOT_FOUND = 404;
    private static final int NOT_ALLOWED = 405;
    private static final int FAILED = 500;

    private static final Map<String, String> TYPES = Map.of(
            "html", "text/html; charset=utf-8",
            "css", "text/css; charset=utf-8",
            "js", "text/javascript; charset=utf-8",
            "json", "application/json",
            "svg", "image/svg+xml",
            "png", "image/png");

    private static final Set<String> ASSETS = Set.of(
            "page.html", "page.css", "page.js", "chart.js", "compare.js", "details.js", "element.js", "icon.svg");

    private static final String PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; "
            + "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    /// A report has its style and its script inside. Its origin is none, so that the script reaches nothing here.
    private static final String REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; "
            + "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
            + "frame-ancestors 'none'";

    private static final Pattern OF_RUN = Pattern.compile("/api/runs/([0-9a-f]{16})(/course|/diagnosis)?");
    private static final Pattern OF_REPORT =
            Pattern.compile("/reports/([0-9a-f]{16})/(?:report\\.html|plots/([a-z0-9-]{1,64}\\.(?:svg|png)))");
    private static final Pattern KNOWN = Pattern.compile("known=(\\d{1,9}(?:,\\d{1,9}){4})");

    /// What is sent.
    private record Answer(int status, String type, byte[] body, String policy) {
        static Answer refusal(int status, String why) {
            return new Answer(
                    status, "text/plain; charset=utf-8", (why + "\n").getBytes(StandardCharsets.UTF_8), PAGE_POLICY);
        }

        static Answer json(JsonNode json) {
            byte[] body = json.toString().getBytes(StandardCharsets.UTF_8);
            return new Answer(OK, TYPES.getOrDefault("json", ""), body, PAGE_POLICY);
        }

        static Answer file(String name, byte[] body, String policy) {
            String type = TYPES.getOrDefault(name.substring(name.lastIndexOf('.') + 1), "text/plain");
            return new Answer(OK, type, body, policy);
        }
    }

    private final Runs runs;
    private final Function<String, UsualRates> usual;
    private final HttpServer server;
    private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();

    private PageServer(Runs runs, Function<String, UsualRates> usual, HttpServer server) {
        this.runs = runs;
        this.usual = usual;
        this.server = server;
    }

    /// Begins to serve.
    ///
    /// @param folders each is a run's, or holds runs
    /// @param port 0 for any that is free
    /// @param usual the learning rates that are usual for a method
    /// @throws InputException if a folder does not exist, or the port is in use
    public static PageServer start(List<Path> folders, int port, Function<String, UsualRates> usual) {
        Runs runs = new Runs(folders);
        runs.look();
        try {
            HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
            PageServer page = new PageServer(runs, usual, server);
            server.setExecutor(page.threads);
            server.createContext("/", page::handle);
            server.start();
            return page;
        } catch (BindException e) {
            throw new InputException(
                    "port %d cannot be used (%s); choose another by --port, or any that is free by --port 0"
                            .formatted(port, InputException.reason(e)),
                    e);
        } catch (IOException e) {
            throw new InputException("the page cannot be served (" + InputException.reason(e) + ")", e);
        }
    }

    /// The address of the page.
    public URI address() {
        return URI.create("http://localhost:" + port() + "/");
    }

    private int port() {
        return server.getAddress().getPort();
    }

    /// How many runs were found.
    public int runs() {
        return runs.size();
    }

    @Override
    public void close() {
        server.stop(0);
        threads.shutdownNow();
    }

    // ---- requests

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            Answer answer;
            try {
                answer = answer(exchange);
            } catch (InputException e) {
                answer = Answer.refusal(FAILED, String.valueOf(e.getMessage()));
            } catch (RuntimeException e) {
                LOG.error("{}", exchange.getRequestURI(), e);
                answer = Answer.refusal(FAILED, "this should not have happened; see what loran ui prints");
            }
            send(exchange, answer);
        }
    }

    private static void send(HttpExchange exchange, Answer answer) throws IOException {
        Headers headers = exchange.getResponseHeaders();
        headers.set("Content-Type", answer.type);
        headers.set("Content-Security-Policy", answer.policy);
        headers.set("X-Content-Type-Options", "nosniff");
        headers.set("Cache-Control", "no-store");
        headers.set("Cross-Origin-Resource-Policy", "same-origin");
        headers.set("Cross-Origin-Opener-Policy", "same-origin");
        headers.set("Referrer-Policy", "no-referrer");
        if (answer.status == NOT_ALLOWED) {
            headers.set("Allow", "GET, HEAD");
        }
        if (exchange.getRequestMethod().equals("HEAD")) {
            headers.set("Content-Length", String.valueOf(answer.body.length));
            exchange.sendResponseHeaders(answer.status, -1);
        } else {
            exchange.sendResponseHeaders(answer.status, answer.body.length == 0 ? -1 : answer.body.length);
            exchange.getResponseBody().write(answer.body);
        }
    }

    private Answer answer(HttpExchange exchange) {
        URI uri = exchange.getRequestURI();
        if (!isForUs(exchange.getRequestHeaders().get("Host")) || uri.getRawAuthority() != null) {
            return Answer.refusal(
                    FORBIDDEN, "this page is for this machine only, at " + address() + "; forward the same port");
        }
        if (!Set.of("GET", "HEAD").contains(exchange.getRequestMethod())) {
            return Answer.refusal(NOT_ALLOWED, "this page only shows; nothing can be changed through it");
        }
        // As it was sent: a path that is encoded in any way is none of ours.
        String path = String.valueOf(uri.getRawPath());
        Answer found = path.startsWith("/api/")
                ? data(path, uri.getRawQuery())
                : path.startsWith("/reports/") ? report(path) : asset(path);
        return found == null ? Answer.refusal(NOT_FOUND, "there is no such page") : found;
    }

    private boolean isForUs(@Nullable List<String> host) {
        return host != null
                && host.size() == 1
                && Set.of("localhost:" + port(), "127.0.0.1:" + port(), "[::1]:" + port())
                        .contains(host.getFirst());
    }

    private static @Nullable Answer asset(String path) {
        if (path.equals("/palette.css")) {
            String css = ":root{%s}@media(prefers-color-scheme:dark){:root{%s}}"
                    .formatted(Palette.variables(false), Palette.variables(true));
            return Answer.file("palette.css", css.getBytes(StandardCharsets.UTF_8), PAGE_POLICY);
        }
        String name = path.equals("/") ? "page.html" : path.substring(1);
        if (!ASSETS.contains(name)) {
            return null;
        }
        try (InputStream in = PageServer.class.getResourceAsStream(name)) {
            if (in == null) {
                throw new IllegalStateException(name + " is not in this build");
            }
            return Answer.file(name, in.readAllBytes(), PAGE_POLICY);
        } catch (IOException e) {
            throw new IllegalStateException(name + " cannot be read", e);
        }
    }

    private @Nullable Answer data(String path, @Nullable String query) {
        if (path.equals("/api/runs")) {
            runs.look();
            return Answer.json(runs.toJson());
        }
        Matcher request = OF_RUN.matcher(path);
        Run run = request.matches() ? runs.run(request.group(1)) : null;
        if (run == null) {
            return null;
        }
        if (request.group(2) == null) {
            return Answer.json(run.details());
        }
        if (request.group(2).equals("/diagnosis")) {
            return Answer.json(run.diagnosis(usual));
        }
        Matcher known = KNOWN.matcher(query == null ? "" : query);
        return Answer.json(
                known.matches()
                        ? run.course(Arrays.stream(known.group(1).split(","))
                                .mapToInt(Integer::parseInt)
                                .toArray())
                        : run.course());
    }

    /// A report, or one of its plots.
    private @Nullable Answer report(String path) {
        Matcher request = OF_REPORT.matcher(path);
        Path folder = request.matches() ? runs.report(request.group(1)) : null;
        if (folder == null) {
            return null;
        }
        String plot = request.group(2);
        Path plots = folder.resolve(Report.PLOTS);
        Path file = plot == null ? folder.resolve(Report.PAGE) : plots.resolve(plot);
        boolean isPlain = Files.isRegularFile(file, LinkOption.NOFOLLOW_LINKS)
                && (plot == null || Files.isDirectory(plots, LinkOption.NOFOLLOW_LINKS));
        if (!isPlain) {
            return null;
        }
        try {
            return Answer.file(String.valueOf(file.getFileName()), Files.readAllBytes(file), REPORT_POLICY);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }
}
