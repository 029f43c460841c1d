/// The fine-tuning methods: one method, one file, named after its configuration, with its layer and its paper.
///
/// **Reading order**: [PeftConfig] (what can be asked for) → [LoraConfig] (one method whole) → [Tuner] (a method attached to
/// a model under a name) → [PeftModel] (a model with its adapters) → [AdapterFiles] (Hugging Face peft's files).
///
/// Names are peft's: `base_model.model.` and the module's own name, the adapter's name (`default`) as a segment of each
/// parameter, without it in files.
@NullMarked
package dev.loran.peft.tuner;

import org.jspecify.annotations.NullMarked;
