package dev.loran.peft.data;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.zip.GZIPInputStream;

/// The data set that comes with Loran: 6,000 definitions of English nouns from WordNet 3.1 in ten classes of 600 (act,
/// artifact, attribute, cognition, communication, food, group, location, person, state), with the noun that each one
/// defines. It is large enough to fine-tune a real encoder: [Noun#classify()] asks for the class of a definition,
/// [Noun#generate()] for the noun.
///
/// The split is fixed: 5,000 rows for training and 1,000 held out, with the classes balanced in both, and no definition
/// in both. Within each part, the classes alternate.
///
/// WordNet 3.1 is copyright 2011 by Princeton University; its license is next to the data in the jar, as
/// `dev/loran/peft/data/wordnet-LICENSE.txt`.
///
/// @param train 5,000 rows
/// @param heldOut 1,000 rows
public record ShippedData(List<Noun> train, List<Noun> heldOut) {
    private static final String RESOURCE = "wordnet-nouns.jsonl.gz";
    private static final int TRAIN = 5000;

    public ShippedData {
        train = List.copyOf(train);
        heldOut = List.copyOf(heldOut);
    }

    /// A noun.
    ///
    /// @param text its definition
    /// @param label its class
    /// @param title the noun
    public record Noun(String text, String label, String title) {
        /// The row that asks for the class of the definition.
        public Row.Classify classify() {
            return new Row.Classify(text, label);
        }

        /// The row that asks for the noun of the definition.
        public Row.Generate generate() {
            return new Row.Generate(text, title);
        }
    }

    /// Reads the data set.
    public static ShippedData load() {
        List<Noun> nouns = new ArrayList<>();
        try (InputStream packed = ShippedData.class.getResourceAsStream(RESOURCE)) {
            if (packed == null) {
                throw new IllegalStateException("ShippedData: the jar of Loran lacks " + RESOURCE);
            }
            try (InputStream in = new GZIPInputStream(packed)) {
                RowFormat.Reading reading = new RowFormat.Reading(
                        RESOURCE, "a row is {\"text\",\"label\",\"title\"}", List.of(), Map.of(), format -> {});
                Rows.forEachObject(
                        in,
                        RowFormat.JSONL,
                        reading,
                        row -> nouns.add(new Noun(row.text("text"), row.text("label"), row.text("title"))));
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return new ShippedData(nouns.subList(0, TRAIN), nouns.subList(TRAIN, nouns.size()));
    }
}
