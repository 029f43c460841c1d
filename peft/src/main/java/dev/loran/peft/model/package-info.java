/// Transformers under their own families' module names: the names that Hugging Face files, target lists and adapters
/// use.
///
/// Reading order: [Transformer] (what tuners see: blocks with slots, a token embedding, a forward) and [Model] (with a
/// head, answers and a loss), [Block], then a family ([LlamaModel], [Gpt2Model], [BertModel], [SeoTransformer]), each
/// in one file: what is known of it, sizes, block, head. [KvCache] goes on from a text. [HfModels] reads and writes
/// Hugging Face's model folders.
///
/// A further family is its file, with a [Family] in it, and a line in [HfModels#FAMILIES]. Decoders have a skeleton
/// ([Decoder]) and a block ([PreNormBlock]) made of sublayers ([Attention], [FeedForward]), so that one that differs
/// little is mostly a table ([Qwen3Model]); BERT's kind of encoder has [PostNormBlock].
///
/// Adapters meet a model in four slots only: a linear (or norm, or embedding) layer
/// ([dev.loran.engine.nn.AdaptedLayer]), the attention's prefix ([Model#prefixes]), a sublayer's output ([Block]), and
/// virtual tokens in front of the embedded text ([Model#virtualTokens]).
@NullMarked
package dev.loran.peft.model;

import org.jspecify.annotations.NullMarked;
