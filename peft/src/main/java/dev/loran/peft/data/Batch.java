package dev.loran.peft.data;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// Rows padded to one length, as plain arrays in row-major order. The arrays are the batch's own and are not
/// copied.
///
/// @param inputIds (B, T) token ids; the padding token after a row's end
/// @param attentionMask (B, T) 1 for a token, 0 for padding
/// @param tokenTypes (B, T) the types of the tokens, by which a model tells the texts of a pair apart
///     (`token_type_ids`); null where all are 0
/// @param labels what the loss compares with. For [Task#CLASSIFY] (B) class ids; otherwise (B, T), aligned with
///     `inputIds` as Hugging Face aligns them (position t is the target of the logits at t - 1), and [#IGNORE]
///     where no loss is due: in prompts and padding
/// @param rows (B) which rows of the [Examples] these are
/// @param batchSize B
/// @param length T
/// @param tokens how many of the B · T ids are not padding
/// @param lossTerms how many terms the loss is the mean of: rows for [Task#CLASSIFY], otherwise the labels that
///     are not ignored and have a token before them. The weight of this batch where gradients are accumulated
///     over several
public record Batch(
        int[] inputIds,
        int[] attentionMask,
        int @Nullable [] tokenTypes,
        int[] labels,
        int[] rows,
        int batchSize,
        int length,
        int tokens,
        int lossTerms) {
    /// The label of a position that has no part in the loss, as in torch's `ignore_index`.
    public static final int IGNORE = -100;

    /// Tokens of type 0 alone.
    public Batch(
            int[] inputIds,
            int[] attentionMask,
            int[] labels,
            int[] rows,
            int batchSize,
            int length,
            int tokens,
            int lossTerms) {
        this(inputIds, attentionMask, null, labels, rows, batchSize, length, tokens, lossTerms);
    }

    /// The given rows, padded to the longest of them, or further to a multiple.
    static Batch of(Examples examples, int[] rows, int padToMultipleOf) {
        int length = 0;
        int tokens = 0;
        for (int row : rows) {
            length = Math.max(length, examples.length(row));
            tokens += examples.length(row);
        }
        length = padded(length, padToMultipleOf, examples.maxLength());
        int[] inputIds = new int[rows.length * length];
        int[] attentionMask = new int[inputIds.length];
        int[] tokenTypes = null;
        boolean classify = examples.task() == Task.CLASSIFY;
        int[] labels = new int[classify ? rows.length : inputIds.length];
        int lossTerms = classify ? rows.length : 0;
        Arrays.fill(inputIds, examples.padId());
        Arrays.fill(labels, IGNORE);
        for (int b = 0; b < rows.length; b++) {
            int[] ids = examples.ids(rows[b]);
            System.arraycopy(ids, 0, inputIds, b * length, ids.length);
            Arrays.fill(attentionMask, b * length, b * length + ids.length, 1);
            int[] types = examples.tokenTypes(rows[b]);
            if (types != null) {
                tokenTypes = tokenTypes == null ? new int[inputIds.length] : tokenTypes;
                System.arraycopy(types, 0, tokenTypes, b * length, types.length);
            }
            if (classify) {
                labels[b] = examples.label(rows[b]);
            } else {
                int prompt = examples.promptLength(rows[b]);
                System.arraycopy(ids, prompt, labels, b * length + prompt, ids.length - prompt);
                // Nothing predicts a row's first token.
                lossTerms += ids.length - Math.max(prompt, 1);
            }
        }
        return new Batch(inputIds, attentionMask, tokenTypes, labels, rows, rows.length, length, tokens, lossTerms);
    }

    /// A length rounded up to a multiple, but not beyond the most that the model may see.
    static int padded(int length, int padToMultipleOf, int maxLength) {
        return Math.min(Math.ceilDiv(length, padToMultipleOf) * padToMultipleOf, maxLength);
    }
}
