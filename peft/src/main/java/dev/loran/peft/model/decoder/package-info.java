/// Causal models, a family a file.
///
/// They share [Decoder], a skeleton of embedding, blocks, norm and head. Those that descend from Llama put [LlamaParts]
/// together, so that a slightly different one is mostly metadata ([Qwen2Model]); [Gpt2Model] and [GptNeoXModel] show
/// what others take. [SeoTransformer] is the one that Loran began with.
@NullMarked
package dev.loran.peft.model.decoder;

import org.jspecify.annotations.NullMarked;
