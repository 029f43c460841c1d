/// Transformers under their own families' module names: the names that Hugging Face files, target lists and adapters
/// use.
///
/// [Model] is what the tuners and the trainer see: blocks with slots, a token embedding, a forward and a loss. Adapters
/// meet a model in four slots only: a linear (or norm, or embedding) layer ([dev.loran.engine.nn.AdaptedLayer]), the
/// attention's prefix and a sublayer's output ([Block]), and virtual tokens in front of the embedded text ([Model]).
@NullMarked
package dev.loran.peft.model;

import org.jspecify.annotations.NullMarked;
