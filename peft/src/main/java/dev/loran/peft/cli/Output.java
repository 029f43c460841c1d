package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/// Where a command writes: results to `out`, everything on the way to `err`.
///
/// @param terminal whether somebody watches: progress is then a bar
/// @param stop says that the command is to end
record Output(PrintStream out, PrintStream err, boolean terminal, Stop stop) {
    /// A line about what is going on.
    void say(String line) {
        err.println(line);
    }

    /// The one line that says what is wrong.
    void problem(String line) {
        err.println(line);
    }

    /// Lines that were said, as `notices` of the result; nothing where there are none.
    static void put(ObjectNode result, List<String> notices) {
        if (!notices.isEmpty()) {
            notices.forEach(result.putArray("notices")::add);
        }
    }

    /// The result: a line a value, and with `json` the whole as the last line.
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

    /// Rows of cells, the first one the headings: all but the first and the last column stand to the right.
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

    /// A value as people read it; `-` for none.
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
