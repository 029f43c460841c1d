package dev.loran.peft.task;

import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import java.util.List;

/// A model that is to answer the prompts of rows.
///
/// @param model causal, in evaluation mode
/// @param examples the rows as the loss saw them
/// @param rows the same as they were read
/// @param positions of the model that are there for texts
/// @param batchSize prompts that pass at once
/// @param maxNewTokens the most tokens of an answer; 0 for as many as the longest target has
public record Answering(
        Model model,
        Tokenizer tokenizer,
        Examples examples,
        List<Row> rows,
        int positions,
        int batchSize,
        int maxNewTokens) {}
