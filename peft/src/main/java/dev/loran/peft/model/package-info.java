/// What transformers are made of: modules with the names that their families give them, which Hugging Face files,
/// target lists and adapters also use.
///
/// Reading order: [Transformer] (what tuners see: blocks with slots, a token embedding, a forward pass) and [Model]
/// (with a head, outputs and a loss), [Block] with its sublayers ([Attention], [FeedForward]), then a family:
/// [dev.loran.peft.model.decoder] and [dev.loran.peft.model.encoder] hold each in one file with its metadata, sizes,
/// block and head. [KvCache] continues texts. [dev.loran.peft.hf.HfModels] reads and writes Hugging Face's model
/// folders.
///
/// Adding a family takes its file, with a [Family] in it, and a line in [dev.loran.peft.hf.HfModels#FAMILIES]. It makes
/// its layers with [Parts], and its blocks of them ([ResidualBlock] or its own), as a family outside this project can.
///
/// Adapters interact with a model only through four slots: a linear (or norm, or embedding) layer
/// ([dev.loran.engine.nn.AdaptedLayer]), the attention's prefix ([Model#prefixes]), a sublayer's output ([Block]), and
/// virtual tokens before the embedded text ([Model#virtualTokens]).
@NullMarked
package dev.loran.peft.model;

import org.jspecify.annotations.NullMarked;
