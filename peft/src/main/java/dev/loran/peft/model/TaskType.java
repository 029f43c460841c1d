package dev.loran.peft.model;

/// What a model's head answers, in Hugging Face's words.
public enum TaskType {
    /// One class for a text: logits (B, labels).
    SEQ_CLS,
    /// The next token at each position: logits (B, T, V).
    CAUSAL_LM,
    /// No head: mean-pooled hidden states (B, C).
    FEATURE_EXTRACTION
}
