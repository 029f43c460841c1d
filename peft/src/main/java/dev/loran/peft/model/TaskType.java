package dev.loran.peft.model;

/// A model's task and the shape of its output, under Hugging Face's names.
public enum TaskType {
    /// One class per text: logits (B, labels).
    SEQ_CLS,
    /// One class per token: logits (B, T, labels).
    TOKEN_CLS,
    /// The next token at each position: logits (B, T, V).
    CAUSAL_LM,
    /// No head: mean-pooled hidden states (B, C).
    FEATURE_EXTRACTION
}
