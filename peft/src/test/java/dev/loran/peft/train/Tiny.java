package dev.loran.peft.train;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.LmTask;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/// Models with a few thousand parameters, and rows that they can learn: one word in each row determines its class.
public final class Tiny {
    public static final int POSITIONS = 24;
    public static final Labels LABELS = new Labels(List.of("purchase", "sport"));

    private static final List<String> FILLERS = List.of("red", "online", "cheap", "query", "buy");

    private Tiny() {}

    public static List<Row.Classify> rows(int n, long seed) {
        Random random = new Random(seed);
        List<Row.Classify> rows = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            List<String> words = new ArrayList<>();
            int fillers = random.nextInt(6);
            for (int w = 0; w < fillers; w++) {
                words.add(FILLERS.get(random.nextInt(FILLERS.size())));
            }
            boolean sport = i % 2 == 1;
            words.add(random.nextInt(words.size() + 1), sport ? "running" : "shoes");
            rows.add(new Row.Classify(String.join(" ", words), sport ? "sport" : "purchase"));
        }
        return rows;
    }

    /// Pairs of texts: which of the two contains a certain word determines the class.
    public static List<Row.Classify> pairs(int n, long seed) {
        Random random = new Random(seed);
        List<Row.Classify> rows = new ArrayList<>();
        for (Row.Classify row : rows(n, seed)) {
            String with = row.text().replace("running", "shoes");
            String without = FILLERS.get(random.nextInt(FILLERS.size()));
            boolean second = row.label().equals("sport");
            rows.add(new Row.Classify(second ? without : with, second ? with : without, row.label()));
        }
        return rows;
    }

    public static Examples examples(int n, long seed) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(new ClassifyTask(), rows(n, seed), tokenizer, Examples.Options.of(POSITIONS), LABELS);
        }
    }

    /// The same texts, for next-token prediction.
    public static Examples texts(int n, long seed) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            List<Row.Text> texts =
                    rows(n, seed).stream().map(r -> new Row.Text(r.text())).toList();
            return Examples.of(new LmTask(), texts, tokenizer, Examples.Options.of(POSITIONS), null);
        }
    }

    public static BertModel encoder(Backend backend, DType dtype) {
        return BertModel.random(
                BertModel.Config.of(TinyTokenizers.WORDS.size(), 16, 2, 2, POSITIONS, 0), backend, dtype, 3);
    }

    public static SeoTransformer causal(Backend backend, DType dtype) {
        TransformerConfig sizes = new TransformerConfig(16, 2, 2, TinyTokenizers.WORDS.size());
        return SeoTransformer.random(sizes.withMaxPositions(POSITIONS), backend, dtype, 5);
    }

    /// Saves `model` with the tokenizer into `folder`.
    public static Path save(Model model, Path folder) {
        try {
            HfModels.save(model, folder);
            Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
            return folder;
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    /// Writes `rows` as JSON Lines.
    public static Path write(Path file, List<Row.Classify> rows) {
        StringBuilder lines = new StringBuilder();
        rows.forEach(r -> lines.append("{\"text\": \"%s\", %s\"label\": \"%s\"}%n"
                .formatted(
                        r.text(),
                        r.textPair() == null ? "" : "\"text_pair\": \"%s\", ".formatted(r.textPair()),
                        r.label())));
        try {
            return Files.writeString(file, lines);
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }
}
