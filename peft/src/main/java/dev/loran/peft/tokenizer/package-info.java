/// Hugging Face's `tokenizer.json`, read and applied in plain Java.
///
/// **Reading order**: [HfTokenizer] (the file, and a text's way through it), then the stages in the order a text
/// meets them: [AddedTokens] → [Normalizer] ([Charsmap] is SentencePiece's) → [PreTokenizer] ([Regex], [ByteLevel])
/// → [Model] ([Bpe], [Unigram]) → [PostProcessor]; and back by [Decoder].
///
/// A file may come from anybody. Whatever is malformed, and whatever is not supported, ends in a
/// [TokenizerException] that names its place; a pattern or a text that would take too long does, too. The package
/// knows nothing of the rest of Loran.
@NullMarked
package dev.loran.peft.tokenizer;

import org.jspecify.annotations.NullMarked;
