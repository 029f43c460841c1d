package dev.loran.peft.seo;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import java.util.zip.GZIPOutputStream;

/// Creates the rows of the tasks `page-type`, `title` and `description` from real pages: the documentation of SQLite,
/// PostgreSQL, Django and the Apache HTTP Server, in Debian's packages. A plain JDK runs this file; the packages are
/// those that `benchmarks/loran-tiny.sh FOLDER packages` unpacks.
///
/// ```
/// java peft/src/test/java/dev/loran/peft/seo/MakeSeoPages.java FOLDER/packages
/// peft/src/main/resources/dev/loran/peft/seo
/// ```
///
/// - `page-type`: a passage of a page, and the kind of page, which follows from its place in its documentation.
/// - `title`: the text below a heading, and the heading.
/// - `description`: the text of a command, module or directive with its name, and the one-line description that its
///   authors gave it, of at most [#DESCRIPTION] characters.
///
/// Called with `headings`, the packages, the corpus of `loran-tiny` and a folder, it makes the rows of a second stage of
/// training for `loran-tiny` instead, in which it learns to head a text: `train.jsonl` and `heldout.jsonl` hold the
/// sections of the packages that `documentation` prints, in the form of `title`; one page in a hundred is held out.
/// These are other packages than those of the tasks, so that `loran-tiny` has never seen a heading of the pages that
/// these measure, nor of their neighbors. So that the model does not forget what it has learned, `train.jsonl` also has
/// texts of the corpus, each as a few words and how they go on. `sources.md` lists the packages.
///
/// A fifth of the pages, chosen by a hash of their names, is held out with all that is on them; what is on both kinds
/// of pages word for word is taken once. The same packages give the same files.
final class MakeSeoPages {
    /// The most characters of a meta description.
    private static final int DESCRIPTION = 155;

    private static final int HELD_OUT_ONE_IN = 5;
    private static final int LONGEST_SOURCE = 400;
    private static final int LONGEST_PASSAGE = 280;
    private static final int LONGEST_TITLE = 70;
    private static final long SEED = 15;

    private static final Pattern RELEASE_NOTES =
            Pattern.compile("/releases/[\\d.]+\\.html|/releaselog/|/release-[\\d-]+\\.html");

    /// Kinds of pages, by their paths.
    private static final Map<String, Pattern> TYPES = new LinkedHashMap<>();

    static {
        TYPES.put("release-notes", RELEASE_NOTES);
        TYPES.put("sql-command", Pattern.compile("/sqlite3?/lang_\\w+\\.html|postgresql.*/sql-\\w+\\.html"));
        TYPES.put("api-function", Pattern.compile("/c3ref/\\w+\\.html|/(libpq|spi|ecpg)-[\\w-]+\\.html"));
        TYPES.put(
                "program", Pattern.compile("postgresql.*/app-?[\\w-]+\\.html|manual/en/programs/[a-hj-z]\\w+\\.html"));
        TYPES.put(
                "settings",
                Pattern.compile("/runtime-config-[\\w-]+\\.html|manual/en/mod/(mod_|core|mpm)\\w*\\.html"
                        + "|/ref/settings\\.html|/pragma\\.html"));
        TYPES.put(
                "guide",
                Pattern.compile("/django-doc/html/(intro|howto|topics)/|python-django.*/html/(intro|howto|topics)/"
                        + "|manual/en/howto/[a-hj-z]|/tutorial-[\\w-]+\\.html"));
        TYPES.put(
                "internals",
                Pattern.compile("manual/en/developer/[a-hj-z]|python-django.*/html/internals/"
                        + "|/(storage|catalog|btree|gin|gist|spgist|brin|planner|parser|rule|source|wal|protocol|index)-"
                        + "[\\w-]+\\.html|/sqlite3?/(arch|opcode|fileformat2?|btreemodule|queryplanner|optoverview"
                        + "|vfs|malloc|lockingv3|atomiccommit|walformat|tempfiles|howtocorrupt)\\.html"));
    }

    private static final int PASSAGES_PER_TYPE = 180;
    private static final int PASSAGES_PER_PAGE = 6;
    private static final int TITLES = 1000;

    /// The most headings of a package, and the most rows with the same heading.
    private static final int HEADINGS = 3000;

    private static final int SAME_HEADING = 3;

    /// For so many characters of headings with their texts, there is one of texts that are continued.
    private static final int CONTINUED = 3;

    private static final int BEGINNING = 20;

    private static final int LONGEST_CONTINUED = 800;

    /// The packages of documentation whose headings are taken, and the licenses of their texts.
    private static final Map<String, String> DOCUMENTATION = new TreeMap<>(Map.ofEntries(
            Map.entry("ant-doc", "Apache-2.0"),
            Map.entry("clang-14-doc", "Apache-2.0 with LLVM exception"),
            Map.entry("cython-doc", "Apache-2.0"),
            Map.entry("erlang-doc", "Apache-2.0"),
            Map.entry("golang-1.19-doc", "BSD-3-Clause"),
            Map.entry("libboost1.74-doc", "BSL-1.0"),
            Map.entry("llvm-14-doc", "Apache-2.0 with LLVM exception"),
            Map.entry("nodejs-doc", "MIT"),
            Map.entry("python-aiohttp-doc", "Apache-2.0"),
            Map.entry("python-attr-doc", "MIT"),
            Map.entry("python-babel-doc", "BSD-3-Clause"),
            Map.entry("python-click-doc", "BSD-3-Clause"),
            Map.entry("python-cryptography-doc", "Apache-2.0 or BSD-3-Clause"),
            Map.entry("python-dask-doc", "BSD-3-Clause"),
            Map.entry("python-flask-doc", "BSD-3-Clause"),
            Map.entry("python-ipython-doc", "BSD-3-Clause"),
            Map.entry("python-jinja2-doc", "BSD-3-Clause"),
            Map.entry("python-mpmath-doc", "BSD-3-Clause"),
            Map.entry("python-pandas-doc", "BSD-3-Clause"),
            Map.entry("python-pymongo-doc", "Apache-2.0"),
            Map.entry("python-pytest-doc", "MIT"),
            Map.entry("python-requests-doc", "Apache-2.0"),
            Map.entry("python-scrapy-doc", "BSD-3-Clause"),
            Map.entry("python-sklearn-doc", "BSD-3-Clause"),
            Map.entry("python-sqlalchemy-doc", "MIT"),
            Map.entry("python-tornado-doc", "Apache-2.0"),
            Map.entry("python-werkzeug-doc", "BSD-3-Clause"),
            Map.entry("python-xarray-doc", "Apache-2.0"),
            Map.entry("python3.11-doc", "PSF-2.0"),
            Map.entry("rust-doc", "MIT or Apache-2.0"),
            Map.entry("sphinx-doc", "BSD-2-Clause"),
            Map.entry("tomcat10-docs", "Apache-2.0"),
            Map.entry("twisted-doc", "MIT"),
            Map.entry("varnish-doc", "BSD-2-Clause")));

    private static final List<String> FOLDERS =
            List.of("sqlite3-doc", "postgresql-doc-15", "python-django-doc", "apache2-doc");

    private MakeSeoPages() {}

    /// Rows of a task, each a line of JSON, apart for training and held out.
    private static final class Rows {
        private final Set<String> seen = new HashSet<>();
        private final Map<String, List<String>> train = new TreeMap<>();
        private final Map<String, List<String>> heldOut = new TreeMap<>();

        private final Predicate<String> held;

        /// @param held the pages that are held out
        Rows(Predicate<String> held) {
            this.held = held;
        }

        void add(String page, String group, String unique, String json) {
            if (seen.add(unique.toLowerCase(Locale.ROOT))) {
                (held.test(page) ? heldOut : train)
                        .computeIfAbsent(group, g -> new ArrayList<>())
                        .add(json);
            }
        }
    }

    /// String's hash is fixed by its specification; the factor spreads neighbors.
    private static boolean chosen(String page, int oneIn) {
        return Math.floorMod((page.hashCode() * 0x9E3779B97F4A7C15L) >>> 33, oneIn) == 0;
    }

    private static boolean isHeldOut(String page) {
        return chosen(page, HELD_OUT_ONE_IN);
    }

    public static void main(String[] args) throws IOException {
        if (args.length == 1 && args[0].equals("documentation")) {
            System.out.println(String.join(" ", DOCUMENTATION.keySet()));
            return;
        }
        if (args.length == 4 && args[0].equals("headings")) {
            headings(Path.of(args[1]), Path.of(args[2]), Path.of(args[3]));
            return;
        }
        if (args.length != 2) {
            System.err.println("usage: java MakeSeoPages.java PACKAGES FOLDER"
                    + " | headings PACKAGES CORPUS FOLDER | documentation");
            System.exit(2);
        }
        Rows types = new Rows(MakeSeoPages::isHeldOut);
        Rows titles = new Rows(MakeSeoPages::isHeldOut);
        Rows descriptions = new Rows(MakeSeoPages::isHeldOut);
        for (String folder : FOLDERS) {
            pages(Path.of(args[0]), folder, (path, page) -> {
                type(path, page, types);
                titles(path, page, titles);
                descriptions(path, page, descriptions);
            });
        }
        Path out = Files.createDirectories(Path.of(args[1]));
        write(out, "page-type", types, PASSAGES_PER_TYPE);
        write(out, "title", titles, TITLES / 4);
        write(out, "description", descriptions, Integer.MAX_VALUE);
    }

    /// Texts of the corpus, `length` characters in all: the beginning of each, and how it goes on.
    private static List<String> continuations(Path corpus, int length) throws IOException {
        List<String> texts = Files.readAllLines(corpus.resolve("train.jsonl"));
        Collections.shuffle(texts, new Random(SEED));
        List<String> rows = new ArrayList<>();
        int left = length;
        for (Iterator<String> it = texts.iterator(); left > 0 && it.hasNext(); ) {
            String text = it.next();
            // What is between the quotes of {"text":"…"} is escaped already; no escape sequence has a space.
            text = shortened(text.substring(9, text.length() - 2), LONGEST_CONTINUED);
            int cut = text.indexOf(' ', BEGINNING);
            if (cut > 0) {
                rows.add("{\"source\":\"" + text.substring(0, cut) + "\",\"target\":\"" + text.substring(cut + 1)
                        + "\"}");
                left -= text.length();
            }
        }
        return rows;
    }

    /// Without rows whose heading came [#SAME_HEADING] times before.
    private static Map<String, List<String>> rare(Map<String, List<String>> groups) {
        Map<String, Integer> uses = new HashMap<>();
        Map<String, List<String>> rare = new TreeMap<>();
        groups.forEach((group, lines) -> rare.put(
                group,
                lines.stream()
                        .filter(line -> uses.merge(
                                        line.substring(line.indexOf("\"target\":"))
                                                .toLowerCase(Locale.ROOT),
                                        1,
                                        Integer::sum)
                                <= SAME_HEADING)
                        .collect(Collectors.toCollection(ArrayList::new))));
        return rare;
    }

    private interface Reader {
        void read(String path, String page);
    }

    private static void pages(Path packages, String folder, Reader reader) throws IOException {
        List<Path> files;
        try (Stream<Path> all = Files.walk(packages.resolve(folder))) {
            files = all.filter(f -> Files.isRegularFile(f) && f.toString().endsWith(".html"))
                    .filter(f -> !folder.equals("apache2-doc") || f.toString().contains("/manual/en/"))
                    .filter(f -> !f.toString().contains("/_modules/"))
                    .sorted()
                    .toList();
        }
        for (Path file : files) {
            // Old pages may be in another encoding: the few characters that this spoils are taken out.
            String page = new String(Files.readAllBytes(file), StandardCharsets.UTF_8).replace("\ufffd", "");
            reader.read(packages.relativize(file).toString(), page);
        }
    }

    private static void headings(Path packages, Path corpus, Path out) throws IOException {
        Rows rows = new Rows(page -> chosen(page, 100));
        for (String folder : DOCUMENTATION.keySet()) {
            pages(packages, folder, (path, page) -> titles(path, page, rows));
        }
        Files.createDirectories(out);
        Map<String, List<String>> groups = rare(rows.train);
        StringBuilder table = new StringBuilder("| Debian package | license | headings |\n|---|---|---|\n");
        groups.forEach((folder, lines) -> table.append(
                "| %s | %s | %,d |%n".formatted(folder, DOCUMENTATION.get(folder), Math.min(HEADINGS, lines.size()))));
        List<String> train = drawn(groups.values(), HEADINGS);
        int length = train.stream().mapToInt(String::length).sum();
        train.addAll(continuations(corpus, length / CONTINUED));
        Collections.shuffle(train, new Random(SEED));
        Files.write(out.resolve("train.jsonl"), train);
        Files.write(out.resolve("heldout.jsonl"), drawn(rare(rows.heldOut).values(), HEADINGS));
        Files.writeString(out.resolve("sources.md"), table);
        System.out.print(table);
    }

    /// Draws at most `most` rows of each group for training and a quarter of that held out, and mixes them.
    private static void write(Path out, String task, Rows rows, int most) throws IOException {
        write(out.resolve(task + "-train.jsonl.gz"), drawn(rows.train.values(), most));
        write(out.resolve(task + "-held-out.jsonl.gz"), drawn(rows.heldOut.values(), most / 4));
        rows.train.forEach((group, lines) -> System.out.printf(
                "%s %s: %d, held out %d%n",
                task,
                group,
                lines.size(),
                rows.heldOut.getOrDefault(group, List.of()).size()));
    }

    private static List<String> drawn(Collection<List<String>> groups, int most) {
        Random random = new Random(SEED);
        List<String> lines = new ArrayList<>();
        for (List<String> group : groups) {
            Collections.shuffle(group, random);
            lines.addAll(group.subList(0, Math.min(most, group.size())));
        }
        Collections.shuffle(lines, random);
        return lines;
    }

    private static void write(Path file, List<String> lines) throws IOException {
        try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(file))) {
            out.write((String.join("\n", lines) + "\n").getBytes(StandardCharsets.UTF_8));
        }
    }

    // ---- the tasks

    private static void type(String path, String page, Rows rows) {
        for (Map.Entry<String, Pattern> type : TYPES.entrySet()) {
            if (type.getValue().matcher(path).find()) {
                List<String> passages = new ArrayList<>();
                for (Matcher m = PARAGRAPH.matcher(page); m.find(); ) {
                    String text = text(m.group(1));
                    if (text.length() >= 100 && isProse(text)) {
                        passages.add(text);
                    }
                }
                Collections.shuffle(passages, new Random(SEED));
                for (String text : passages.subList(0, Math.min(PASSAGES_PER_PAGE, passages.size()))) {
                    String passage = shortened(text, LONGEST_PASSAGE);
                    rows.add(path, type.getKey(), passage, json("text", passage, "label", type.getKey()));
                }
                return;
            }
        }
    }

    private static final Pattern HEADING =
            Pattern.compile("<h[1-4](?:\\s[^>]*)?>(.*?)</h[1-4]>", Pattern.DOTALL | Pattern.CASE_INSENSITIVE);
    private static final Pattern NUMBER = Pattern.compile("^(Appendix |Chapter )?([A-Z]\\.|\\d+\\.)[\\d.]*\\s*");
    private static final Set<String> NO_TITLES = Set.of(
            "description",
            "notes",
            "examples",
            "parameters",
            "see also",
            "compatibility",
            "options",
            "author",
            "summary",
            "overview",
            "introduction",
            "directives",
            "topics",
            "bugfixes",
            "usage",
            "changes",
            "outputs",
            "diagnostics",
            "environment",
            "name",
            "synopsis",
            "navigation",
            "support django!",
            "contents",
            "note");

    private static void titles(String path, String page, Rows rows) {
        if (RELEASE_NOTES.matcher(path).find()) {
            return;
        }
        List<int[]> places = new ArrayList<>();
        List<String> headings = new ArrayList<>();
        for (Matcher m = HEADING.matcher(page); m.find(); ) {
            places.add(new int[] {m.start(), m.end()});
            headings.add(NUMBER.matcher(text(m.group(1))).replaceFirst("").strip());
        }
        for (int i = 0; i < headings.size(); i++) {
            String title = headings.get(i);
            int words = title.split(" ").length;
            if (words < 2
                    || title.length() > LONGEST_TITLE
                    || NO_TITLES.contains(title.toLowerCase(Locale.ROOT))
                    || !isProse(title)
                    || title.contains("(")) {
                continue;
            }
            String text = below(page, places.get(i)[1], i + 1 < places.size() ? places.get(i + 1)[0] : page.length());
            if (text.length() >= 120) {
                rows.add(path, path.substring(0, path.indexOf('/')), text, json("source", text, "target", title));
            }
        }
    }

    /// The paragraphs between two places, as many as fit.
    private static String below(String page, int from, int to) {
        StringBuilder text = new StringBuilder();
        for (Matcher m = PARAGRAPH.matcher(page).region(from, to); m.find(); ) {
            String paragraph = text(m.group(1));
            if (isProse(paragraph) && paragraph.length() >= 40) {
                text.append(text.isEmpty() ? "" : " ").append(paragraph);
            }
            if (text.length() >= LONGEST_SOURCE) {
                break;
            }
        }
        return shortened(text.toString(), LONGEST_SOURCE);
    }

    /// Apache's directives and modules, and PostgreSQL's reference pages.
    private static final Pattern APACHE = Pattern.compile(
            "<h[12][^>]*>(?:<(?:a|span)[^>]*>)?([^<]+)(?:(?!<h[12]).)*?Description:</a></th><td>(.*?)</td></tr>"
                    + "(.*?)(?=<h2|$)",
            Pattern.DOTALL);
    private static final Pattern POSTGRES =
            Pattern.compile("<div class=\"refnamediv\">.*?<p>(.*?)</p>", Pattern.DOTALL);

    private static void descriptions(String path, String page, Rows rows) {
        if (path.startsWith("apache2-doc")) {
            for (Matcher m = APACHE.matcher(page); m.find(); ) {
                String name = text(m.group(1)).replaceFirst("^Apache (Module|MPM) ", "");
                description(
                        path,
                        name,
                        text(m.group(2)),
                        below(m.group(3), 0, m.group(3).length()),
                        rows);
            }
        } else if (path.startsWith("postgresql")) {
            Matcher m = POSTGRES.matcher(page);
            if (m.find()) {
                String[] parts = text(m.group(1)).split(" - ", 2);
                if (parts.length == 2) {
                    description(path, parts[0], parts[1], below(page, m.end(), page.length()), rows);
                }
            }
        }
    }

    private static void description(String path, String name, String description, String text, Rows rows) {
        if (description.length() < 20 || description.length() > DESCRIPTION || text.length() < 100) {
            return;
        }
        String sentence = Character.toUpperCase(description.charAt(0)) + description.substring(1);
        rows.add(
                path,
                path.substring(0, path.indexOf('/')),
                name + sentence,
                json("source", name + ": " + text, "target", sentence.endsWith(".") ? sentence : sentence + "."));
    }

    // ---- text

    private static final Pattern PARAGRAPH = Pattern.compile(
            "<p(?:\\s[^>]*)?>(.*?)(?=</?(?:p|ul|ol|pre|table|h[1-6]|div|dl|dt|dd|blockquote|li|td|body)\\b)",
            Pattern.DOTALL | Pattern.CASE_INSENSITIVE);

    private static boolean isProse(String text) {
        long letters =
                text.chars().filter(c -> Character.isLetter(c) || c == ' ').count();
        return letters >= 0.8 * text.length();
    }

    /// Cut behind a sentence or, if there is none, a word.
    private static String shortened(String text, int longest) {
        if (text.length() <= longest) {
            return text;
        }
        int sentence = text.lastIndexOf(". ", longest - 1) + 1;
        return text.substring(0, sentence > longest / 2 ? sentence : text.lastIndexOf(' ', longest));
    }

    private static final Map<String, String> ENTITIES = Map.of(
            "lt", "<", "gt", ">", "quot", "\"", "nbsp", " ", "mdash", "-", "ndash", "-", "rsquo", "'", "amp", "&");

    private static String text(String html) {
        String plain = Pattern.compile("&(#?)([A-Za-z0-9]+);")
                .matcher(html.replaceAll("<[^>]*>", ""))
                .replaceAll(m -> Matcher.quoteReplacement(
                        m.group(1).isEmpty() ? ENTITIES.getOrDefault(m.group(2), "") : character(m.group(2))));
        return plain.replaceAll("[\u2018\u2019]", "'")
                .replaceAll("[\u201c\u201d]", "\"")
                .replaceAll("\\s*\u2014\\s*", " - ")
                .replace('\u2013', '-')
                .replaceAll("[\u00b6\u200b\ufeff\ufffd\u00b7#]", "")
                .replaceAll("[\\s\u00a0]+", " ")
                .strip();
    }

    private static String character(String number) {
        boolean hex = number.startsWith("x") || number.startsWith("X");
        return Character.toString(Integer.parseInt(hex ? number.substring(1) : number, hex ? 16 : 10));
    }

    private static String json(String first, String value, String second, String other) {
        return "{\"" + first + "\":\"" + escape(value) + "\",\"" + second + "\":\"" + escape(other) + "\"}";
    }

    private static String escape(String text) {
        return text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ");
    }
}
