/// Hugging Face's `tokenizer.json`, read and applied in plain Java.
///
/// **Reading order**: [HfTokenizer] (the file, and the processing of a text), then the stages in order of processing:
/// [AddedTokens] → [Normalizer] ([Charsmap] is SentencePiece's) → [PreTokenizer] ([Regex], [ByteLevel]) → [Model]
/// ([Bpe], [Unigram]) → [PostProcessor]; and [Decoder] for the reverse direction.
///
/// Files may be untrusted. Anything malformed or unsupported causes a [TokenizerException] that names its location; so
/// does a pattern or a text that would take too long. The package does not depend on the rest of Loran.
@NullMarked
package dev.loran.peft.tokenizer;

import org.jspecify.annotations.NullMarked;
