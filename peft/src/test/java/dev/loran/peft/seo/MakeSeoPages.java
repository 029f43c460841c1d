package dev.loran.peft.seo;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
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

    private MakeSeoPages() {}

    /// Rows of a task, each a line of JSON, apart for training and held out.
    private static final class Rows {
        private final Set<String> seen = new HashSet<>();
        private final Map<String, List<String>> train = new TreeMap<>();
        private final Map<String, List<String>> heldOut = new TreeMap<>();

        void add(String page, String group, String unique, String json) {
            if (seen.add(unique.toLowerCase(Locale.ROOT))) {
                (isHeldOut(page) ? heldOut : train)
                        .computeIfAbsent(group, g -> new ArrayList<>())
                        .add(json);
            }
        }
    }

    /// String's hash is fixed by its specification; the factor spreads neighbors.
    private static boolean isHeldOut(String page) {
        return Math.floorMod((page.hashCode() * 0x9E3779B97F4A7C15L) >>> 33, HELD_OUT_ONE_IN) == 0;
    }

    public static void main(String[] args) throws IOException {
        if (args.length != 2) {
            System.err.println("usage: java MakeSeoPages.java PACKAGES FOLDER");
            System.exit(2);
        }
        Rows types = new Rows();
        Rows titles = new Rows();
        Rows descriptions = new Rows();
        for (String folder : List.of("sqlite3-doc", "postgresql-doc-15", "python-django-doc", "apache2-doc")) {
            List<Path> files;
            try (Stream<Path> all = Files.walk(Path.of(args[0]).resolve(folder))) {
                files = all.filter(f -> Files.isRegularFile(f) && f.toString().endsWith(".html"))
                        .filter(f -> folder.charAt(0) != 'a' || f.toString().contains("/manual/en/"))
                        .filter(f -> !f.toString().contains("/_modules/"))
                        .sorted()
                        .toList();
            }
            for (Path file : files) {
                String path = Path.of(args[0]).relativize(file).toString();
                String page = new String(Files.readAllBytes(file), StandardCharsets.UTF_8);
                type(path, page, types);
                titles(path, page, titles);
                descriptions(path, page, descriptions);
            }
        }
        Path out = Files.createDirectories(Path.of(args[1]));
        write(out, "page-type", types, PASSAGES_PER_TYPE);
        write(out, "title", titles, TITLES / 4);
        write(out, "description", descriptions, Integer.MAX_VALUE);
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
