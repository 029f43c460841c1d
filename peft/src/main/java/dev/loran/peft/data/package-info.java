/// From files to batches: rows of JSON Lines, tokens, batches of padded ids, and the pretrained encoders of the
/// catalogue.
///
/// Reading order: [Row] and [RowForm] (what a row is), [RowSource], [Rows] and [Fields] (reading them), [Tokenizer],
/// [Encoding], [Example] and [Examples] (rows as token ids), [DataLoader] and [Batch] (what a training step sees);
/// then [ShippedData], [Catalogue] and [OnnxWeights].
///
/// Batches are plain arrays, ready for any backend. Whatever a user can get wrong in a file or an option ends
/// in one exception, [dev.loran.peft.io.InputException], whose message is one line that says where.
///
/// Dimension letters: B rows of a batch, T tokens of its longest row after padding.
@NullMarked
package dev.loran.peft.data;

import org.jspecify.annotations.NullMarked;
