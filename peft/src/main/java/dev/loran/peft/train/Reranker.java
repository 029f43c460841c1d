package dev.loran.peft.train;

import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.task.RerankTask;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/// Ranks passages by how well they answer a query, by a model of task `rerank`.
///
/// ```java
/// for (Reranker.Ranked best : Reranker.rank(reranker, tokenizer, "red shoes", passages, 32)) {
///     System.out.println(best.score() + " " + best.passage());
/// }
/// ```
public final class Reranker {
    private Reranker() {}

    /// @param index the place of the passage among those given
    /// @param score from 0 to 1
    public record Ranked(int index, String passage, double score) {}

    /// All passages, those that answer the query best first; of equal scores in the order given.
    ///
    /// @param batchSize passages per batch
    /// @throws IllegalArgumentException if the model is for another task
    public static List<Ranked> rank(
            TaskModel model, Tokenizer tokenizer, String query, List<String> passages, int batchSize) {
        if (!(model.card().task() instanceof RerankTask)) {
            throw new IllegalArgumentException(
                    "reranker: the model is for task " + model.card().task().name() + ", not rerank");
        }
        List<Ranked> ranked = new ArrayList<>();
        RowPredictor predictor = new RowPredictor(
                model,
                tokenizer,
                batchSize,
                answer -> ranked.add(new Ranked(
                        ranked.size(),
                        passages.get(ranked.size()),
                        answer.get("score").doubleValue())));
        passages.forEach(passage -> predictor.add(new Row.Unlabelled(query, passage)));
        predictor.finish();
        ranked.sort(Comparator.comparingDouble(Ranked::score).reversed());
        return ranked;
    }
}
