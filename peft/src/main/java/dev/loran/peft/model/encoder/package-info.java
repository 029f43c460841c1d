/// Encoders, a family a file.
///
/// They share [Encoder], a skeleton of embeddings, blocks and head, and most of them [PostNormBlock]; those whose
/// attention depends on distances share [RelativeAttention]. [BertModel] is the one to read first.
@NullMarked
package dev.loran.peft.model.encoder;

import org.jspecify.annotations.NullMarked;
