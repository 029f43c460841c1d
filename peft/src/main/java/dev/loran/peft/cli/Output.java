package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/// The output of a command: results go to `out`, all messages to `err`.
///
/// @param terminal whether the output is a terminal, on which progress is shown as a bar
/// @param stop the request that the command end
record Output(PrintStream out, PrintStream err, boolean terminal, Stop stop) {
    /// Prints a progress message.
    void say(String line) {
        err.println(line);
    }

    /// Prints the one line that explains an error.
    void problem(String line) {
        err.println(line);
    }

    /// Adds the messages that were printed to the result as `notices`; adds nothing if there are none.
    static void put(ObjectNode result, List<String> notices) {
        if (!notices.isEmpty()) {
            notices.forEach(result.putArray("notices")::add);
        }
    }

    /// Prints the result: one value per line, and with `json` the whole result as the last line.
    void result(ObjectNode values, boolean json) {
        int width = values.properties().stream()
                .mapToInt(e -> e.getKey().length())
                .max()
                .orElse(0);
        for (Map.Entry<String, JsonNode> e : values.properties()) {
            String name = e.getKey().replace('_', ' ');
            out.println(name + " ".repeat(width - name.length() + 2) + shown(e.getValue()));
        }
        if (json) {
            out.println(values);
        }
        out.flush();
    }

    /// Prints rows of cells, starting with the headings: all but the first and the last column are right-aligned.
    void table(List<List<String>> rows) {
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
    static String shown(JsonNode value) {
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
