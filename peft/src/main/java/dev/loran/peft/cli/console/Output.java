package dev.loran.peft.cli.console;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/// The output of a command: results go to `out`, all messages to `err`.
public final class Output {
    /// How much a command says while it works. Errors and results are always printed.
    public enum Level {
        QUIET,
        USUAL,
        /// Details too, and each message with the seconds since the command began.
        VERBOSE
    }

    /// Erases the line on which a terminal's cursor is.
    private static final String ERASE = "\r\033[K";

    private final PrintStream out;
    private final PrintStream err;
    private final boolean terminal;
    private final Stop stop;
    private final long began = System.nanoTime();
    private Level level = Level.USUAL;
    /// Whether a bar is shown, above which messages go.
    private volatile boolean bar;

    /// @param terminal whether `err` is a terminal, on which progress is shown as a bar
    /// @param stop the request that the command end
    public Output(PrintStream out, PrintStream err, boolean terminal, Stop stop) {
        this.out = out;
        this.err = err;
        this.terminal = terminal;
        this.stop = stop;
    }

    /// Makes `System.err` the standard error that the launcher was given, if that says where it is: the launcher passes
    /// what the JVM itself writes through a filter.
    public static void takeStandardError() {
        String file = System.getProperty("loran.stderr");
        if (file != null) {
            try {
                System.setErr(new PrintStream(new FileOutputStream(file, true), true, System.err.charset()));
            } catch (FileNotFoundException e) {
                // The filter passes on all else, too.
            }
        }
    }

    /// The same without results, for a command that runs another one.
    public Output withoutResults() {
        Output messages = new Output(new PrintStream(PrintStream.nullOutputStream()), err, terminal, stop);
        messages.level = level;
        return messages;
    }

    public PrintStream out() {
        return out;
    }

    public PrintStream err() {
        return err;
    }

    public boolean terminal() {
        return terminal;
    }

    public Stop stop() {
        return stop;
    }

    public Level level() {
        return level;
    }

    public void level(Level chosen) {
        level = chosen;
    }

    /// Prints a progress message.
    public void say(String line) {
        if (level != Level.QUIET) {
            problem(level == Level.VERBOSE ? String.format(Locale.ROOT, "[%6.2f s] %s", seconds(), line) : line);
        }
    }

    /// Prints what only those want to know who ask for details.
    public void detail(String line) {
        if (level == Level.VERBOSE) {
            say(line);
        }
    }

    private double seconds() {
        return (System.nanoTime() - began) / 1e9;
    }

    /// Prints the one line that explains an error.
    public void problem(String line) {
        err.print((bar ? ERASE : "") + line + System.lineSeparator());
    }

    /// Says whether the last line of the terminal is a bar.
    void bar(boolean shown) {
        bar = shown;
    }

    /// Adds the messages that were printed to the result as `notices`; adds nothing if there are none.
    public static void put(ObjectNode result, List<String> notices) {
        if (!notices.isEmpty()) {
            notices.forEach(result.putArray("notices")::add);
        }
    }

    /// Prints the result: one value per line, and with `json` the whole result as the last line.
    public void result(ObjectNode values, boolean json) {
        result(values, values.objectNode(), json);
    }

    /// As above, with values that only the line of JSON contains.
    public void result(ObjectNode values, ObjectNode more, boolean json) {
        int width = values.properties().stream()
                .mapToInt(e -> e.getKey().length())
                .max()
                .orElse(0);
        for (Map.Entry<String, JsonNode> e : values.properties()) {
            String name = e.getKey().replace('_', ' ');
            out.println(name + " ".repeat(width - name.length() + 2) + shown(e.getValue()));
        }
        if (json) {
            out.println(values.deepCopy().setAll(more));
        }
        out.flush();
    }

    /// Prints rows of cells, starting with the headings: all but the first and the last column are right-aligned.
    public void table(List<List<String>> rows) {
        int columns = rows.getFirst().size();
        for (List<String> row : rows) {
            StringBuilder line = new StringBuilder();
            for (int c = 0; c < columns; c++) {
                int column = c;
                int width = rows.stream()
                        .mapToInt(r -> r.get(column).length())
                        .max()
                        .orElse(0);
                String space = " ".repeat(width - row.get(c).length());
                boolean left = c == 0 || c == columns - 1;
                line.append(c == 0 ? "" : "  ").append(left ? row.get(c) + space : space + row.get(c));
            }
            out.println(line.toString().stripTrailing());
        }
    }

    /// A value formatted for reading; `-` for none.
    public static String shown(JsonNode value) {
        if (value.isNull()) {
            return "-";
        }
        if (value.isFloatingPointNumber()) {
            double v = value.doubleValue();
            return Math.abs(v) >= 1000
                    ? String.format(Locale.ROOT, "%,.0f", v)
                    : String.format(Locale.ROOT, "%.4f", v).replaceAll("\\.?0+$", "");
        }
        return value.isIntegralNumber()
                ? String.format(Locale.ROOT, "%,d", value.longValue())
                : value.isTextual() ? value.textValue() : value.toString();
    }
}
