/// Transformers with their families' own module names, which Hugging Face files, target lists and adapters also use.
///
/// Reading order: [Transformer] (what tuners see: blocks with slots, a token embedding, a forward pass) and [Model]
/// (with a head, outputs and a loss), [Block], then a family ([LlamaModel], [Gpt2Model], [BertModel],
/// [SeoTransformer]), each in one file with its metadata, sizes, block and head. [KvCache] continues texts. [HfModels]
/// reads and writes Hugging Face's model folders.
///
/// Adding a family takes its file, with a [Family] in it, and a line in [HfModels#FAMILIES]. Decoders share a skeleton
/// ([Decoder]) and blocks ([ResidualBlock], [ParallelBlock]) made of sublayers ([Attention], [FeedForward]); the many
/// that descend from Llama put [LlamaParts] together, so that a slightly different one is mostly metadata
/// ([Qwen2Model]). Encoders share [Encoder], most of them [PostNormBlock], and those whose attention depends on
/// distances [RelativeAttention].
///
/// Adapters interact with a model only through four slots: a linear (or norm, or embedding) layer
/// ([dev.loran.engine.nn.AdaptedLayer]), the attention's prefix ([Model#prefixes]), a sublayer's output ([Block]), and
/// virtual tokens before the embedded text ([Model#virtualTokens]).
@NullMarked
package dev.loran.peft.model;

import org.jspecify.annotations.NullMarked;
