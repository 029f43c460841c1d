package dev.loran.peft.task;

import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.model.Model;
import java.util.List;
import java.util.function.BiConsumer;

/// The input for generating answers to the prompts of some rows.
///
/// @param model causal, in evaluation mode
/// @param examples the rows in the form in which the loss saw them
/// @param rows the same rows as they were read
/// @param positions the number of positions of the model that are available for text
/// @param batchSize prompts per batch
/// @param maxNewTokens the most tokens of an answer; 0 for as many as the longest target has
/// @param generation how they are generated, but for the number of tokens
/// @param each receives each prompt and target, as texts, and the answer
public record Answering(
        Model model,
        Tokenizer tokenizer,
        Examples examples,
        List<Row> rows,
        int positions,
        int batchSize,
        int maxNewTokens,
        GenerationConfig generation,
        BiConsumer<Row.Generate, Generation.Answer> each) {}
