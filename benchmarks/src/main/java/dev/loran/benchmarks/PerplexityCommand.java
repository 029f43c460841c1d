package dev.loran.benchmarks;

import dev.loran.engine.backend.Backend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/// `./loran bench perplexity`: a language model's perplexity on held-out texts beside that of n-grams of its training
/// texts, on the same tokens.
@Command(
        name = "perplexity",
        mixinStandardHelpOptions = true,
        description = {
            "Compares a causal model with an n-gram model (interpolated modified Kneser-Ney) of its training texts, by",
            "the perplexity of held-out texts. Both read the same packed rows, in which every token but the first is",
            "predicted from those before it in the row."
        })
final class PerplexityCommand implements Callable<Integer> {
    private static final int BATCH = 16;

    @Option(names = "--model", required = true, description = "a model folder, or loran-tiny")
    private String model;

    @Option(names = "--train", required = true, description = "JSON Lines of the training texts, {\"text\"}")
    private Path train;

    @Option(names = "--eval", required = true, description = "JSON Lines of the held-out texts")
    private Path eval;

    @Option(names = "--order", description = "tokens of the longest n-grams (${DEFAULT-VALUE})")
    private int order = 5;

    @Option(
            names = "--max-length",
            description = "tokens of a row; 0 for as many as the model has positions (${DEFAULT-VALUE})")
    private int maxLength;

    @Option(names = "--threads", description = "threads; 0 for all processors (${DEFAULT-VALUE})")
    private int threads;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Override
    public Integer call() {
        Path folder = Catalogue.folder(model).orElse(Path.of(model));
        int workers = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        try (Backend backend = Backends.best(workers);
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model loaded = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(loaded, 0)) {
            int length = maxLength == 0 ? loaded.facts().maxPositions() : maxLength;
            Examples.Options packed = Examples.Options.of(length).withConcatenate(true);
            Examples heldOut = Examples.read(eval, new LmTask(), tokenizer, packed, null);
            double own;
            try (TaskModel learner = TaskModel.of(peft, TaskCard.of(new LmTask(), length), 0)) {
                own = Evaluation.of(learner, heldOut, BATCH).loss();
            }
            Examples texts = Examples.read(train, new LmTask(), tokenizer, packed, null);
            double baseline = ngrams(texts, heldOut, tokenizer.vocabSize());
            report(own, baseline, heldOut);
        }
        return 0;
    }

    /// The mean loss of the n-gram model.
    private double ngrams(Examples texts, Examples heldOut, int vocabulary) {
        int[] tokens = new int[(int) count(texts)];
        int at = 0;
        for (int row = 0; row < texts.size(); row++) {
            int[] ids = texts.ids(row);
            System.arraycopy(ids, 0, tokens, at, ids.length);
            at += ids.length;
        }
        NgramModel ngrams = new NgramModel(order, vocabulary, tokens);
        double sum = 0;
        for (int row = 0; row < heldOut.size(); row++) {
            int[] ids = heldOut.ids(row);
            for (int i = 1; i < ids.length; i++) {
                sum -= Math.log(ngrams.probability(ids, 0, i));
            }
        }
        return sum / predicted(heldOut);
    }

    private static long count(Examples rows) {
        long tokens = 0;
        for (int row = 0; row < rows.size(); row++) {
            tokens += rows.length(row);
        }
        return tokens;
    }

    private static long predicted(Examples rows) {
        return count(rows) - rows.size();
    }

    private void report(double own, double baseline, Examples heldOut) {
        long tokens = predicted(heldOut);
        System.out.printf(
                Locale.ROOT,
                "perplexity of %,d held-out tokens: %s %.2f, %d-grams %.2f%n",
                tokens,
                model,
                Math.exp(own),
                order,
                Math.exp(baseline));
        if (json) {
            System.out.printf(
                    Locale.ROOT,
                    "{\"tokens\":%d,\"loss\":%.5f,\"perplexity\":%.3f,\"ngram_order\":%d,\"ngram_loss\":%.5f,"
                            + "\"ngram_perplexity\":%.3f}%n",
                    tokens,
                    own,
                    Math.exp(own),
                    order,
                    baseline,
                    Math.exp(baseline));
        }
    }
}
