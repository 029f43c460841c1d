package dev.loran.peft.cli.ui;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.report.Report;
import dev.loran.peft.cli.report.Results;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.RunFolder;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// The runs and the reports in folders: each folder is a run, or holds runs at some depth, such as a sweep, a
/// comparison or an example. What appears there later is found by the next [#look].
///
/// Links below these folders are not followed, so that nothing outside of them is found.
final class Runs {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int DEPTH = 6;
    private static final int MOST_FOLDERS = 5_000;
    private static final int MOST_RUNS = 500;
    private static final String TASKS = "tasks";

    private final List<Path> roots;
    /// By id: the first that were found are first, and keep their colours.
    private final Map<String, Run> known = new LinkedHashMap<>();
    /// Folders with a report, by id.
    private final Map<String, Path> reports = new TreeMap<>();

    private List<Run> shown = List.of();
    private int folders;
    private boolean tooMany;

    Runs(List<Path> roots) {
        this.roots = roots.stream().map(Runs::real).distinct().toList();
    }

    private static Path real(Path folder) {
        try {
            Path real = folder.toRealPath();
            if (Files.isDirectory(real)) {
                return real;
            }
            throw new InputException(folder + ": is no folder");
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    /// Something found in a folder.
    ///
    /// @param began when the folder was created
    private record Found(
            Path folder, Path root, long began, @Nullable Found outer) {}

    /// Looks again which runs and reports there are.
    synchronized void look() {
        List<Found> found = new ArrayList<>();
        reports.clear();
        folders = 0;
        tooMany = false;
        for (Path root : roots) {
            List<Found> here = new ArrayList<>();
            look(root, root, 0, null, here);
            // In the order in which they began, as a comparison's report shows them.
            here.sort(Comparator.comparingLong((Found f) -> f.began).thenComparing(Found::folder));
            found.addAll(here);
        }
        Map<String, Run> now = new LinkedHashMap<>();
        found.stream().limit(MOST_RUNS).forEach(f -> now.put(id(f.folder), run(f)));
        tooMany |= found.size() > MOST_RUNS;
        shown = List.copyOf(now.values());
    }

    private void look(Path folder, Path root, int depth, @Nullable Found outer, List<Found> found) {
        if (depth > DEPTH || ++folders > MOST_FOLDERS) {
            tooMany |= folders > MOST_FOLDERS;
            return;
        }
        if (Files.isRegularFile(folder.resolve(Report.PAGE), LinkOption.NOFOLLOW_LINKS)) {
            reports.put(id(folder), folder);
        }
        Found own = null;
        if (RunFolder.isRun(folder)) {
            own = new Found(folder, root, began(folder), outer);
            found.add(own);
        }
        for (Path below : below(folder)) {
            String name = String.valueOf(below.getFileName());
            // Of a run's own folders, only those of its tasks hold runs.
            if (own == null ? !name.startsWith(".") : name.equals(TASKS)) {
                look(below, root, depth + 1, own == null ? outer : own, found);
            }
        }
    }

    private static List<Path> below(Path folder) {
        try (Stream<Path> all = Files.list(folder)) {
            return all.filter(f -> Files.isDirectory(f, LinkOption.NOFOLLOW_LINKS))
                    .sorted()
                    .toList();
        } catch (IOException e) {
            // It was removed in the meantime, or is not ours to read.
            return List.of();
        }
    }

    private static long began(Path folder) {
        try {
            return Files.readAttributes(folder, BasicFileAttributes.class)
                    .creationTime()
                    .toMillis();
        } catch (IOException e) {
            return Long.MAX_VALUE;
        }
    }

    private Run run(Found f) {
        String id = id(f.folder);
        Run run = known.get(id);
        if (run == null) {
            Run outer = f.outer == null ? null : run(f.outer);
            Path shownAt = f.outer == null ? f.folder : f.outer.folder;
            String name = shownAt.getFileName() + (outer == null ? "" : ", task " + f.folder.getFileName());
            Path group = f.root.relativize(shownAt).getParent();
            String above = f.root.getFileName() + (group == null ? "" : "/" + group);
            run = new Run(id, f.folder, shownAt.equals(f.root) ? "" : above, name, known.size(), outer);
            known.put(id, run);
        }
        return run;
    }

    /// A short name that is the same each time: no path comes from the page.
    private static String id(Path folder) {
        try {
            byte[] hash = MessageDigest.getInstance("SHA-256")
                    .digest(folder.toString().getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(hash, 0, 8);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every JDK has SHA-256", e);
        }
    }

    /// The run with this id; null if there is none.
    synchronized @Nullable Run run(String id) {
        return shown.stream().filter(r -> id.equals(id(r.folder()))).findFirst().orElse(null);
    }

    /// The folder with the report of this id; null if there is none.
    synchronized @Nullable Path report(String id) {
        return reports.get(id);
    }

    /// How many runs there are.
    synchronized int size() {
        return shown.size();
    }

    /// All runs and reports.
    synchronized ObjectNode toJson() {
        ObjectNode json = JSON.createObjectNode().put("too_many", tooMany);
        roots.forEach(root -> json.withArray("folders").add(root.toString()));
        ArrayNode runs = json.putArray("runs");
        shown.forEach(run -> {
            ObjectNode summary = run.summary();
            // The nearest report that the run is part of.
            for (Path at = run.folder(); at != null; at = at.getParent()) {
                if (reports.containsKey(id(at))) {
                    summary.put("report", id(at));
                    break;
                }
            }
            runs.add(summary);
        });
        ArrayNode all = json.putArray("reports");
        reports.forEach((id, folder) -> all.addObject()
                .put("id", id)
                .put("folder", folder.toString())
                .put("name", String.valueOf(folder.getFileName()))
                .put("results", Results.isIn(folder)));
        return json;
    }
}
