/// The fine-tuning methods: one file per method, named after its configuration, with its layer and its paper.
///
/// **Reading order**: [PeftConfig] (the available options) → [LoraConfig] (one complete method) → [Tuner] (a method
/// attached to a model under a name) → [PeftModel] (a model with its adapters) → [AdapterFiles] (Hugging Face peft's
/// files).
///
/// Adding a method takes its file and a line in [Methods]; user-defined ones implement [PeftConfig] as well. The
/// model's [dev.loran.peft.model.Family] determines which modules a method adapts by default. Each field of a
/// configuration appears in its record, where it is read with its default, and where it is written: `defaults()` and
/// the `with…` methods are based on these.
///
/// Names are peft's: `base_model.model.` and the module's own name, with the adapter's name (`default`) as a segment of
/// each parameter's name, which is omitted in files.
@NullMarked
package dev.loran.peft.tuner;

import org.jspecify.annotations.NullMarked;
