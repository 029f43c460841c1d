package dev.loran.peft.data;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.siegmar.fastcsv.reader.CsvParseException;
import de.siegmar.fastcsv.reader.CsvReader;
import de.siegmar.fastcsv.reader.CsvRecord;
import de.siegmar.fastcsv.reader.FieldMismatchStrategy;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.zip.GZIPInputStream;
import org.jspecify.annotations.Nullable;

/// How rows are written in a file. Every format is UTF-8, and may be compressed by gzip.
public enum RowFormat {
    /// One JSON object per line.
    JSONL,
    /// An array of JSON objects.
    JSON,
    /// Values separated by commas, semicolons, tabs or bars, quoted as in RFC 4180, below a header with the names of
    /// the columns. A value is a string, a number or, written in JSON, a list; an empty one is missing.
    CSV,
    /// [#CSV] separated by tabs.
    TSV,
    /// One text per line: the field `text`.
    TXT;

    /// The longest accepted line, in bytes; a file with a longer one is assumed to be in another format.
    static final int MAX_LINE_BYTES = 16 << 20;

    /// The number of bytes from which the format is detected.
    private static final int HEAD = 1 << 16;

    private static final ObjectReader ELEMENTS = Fields.JSON.without(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);

    private static final String SEPARATORS = ",;\t|";

    /// The format with the lower-case name `name`.
    ///
    /// @throws InputException for any other name
    public static RowFormat named(String name) {
        for (RowFormat format : values()) {
            if (format.toString().equals(name)) {
                return format;
            }
        }
        throw new InputException("format \"" + name + "\" is not known; choose jsonl, json, csv, tsv or txt");
    }

    /// The name in lower case.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// How to read a file.
    ///
    /// @param format null to detect it
    /// @param columns the names that the file has for fields, by the names of the fields
    public record Options(@Nullable RowFormat format, Map<String, String> columns) {
        /// Detects the format; the columns have the names of the fields.
        public static final Options DETECT = new Options(null, Map.of());

        public Options {
            columns = Map.copyOf(columns);
        }
    }

    /// What is read: a source, what its rows should look like, and whom to tell.
    ///
    /// @param name the source's name in messages
    /// @param form what a row should look like, for error messages
    /// @param fields the fields that are read from a row
    /// @param detected receives a line about the format if it is none of JSON Lines
    record Reading(
            String name, String form, List<String> fields, Map<String, String> columns, Consumer<String> detected) {
        Fields row(long line, ObjectNode object, boolean isText) {
            for (Map.Entry<String, String> column : columns.entrySet()) {
                JsonNode value = object.remove(column.getValue());
                if (value != null) {
                    object.set(column.getKey(), value);
                }
            }
            return new Fields(name, line, form, object, isText);
        }

        /// The names that the file should have for the fields.
        Set<String> wanted() {
            Set<String> wanted = new HashSet<>(columns.values());
            fields.stream().filter(field -> !columns.containsKey(field)).forEach(wanted::add);
            return wanted;
        }
    }

    /// Passes the fields of every row to `visitor`.
    ///
    /// @return whether there were any rows
    static boolean read(InputStream in, @Nullable RowFormat given, Reading reading, Consumer<Fields> visitor)
            throws IOException {
        BufferedInputStream bytes = new BufferedInputStream(in, HEAD);
        byte[] head = head(bytes);
        if (head.length > 1 && head[0] == 0x1f && head[1] == (byte) 0x8b) {
            bytes = new BufferedInputStream(new GZIPInputStream(bytes, 1 << 16), HEAD);
            head = head(bytes);
        }
        if (head.length > 1 && (head[0] == -1 && head[1] == -2 || head[0] == -2 && head[1] == -1)) {
            throw new InputException(reading.name + ": UTF-16, not UTF-8; save the file as UTF-8");
        }
        if (head.length > 2 && head[0] == (byte) 0xef && head[1] == (byte) 0xbb && head[2] == (byte) 0xbf) {
            // A byte order mark is not part of the first row.
            bytes.skipNBytes(3);
            head = Arrays.copyOfRange(head, 3, head.length);
        }
        String start = new String(head, StandardCharsets.UTF_8);
        RowFormat format = given == null ? detect(start, reading) : given;
        return switch (format) {
            case JSONL ->
                lines(bytes, reading, line -> visitor.accept(reading.row(line.number, line.object(reading), false)));
            case TXT -> lines(bytes, reading, line -> visitor.accept(reading.row(line.number, line.asText(), true)));
            case JSON -> array(bytes, reading, visitor);
            case CSV -> table(bytes, separator(start), reading, visitor);
            case TSV -> table(bytes, '\t', reading, visitor);
        };
    }

    private static byte[] head(BufferedInputStream in) throws IOException {
        in.mark(HEAD);
        byte[] head = in.readNBytes(HEAD);
        in.reset();
        return head;
    }

    // ---- detection

    /// By the first character, then by the ending of the name, then by the names of columns in the first line.
    private static RowFormat detect(String start, Reading reading) {
        String first = start.stripLeading();
        String name = reading.name.toLowerCase(Locale.ROOT).replaceFirst("\\.gz$", "");
        if (name.endsWith(".txt")) {
            return TXT;
        }
        if (first.startsWith("[")) {
            return JSON;
        }
        if (first.startsWith("{")) {
            return JSONL;
        }
        if (name.endsWith(".csv") || name.endsWith(".tsv")) {
            return name.endsWith(".csv") ? CSV : TSV;
        }
        char separator = separator(start);
        List<String> header = Arrays.asList(firstLine(start).replace("\"", "").split("\\Q" + separator + "\\E"));
        return header.size() > 1 && reading.wanted().stream().anyMatch(header::contains) ? CSV : JSONL;
    }

    private static String firstLine(String start) {
        return start.lines().findFirst().orElse("");
    }

    /// The separator that the first line has most of.
    private static char separator(String start) {
        String header = firstLine(start).replaceAll("\"[^\"]*\"", "");
        char best = SEPARATORS.charAt(0);
        long most = 0;
        for (int i = 0; i < SEPARATORS.length(); i++) {
            char separator = SEPARATORS.charAt(i);
            long count = header.chars().filter(c -> c == separator).count();
            if (count > most) {
                best = separator;
                most = count;
            }
        }
        return best;
    }

    // ---- lines

    /// A line that is not blank.
    private record Line(long number, String text) {
        ObjectNode object(Reading reading) {
            try {
                JsonNode value = Fields.JSON.readTree(text);
                if (value instanceof ObjectNode object) {
                    return object;
                }
                throw InputException.at(
                        reading.name, number, "a JSON " + Fields.kind(value) + ", not an object; " + reading.form);
            } catch (JsonProcessingException e) {
                throw notJson(reading, number, e);
            }
        }

        ObjectNode asText() {
            return JsonNodeFactory.instance.objectNode().put("text", text.strip());
        }
    }

    private static InputException notJson(Reading reading, long line, JsonProcessingException e) {
        int column = e.getLocation() == null ? 1 : e.getLocation().getColumnNr();
        return new InputException(
                "%s:%d: not JSON at column %d: %s; %s"
                        .formatted(reading.name, line, column, JsonFile.problem(e), reading.form),
                e);
    }

    /// Splits bytes into lines before decoding: a decoder that reads ahead could not tell which line contains a bad
    /// byte.
    private static boolean lines(InputStream in, Reading reading, Consumer<Line> visitor) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        boolean any = false;
        int b = in.read();
        for (long number = 1; b >= 0; number++) {
            bytes.reset();
            for (; b >= 0 && b != '\n'; b = in.read()) {
                if (bytes.size() == MAX_LINE_BYTES) {
                    throw InputException.at(
                            reading.name,
                            number,
                            "longer than " + (MAX_LINE_BYTES >> 20) + " MiB; is this a JSON Lines file?");
                }
                bytes.write(b);
            }
            String text = decoded(bytes, reading, number);
            if (!text.isBlank()) {
                any = true;
                visitor.accept(new Line(number, text));
            }
            b = b < 0 ? b : in.read();
        }
        return any;
    }

    private static String decoded(ByteArrayOutputStream bytes, Reading reading, long number) {
        try {
            return StandardCharsets.UTF_8
                    .newDecoder()
                    .decode(ByteBuffer.wrap(bytes.toByteArray()))
                    .toString();
        } catch (CharacterCodingException e) {
            throw new InputException(reading.name + ":" + number + ": not UTF-8; save the file as UTF-8", e);
        }
    }

    // ---- one JSON array

    private static boolean array(InputStream in, Reading reading, Consumer<Fields> visitor) throws IOException {
        long line = 1;
        boolean any = false;
        try (JsonParser parser = ELEMENTS.createParser(decoding(in))) {
            if (parser.nextToken() != JsonToken.START_ARRAY) {
                throw InputException.at(reading.name, line, "not an array of objects; " + reading.form);
            }
            while (parser.nextToken() != JsonToken.END_ARRAY) {
                line = parser.currentTokenLocation().getLineNr();
                if (parser.currentToken() == null) {
                    throw InputException.at(reading.name, line, "the array does not end; the file is cut off");
                }
                JsonNode value = ELEMENTS.readTree(parser);
                if (!(value instanceof ObjectNode object)) {
                    throw InputException.at(
                            reading.name, line, "a JSON " + Fields.kind(value) + ", not an object; " + reading.form);
                }
                if (!any) {
                    reading.detected.accept("a JSON array");
                }
                any = true;
                visitor.accept(reading.row(line, object, false));
            }
            if (parser.nextToken() != null) {
                throw InputException.at(
                        reading.name,
                        parser.currentTokenLocation().getLineNr(),
                        "something follows the array; remove it, or write JSON Lines");
            }
            return any;
        } catch (JsonProcessingException e) {
            throw notJson(
                    reading, e.getLocation() == null ? line : e.getLocation().getLineNr(), e);
        } catch (CharacterCodingException e) {
            throw new InputException(reading.name + ": not UTF-8; save the file as UTF-8", e);
        }
    }

    private static Reader decoding(InputStream in) {
        return new InputStreamReader(in, StandardCharsets.UTF_8.newDecoder());
    }

    // ---- a table

    private static boolean table(InputStream in, char separator, Reading reading, Consumer<Fields> visitor)
            throws IOException {
        List<String> header = null;
        boolean any = false;
        try (CsvReader<CsvRecord> records = CsvReader.builder()
                .fieldSeparator(separator)
                .extraFieldStrategy(FieldMismatchStrategy.IGNORE)
                .missingFieldStrategy(FieldMismatchStrategy.IGNORE)
                .maxBufferSize(MAX_LINE_BYTES)
                .ofCsvRecord(decoding(in))) {
            for (CsvRecord record : records) {
                if (header == null) {
                    header = header(record, reading);
                    String named = separator == '\t' ? "tabs" : "\"" + separator + "\"";
                    reading.detected.accept(
                            "a table separated by " + named + ", with the columns " + String.join(", ", header));
                } else {
                    any = true;
                    visitor.accept(reading.row(record.getStartingLineNumber(), object(header, record, reading), true));
                }
            }
            return any;
        } catch (CsvParseException e) {
            throw new InputException(reading.name + ": " + e.getMessage(), e);
        } catch (UncheckedIOException e) {
            if (e.getCause() instanceof CharacterCodingException) {
                throw new InputException(reading.name + ": not UTF-8; save the file as UTF-8", e);
            }
            throw e.getCause();
        }
    }

    private static List<String> header(CsvRecord record, Reading reading) {
        List<String> names = record.getFields().stream().map(String::strip).toList();
        Set<String> seen = new HashSet<>();
        for (String name : names) {
            if (!name.isEmpty() && !seen.add(name)) {
                throw InputException.at(
                        reading.name, 1, "the header has the column \"" + name + "\" twice; rename one of them");
            }
        }
        if (reading.wanted().stream().noneMatch(seen::contains)) {
            throw InputException.at(
                    reading.name,
                    1,
                    "the header has the columns " + String.join(", ", names) + "; " + reading.form
                            + "; say which column is which with --columns text=NAME,…");
        }
        return names;
    }

    private static ObjectNode object(List<String> header, CsvRecord record, Reading reading) {
        List<String> values = new ArrayList<>(record.getFields());
        if (values.size() != header.size()) {
            throw InputException.at(
                    reading.name,
                    record.getStartingLineNumber(),
                    "%d values, but the header has %d columns; a value that contains the separator needs quotes"
                            .formatted(values.size(), header.size()));
        }
        ObjectNode object = JsonNodeFactory.instance.objectNode();
        for (int i = 0; i < values.size(); i++) {
            if (!values.get(i).isBlank() && !header.get(i).isEmpty()) {
                object.put(header.get(i), values.get(i));
            }
        }
        return object;
    }
}
