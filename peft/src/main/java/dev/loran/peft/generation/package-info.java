/// Text from a causal model.
///
/// Reading order: [Generation] (prompts to answers, on a key-value cache) → [GenerationConfig] (how, and when it ends) →
/// [Candidates] (which token comes next) → [TextLimit] (answers of at most so many characters) → [RougeL] (how close an
/// answer is to the expected one).
///
/// It knows models and tokenizers, and nothing of tasks.
@NullMarked
package dev.loran.peft.generation;

import org.jspecify.annotations.NullMarked;
