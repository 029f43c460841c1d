/// Transformers under their own families' module names: the names that Hugging Face files, target lists and adapters
/// use.
///
/// Reading order: [Model] (what tuners and the trainer see: blocks with slots, a token embedding, a forward and a loss),
/// [Block], then a family ([LlamaModel], [Gpt2Model], [BertModel], [SeoTransformer]), each in one file: sizes, parameters,
/// block, head. [KvCache] goes on from a text. [HfModels] reads and writes Hugging Face's model folders.
///
/// Adapters meet a model in four slots only: a linear (or norm, or embedding) layer
/// ([dev.loran.engine.nn.AdaptedLayer]), the attention's prefix ([Model#prefixes]), a sublayer's output ([Block]), and
/// virtual tokens in front of the embedded text ([Model#virtualTokens]).
@NullMarked
package dev.loran.peft.model;

import org.jspecify.annotations.NullMarked;
