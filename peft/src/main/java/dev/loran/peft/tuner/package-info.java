/// The fine-tuning methods: one method, one file, named after its configuration, with its layer and its paper.
///
/// **Reading order**: [PeftConfig] (what can be asked for) → [LoraConfig] (one method whole) → [Tuner] (a method
/// attached to a model under a name) → [PeftModel] (a model with its adapters) → [AdapterFiles] (Hugging Face peft's
/// files).
///
/// A further method is its file and a line in [Methods]; one of your own is a [CustomPeft]. Which modules a method
/// adapts where nobody names them is said by the model's [dev.loran.peft.model.Family]. A configuration's field stands
/// in its record, where it is read with its default, and where it is written: `defaults()` and the withers go through
/// these.
///
/// Names are peft's: `base_model.model.` and the module's own name, the adapter's name (`default`) as a segment of each
/// parameter, without it in files.
@NullMarked
package dev.loran.peft.tuner;

import org.jspecify.annotations.NullMarked;
