/// From files to batches: rows of JSON Lines, tokens, batches of padded ids, and the pretrained encoders of the
/// catalogue.
///
/// Reading order: [Row] and [RowForm] (what a row is), [RowSource], [Rows] and [Fields] (reading them), [Tokenizer],
/// [Encoding], [Example] and [Examples] (rows as token ids), [DataLoader] and [Batch] (the input of a training step);
/// then [ShippedData], [Catalogue] and [OnnxWeights].
///
/// Batches are plain arrays, suitable for any backend. Every user error in a file or an option leads to the same
/// exception, [dev.loran.peft.io.InputException], whose message is one line that says where the error is.
///
/// Dimension letters: B rows of a batch, T tokens of its longest row, after padding.
@NullMarked
package dev.loran.peft.data;

import org.jspecify.annotations.NullMarked;
