package dev.loran.peft.cli.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.report.Figures.Figure;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.io.Xml;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/// Writes a report into a folder: `report.html`, which needs no other file, `plots/` with each figure as SVG and PNG,
/// and `results.json`.
public final class Report {
    public static final String PAGE = "report.html";
    public static final String PLOTS = "plots";

    /// Sorts the rows of a table by the column whose heading is clicked, or chosen with Enter. Without characters that
    /// XML reserves.
    private static final String SORTING = """
            document.querySelectorAll('table').forEach(function(table){
              var heads=Array.from(table.querySelectorAll('thead th'));
              heads.forEach(function(head,i){
                function key(row){
                  var cell=row.cells[i],data=cell.querySelector('data'),text=data?data.value:cell.textContent;
                  return isNaN(Number(text))?text:Number(text);
                }
                function sort(){
                  var up=head.getAttribute('aria-sort')!=='ascending',body=table.tBodies[0];
                  Array.from(body.rows).sort(function(x,y){
                    var a=key(x),b=key(y),order=a===b?0:typeof a!==typeof b?(typeof a==='number'?-1:1):a>b?1:-1;
                    return up?order:-order;
                  }).forEach(function(row){body.appendChild(row)});
                  heads.forEach(function(other){other.removeAttribute('aria-sort')});
                  head.setAttribute('aria-sort',up?'ascending':'descending');
                }
                head.tabIndex=0;
                head.onclick=sort;
                head.onkeydown=function(e){if(e.key==='Enter')sort()};
              });
            });
            """;

    /// A column of the table of results.
    private record Column(String key, String heading, String format) {}

    private static final List<Column> COLUMNS = List.of(
            new Column("trainable_parameters", "trainable parameters", "%,.0f"),
            new Column("trainable_percentage", "% of all", "%.3f"),
            new Column("adapter_bytes", "file, bytes", "%,.0f"),
            new Column("learning_rate", "learning rate", "%.0e"),
            new Column("steps", "steps", "%,.0f"),
            new Column("seconds", "training, s", "%,.1f"),
            new Column("tokens_per_second", "tokens/s", "%,.0f"),
            new Column("planned_tensor_mib", "tensors planned, MiB", "%,.1f"),
            new Column("peak_tensor_mib", "tensors measured, MiB", "%,.1f"),
            new Column("peak_memory_mib", "process, MiB", "%,.0f"),
            new Column("latency_ms", "one prediction, ms", "%.2f"),
            new Column("latency_merged_ms", "merged, ms", "%.2f"),
            new Column("train_loss", "training loss", "%.4f"),
            new Column("loss", "held-out loss", "%.4f"));

    private final ObjectNode results;
    private final List<JsonNode> methods;
    private final String headline;

    private Report(ObjectNode results) {
        this.results = results;
        this.methods = Results.methods(results);
        this.headline = results.path("headline").asText("loss");
    }

    /// Refuses a folder whose files are not a report's, so that nothing else is lost.
    ///
    /// @param overwrite whether a report that is there may be replaced
    /// @throws InputException that says what is there
    public static void requireFree(Path folder, boolean overwrite) {
        try {
            if (new Drafts(folder).isFree(List.of(PLOTS, PAGE, Results.FILE)) || overwrite && Results.isIn(folder)) {
                return;
            }
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
        throw new InputException(folder
                + (Results.isIn(folder)
                        ? ": holds a comparison or a report already; replace it (--overwrite), or choose another folder"
                                + " (--out)"
                        : ": holds other files; choose a new or empty folder (--out)"));
    }

    /// Writes the report of `results` into `folder`, which is created if necessary; replaces a report that is there.
    ///
    /// @throws InputException if it cannot be written
    public static void write(Path folder, ObjectNode results) {
        List<Figure> figures = Figures.of(results);
        try {
            Files.createDirectories(folder);
            new Drafts(folder).put(PLOTS, draft -> figures.forEach(f -> f.write(draft)));
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be written", e);
        }
        JsonFile.write(folder.resolve(Results.FILE), results);
        JsonFile.write(folder.resolve(PAGE), new Report(results).page(figures));
    }

    // ---- the page: well-formed as XML too, so that it can be checked by a parser

    private String page(List<Figure> figures) {
        String title = "Fine-tuning " + results.path("model").asText("runs") + ": "
                + methods.stream().map(Results::name).collect(Collectors.joining(", "));
        return """
                <!DOCTYPE html>
                <html lang="en">
                <head>
                <meta charset="utf-8"/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <title>%s</title>
                <style>%s</style>
                </head>
                <body>
                <main>
                <h1>%s</h1>
                <p class="lead">%s</p>
                <div class="figures">
                %s</div>
                <h2>Strengths and weaknesses</h2>
                <p>What follows from the numbers here; on other rows, or with another model, it may differ.</p>
                <div class="cards">
                %s</div>
                <h2>All numbers</h2>
                %s
                <h2>How it was measured</h2>
                <ul>
                %s</ul>
                </main>
                %s</body>
                </html>""".formatted(
                Xml.escaped(title),
                style(),
                Xml.escaped(title),
                Xml.escaped(lead()),
                figures.stream().map(Report::figure).collect(Collectors.joining()),
                methods.stream().map(this::card).collect(Collectors.joining()),
                table(),
                measured().stream()
                        .map(m -> "<li>" + Xml.escaped(m) + "</li>\n")
                        .collect(Collectors.joining()),
                // Only a sweep has so many runs that one wants to sort them.
                methods.stream().anyMatch(m -> m.has(Results.OPTIONS)) ? "<script>" + SORTING + "</script>\n" : "");
    }

    private String lead() {
        List<String> parts = new ArrayList<>();
        if (results.path("task").isTextual()) {
            parts.add("task " + results.get("task").asText());
        }
        Double rows = Results.number(results, "rows");
        Double heldOut = Results.number(results, "held_out");
        if (rows != null) {
            parts.add(String.format(Locale.ROOT, "%,.0f rows to train on", rows));
        }
        if (heldOut != null) {
            parts.add(String.format(Locale.ROOT, "%,.0f held out", heldOut));
        }
        List<Double> steps =
                methods.stream().map(m -> Results.number(m, "steps")).distinct().toList();
        if (steps.size() == 1 && steps.getFirst() != null) {
            parts.add(String.format(Locale.ROOT, "%,.0f steps each", steps.getFirst()));
        }
        return String.join(", ", parts);
    }

    private static String figure(Figure figure) {
        return """
                <figure id="%s"><h3>%s</h3>
                %s
                <figcaption>%s</figcaption></figure>
                """.formatted(figure.id(), Xml.escaped(figure.title()), figure.inline(), Xml.escaped(figure.caption()));
    }

    private String card(JsonNode run) {
        String items = new Findings(results)
                .about(run).stream()
                        .map(f -> "<li class=\"%s\">%s</li>\n"
                                .formatted(f.strength() ? "good" : "bad", Xml.escaped(f.text())))
                        .collect(Collectors.joining());
        return "<section><h3>%s</h3>%s</section>\n"
                .formatted(
                        Xml.escaped(Results.name(run)),
                        items.isEmpty() ? "<p>Nothing to compare it with.</p>" : "<ul>\n" + items + "</ul>");
    }

    private String table() {
        List<Column> columns = new ArrayList<>(COLUMNS);
        if (!headline.equals("loss")) {
            columns.add(new Column(headline, headline.replace('_', ' '), "%.4f"));
        }
        columns.removeIf(c -> methods.stream().allMatch(m -> Results.number(m, c.key) == null));
        StringBuilder table = new StringBuilder("<div class=\"wide\"><table>\n<thead><tr><th>method</th>");
        List<String> options = methods.stream()
                .flatMap(m -> m.path(Results.OPTIONS).propertyStream().map(Map.Entry::getKey))
                .distinct()
                .toList();
        options.forEach(o -> table.append("<th>").append(Xml.escaped(o)).append("</th>"));
        columns.forEach(c -> table.append("<th>").append(Xml.escaped(c.heading)).append("</th>"));
        table.append("</tr></thead>\n<tbody>\n");
        for (JsonNode run : methods) {
            table.append("<tr><th>").append(Xml.escaped(Results.name(run))).append("</th>");
            for (String option : options) {
                String value = run.path(Results.OPTIONS).path(option).asText("–");
                table.append("<td>").append(Xml.escaped(value)).append("</td>");
            }
            for (Column c : columns) {
                Double value = Results.number(run, c.key);
                table.append("<td>")
                        .append(
                                value == null
                                        ? "–"
                                        : "<data value=\"%s\">%s</data>"
                                                .formatted(
                                                        run.get(c.key).asText(),
                                                        String.format(Locale.ROOT, c.format, value)))
                        .append("</td>");
            }
            table.append("</tr>\n");
        }
        return table.append("</tbody></table></div>").toString();
    }

    private List<String> measured() {
        List<String> lines = new ArrayList<>();
        JsonNode machine = results.path("measured");
        if (machine.has("backend")) {
            lines.add(machine.get("backend").asText());
        }
        if (machine.has("cores")) {
            lines.add(String.format(
                    Locale.ROOT,
                    "Java %s, %d processors, load average %.1f at the start%s",
                    machine.path("java").asText(),
                    machine.get("cores").asInt(),
                    machine.path("load").asDouble(),
                    machine.path("load").asDouble() > 0.5
                            ? ": other work ran beside it, so that times are longer than on an idle machine"
                            : ""));
        }
        results.path("notices").forEach(n -> lines.add(n.asText()));
        for (JsonNode run : methods) {
            if (run.has("stopped")) {
                lines.add("%s was stopped after step %d: %s"
                        .formatted(
                                Results.name(run),
                                run.at("/stopped/step").asInt(),
                                run.at("/stopped/why").asText()));
            }
            if (run.has("finished") && !run.get("finished").asBoolean()) {
                lines.add(Results.name(run) + " is not finished: only its course so far is shown");
            }
        }
        lines.add("The numbers, with all their digits, are in " + Results.FILE + "; the figures, as SVG and PNG, in "
                + PLOTS + "/.");
        return lines;
    }

    private static String style() {
        return """
                :root{%s}
                @media(prefers-color-scheme:dark){:root{%s}}
                *{box-sizing:border-box}
                body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
                main{max-width:1200px;margin:0 auto;padding:1.5rem 1rem 3rem}
                h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;overflow-wrap:anywhere}
                h2{font-size:1.25rem;margin:2.5rem 0 .75rem}
                h3{font-size:1rem;margin:0 0 .5rem;overflow-wrap:anywhere}
                .lead,figcaption{color:var(--muted)}
                .figures,.cards{display:grid;gap:1.25rem}
                .figures,.cards{grid-template-columns:repeat(auto-fill,minmax(min(100%%,22rem),1fr))}
                figure,section{margin:0;padding:1rem;border:1px solid var(--grid);border-radius:8px}
                figure svg{display:block;width:100%%;height:auto}
                figcaption{font-size:.8125rem;line-height:1.4;margin-top:.5rem}
                section ul{margin:0;padding:0;list-style:none}
                section li{padding-left:1.4em;text-indent:-1.4em;margin:.35rem 0;font-size:.9375rem}
                section li::before{display:inline-block;width:1.4em;text-indent:0;font-weight:700}
                .good::before{content:"+";color:var(--good)}
                .bad::before{content:"\\2212";color:var(--bad)}
                .wide{overflow-x:auto}
                table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
                th,td{padding:.4rem .6rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
                thead th{vertical-align:bottom;white-space:normal;color:var(--muted);font-weight:500}
                th[tabindex]{cursor:pointer}
                th[aria-sort=ascending]::after{content:" \\2191"}
                th[aria-sort=descending]::after{content:" \\2193"}
                tbody th{position:sticky;left:0;background:var(--paper);text-align:left}
                """.formatted(Palette.variables(false), Palette.variables(true));
    }
}
