package dev.loran.peft.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// Rows padded to one length, as plain arrays in row-major order. The arrays are the batch's own and are not
/// copied.
///
/// @param inputIds (B, T) token ids; the padding token after a row's end
/// @param attentionMask (B, T) 1 for a token, 0 for padding
/// @param tokenTypes (B, T) the types of the tokens, by which a model tells the texts of a pair apart
///     (`token_type_ids`); null where all are 0
/// @param targets what the loss compares with; the task knows their meaning
/// @param rows which rows of the [Examples] these are
/// @param batchSize B, how many texts: as many as rows, unless rows have several texts each, which then follow each
///     other
/// @param length T
/// @param tokens how many of the B · T ids are not padding
/// @param lossTerms how many terms the loss is the mean of: rows as a rule, for a language model the labels that
///     are not ignored and have a token before them. The weight of this batch where gradients are accumulated
///     over several
public record Batch(
        int[] inputIds,
        int[] attentionMask,
        int @Nullable [] tokenTypes,
        List<Target> targets,
        int[] rows,
        int batchSize,
        int length,
        int tokens,
        int lossTerms) {
    /// The label of a position that has no part in the loss, as in torch's `ignore_index`.
    public static final int IGNORE = -100;

    public Batch {
        targets = List.copyOf(targets);
    }

    /// Tokens of type 0 alone, with one target of whole numbers, a label for each row or each token.
    public Batch(
            int[] inputIds,
            int[] attentionMask,
            int[] labels,
            int[] rows,
            int batchSize,
            int length,
            int tokens,
            int lossTerms) {
        this(
                inputIds,
                attentionMask,
                null,
                labels(labels, batchSize, length),
                rows,
                batchSize,
                length,
                tokens,
                lossTerms);
    }

    private static List<Target> labels(int[] values, int batchSize, int length) {
        return List.of(
                values.length == batchSize
                        ? new Target.Ints(values, batchSize)
                        : new Target.Ints(values, batchSize, length));
    }

    /// The first target where that is of whole numbers: class ids (B), or token ids (B, T), aligned with `inputIds` as
    /// Hugging Face aligns them (position t is the target of the logits at t - 1) with [#IGNORE] where no loss is due.
    ///
    /// @throws IllegalStateException where it is not
    public int[] labels() {
        if (!targets.isEmpty() && targets.getFirst() instanceof Target.Ints ints) {
            return ints.values();
        }
        throw new IllegalStateException("labels: the targets of this batch are others: " + targets);
    }

    /// The given rows, padded to the longest of them, or further to a multiple.
    static Batch of(Examples examples, int[] rows, int padToMultipleOf) {
        List<Example.Text> texts = new ArrayList<>();
        for (int row : rows) {
            texts.addAll(examples.row(row).texts());
        }
        int longest = 0;
        for (Example.Text text : texts) {
            longest = Math.max(longest, text.ids().length);
        }
        int length = padded(longest, padToMultipleOf, examples.maxLength());
        RowForm.Targets targets = examples.form().targets(examples, rows, length);
        return of(texts, targets, rows, length, examples.padId());
    }

    /// A batch that asks for all the memory that `rows` rows of `length` ids may need: all of it counts.
    ///
    /// @param typed whether tokens have types
    public static Batch dummy(RowForm form, int rows, int length, boolean typed) {
        Examples copies = Examples.copies(form, form.dummy(length), rows, length);
        Batch b = of(copies, IntStream.range(0, rows).toArray(), 1);
        int[] types = typed ? new int[b.inputIds.length] : b.tokenTypes;
        return new Batch(
                b.inputIds, b.attentionMask, types, b.targets, b.rows, b.batchSize, b.length, b.tokens, b.lossTerms);
    }

    /// The same as if one of its ids were padding, so that the mask counts.
    public Batch masked() {
        return new Batch(
                inputIds, attentionMask, tokenTypes, targets, rows, batchSize, length, inputIds.length - 1, lossTerms);
    }

    private static Batch of(List<Example.Text> texts, RowForm.Targets targets, int[] rows, int length, int padId) {
        int[] inputIds = new int[texts.size() * length];
        int[] attentionMask = new int[inputIds.length];
        int[] tokenTypes = null;
        int tokens = 0;
        Arrays.fill(inputIds, padId);
        for (int b = 0; b < texts.size(); b++) {
            int[] ids = texts.get(b).ids();
            System.arraycopy(ids, 0, inputIds, b * length, ids.length);
            Arrays.fill(attentionMask, b * length, b * length + ids.length, 1);
            tokens += ids.length;
            int[] types = texts.get(b).types();
            if (types != null) {
                tokenTypes = tokenTypes == null ? new int[inputIds.length] : tokenTypes;
                System.arraycopy(types, 0, tokenTypes, b * length, types.length);
            }
        }
        return new Batch(
                inputIds,
                attentionMask,
                tokenTypes,
                targets.values(),
                rows,
                texts.size(),
                length,
                tokens,
                targets.lossTerms());
    }

    /// A length rounded up to a multiple, but not beyond the most that the model may see.
    static int padded(int length, int padToMultipleOf, int maxLength) {
        return Math.min(Math.ceilDiv(length, padToMultipleOf) * padToMultipleOf, maxLength);
    }
}
