package dev.loran.peft.seo;

import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.Task;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.zip.GZIPInputStream;

/// A task of search engine optimization whose rows come with Loran. The split into rows to train on and rows held out
/// is fixed, and a row's text is in one of them only.
public enum SeoTask {
    /// Which of seven kinds of page a passage is from.
    PAGE_TYPE(80, 0, "the kind of page that a passage is from, of seven", """
            Real text: passages of up to 280 characters of the documentation of SQLite, PostgreSQL, Django and the
            Apache HTTP Server. A page's label is the part of its documentation that it stands in, so that labels are
            not noise, but some passages of a page could stand in another kind, too. All passages of a page are in the
            same part: the pages of the rows held out are unseen, their programs are not."""),

    /// Which of four intents a search query has.
    SEARCH_INTENT(24, 0, "the intent of a search query, of four", """
            SYNTHETIC: no query was ever typed. They are 112 templates, 28 for each intent, filled with products,
            services, places, problems and invented brands. Every fourth template of an intent, and every fourth of the
            words that fill them, is only in the rows held out; so a model cannot answer by what it has seen word for
            word, but real queries are harder: shorter, misspelt, and of several intents at once."""),

    /// The title of a section.
    TITLE(160, 60, "the title of a section of a page", """
            Real text and real titles: headings of two words or more of the documentation of SQLite, PostgreSQL, Django
            and the Apache HTTP Server, each with up to 400 characters of the paragraphs below it. All sections of a
            page are in the same part. loran-tiny was trained on paragraphs of these pages, but not on their
            headings."""),

    /// The description of a page in at most 155 characters.
    DESCRIPTION(160, 155, "a page's meta description, of at most 155 characters", """
            Real text and real descriptions: the line by which the authors of PostgreSQL's reference pages, and of the
            Apache HTTP Server's modules and directives, describe each, with its name and up to 400 characters of its
            text. They are shorter (55 characters on average) than the 155 that search engines show. All directives of a
            module are in the same part. loran-tiny was trained on paragraphs of these pages, but not on the lines."""),

    /// The response to an instruction.
    INSTRUCTIONS(160, 155, "the response to an instruction about a text", """
            SYNTHETIC instructions: 36 phrasings, each before a row of one of the other four tasks, whose target is the
            response. Every fourth phrasing is only in the rows held out, together with rows that are held out there.
            The queries among the inputs are synthetic, too; all other inputs and responses are real text. The loss is
            that of the response only.""");

    /// The files that [#write] makes, beside the data card.
    public static final String TRAIN = "train.jsonl";

    public static final String HELD_OUT = "held-out.jsonl";

    private final int maxLength;
    private final int maxChars;
    private final String summary;
    private final String origin;

    SeoTask(int maxLength, int maxChars, String summary, String origin) {
        this.maxLength = maxLength;
        this.maxChars = maxChars;
        this.summary = summary;
        this.origin = origin;
    }

    /// The task with this name, such as `page-type`.
    ///
    /// @throws InputException for any other name
    public static SeoTask named(String name) {
        List<String> known = Arrays.stream(values()).map(SeoTask::toString).toList();
        if (!known.contains(name)) {
            throw new InputException("example \"" + name + "\" is not known; choose one of " + String.join(", ", known)
                    + Nearest.hint(List.of(name), known));
        }
        return values()[known.indexOf(name)];
    }

    /// The form of the rows, and what is learned from them.
    public Task task() {
        return maxChars > 0 ? new GenerateTask() : new ClassifyTask();
    }

    /// The most tokens of a row that matter.
    public int maxLength() {
        return maxLength;
    }

    /// The most characters of a generated text; 0 for a task that generates none.
    public int maxChars() {
        return maxChars;
    }

    /// What is asked for, in a few words.
    public String summary() {
        return summary;
    }

    /// What the rows are, what of them is synthetic, and what is held out.
    public String origin() {
        return origin;
    }

    /// The rows to train on.
    public List<Row> train() {
        return rows(TRAIN);
    }

    /// The rows held out.
    public List<Row> heldOut() {
        return rows(HELD_OUT);
    }

    private List<Row> rows(String part) {
        List<Row> rows = new ArrayList<>();
        try (InputStream in = open(part)) {
            RowSource.stream(in, this + "/" + part).forEach(task(), (row, line) -> rows.add(row));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return rows;
    }

    /// Writes the rows as two files of JSON Lines, the data card and the licenses into a folder; replaces what it has
    /// written before.
    public void write(Path folder) {
        try {
            Files.createDirectories(folder);
            for (String part : List.of(TRAIN, HELD_OUT)) {
                try (InputStream in = open(part)) {
                    Files.write(folder.resolve(part), in.readAllBytes());
                }
            }
            Files.writeString(folder.resolve("README.md"), card());
            try (InputStream in = resource("LICENSES.txt")) {
                Files.write(folder.resolve("LICENSES.txt"), in.readAllBytes());
            }
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be written", e);
        }
    }

    private String card() {
        return """
                # %s: %s

                %,d rows to train on (%s), %,d held out (%s), JSON Lines of the form `%s`.

                %s

                Sources and licenses: LICENSES.txt. The rows were made by the programs MakeSeoPages.java and
                MakeSeoQueries.java in Loran's sources.
                """.formatted(this, summary, train().size(), TRAIN, heldOut().size(), HELD_OUT, task().form(), origin);
    }

    private InputStream open(String part) throws IOException {
        return new GZIPInputStream(resource(this + "-" + part + ".gz"));
    }

    private static InputStream resource(String name) {
        return Objects.requireNonNull(
                SeoTask.class.getResourceAsStream(name), () -> "SeoTask: the jar of Loran lacks " + name);
    }

    /// The name on the command line.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT).replace('_', '-');
    }
}
