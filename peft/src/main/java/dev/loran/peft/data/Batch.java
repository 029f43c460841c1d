package dev.loran.peft.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// Rows padded to a common length, as plain arrays in row-major order. The batch owns the arrays; they are not copied.
///
/// @param inputIds (B, T) token ids; the padding token after the end of a row
/// @param attentionMask (B, T) 0 for padding, 1 for any other token, or the number of its text in a row that holds
///     several that do not attend to each other
/// @param tokenTypes (B, T) the types of the tokens, by which a model distinguishes the texts of a pair
///     (`token_type_ids`); null if all are 0
/// @param targets the targets of the loss; their meaning depends on the task
/// @param rows the indices of these rows in the [Examples]
/// @param batchSize B, the number of texts: one per row, unless rows have several texts each, which are then
///     consecutive
/// @param length T
/// @param tokens how many of the B · T ids are not padding
/// @param lossTerms the number of terms that the loss averages: usually the rows; for a language model, the labels that
///     are not ignored and have a token before them. It is the weight of this batch when gradients are accumulated over
///     several
public record Batch(
        int[] inputIds,
        int[] attentionMask,
        int @Nullable [] tokenTypes,
        List<Target> targets,
        int[] rows,
        int batchSize,
        int length,
        int tokens,
        double lossTerms) {
    /// The label of a position that does not contribute to the loss, like torch's `ignore_index`.
    public static final int IGNORE = -100;

    public Batch {
        targets = List.copyOf(targets);
    }

    /// A batch in which all tokens have type 0, with one integer target: a label for each row or each token.
    public Batch(
            int[] inputIds,
            int[] attentionMask,
            int[] labels,
            int[] rows,
            int batchSize,
            int length,
            int tokens,
            double lossTerms) {
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

    /// The first target, if it is an integer one: class ids (B), or token ids (B, T), aligned with `inputIds` as in
    /// Hugging Face (position t is the target of the logits at t - 1), with [#IGNORE] where there is no loss.
    ///
    /// @throws IllegalStateException if it is not
    public int[] labels() {
        if (!targets.isEmpty() && targets.getFirst() instanceof Target.Ints ints) {
            return ints.values();
        }
        throw new IllegalStateException("labels: the targets of this batch are others: " + targets);
    }

    /// The given rows, padded to the longest of them and then to a multiple of `padToMultipleOf`.
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

    /// A batch that needs as much memory as any `rows` rows of `length` ids can: every position counts.
    ///
    /// @param labels the classes; null if rows have none
    /// @param typed whether tokens have types
    public static Batch dummy(RowForm form, @Nullable Labels labels, int rows, int length, boolean typed) {
        Examples copies = Examples.copies(form, labels, form.dummy(length), rows, length);
        Batch b = of(copies, IntStream.range(0, rows).toArray(), 1);
        int[] types = typed ? new int[b.inputIds.length] : b.tokenTypes;
        return new Batch(
                b.inputIds, b.attentionMask, types, b.targets, b.rows, b.batchSize, b.length, b.tokens, b.lossTerms);
    }

    /// The same batch, treated as if each row held two texts.
    public Batch packed() {
        int[] texts = new int[attentionMask.length];
        Arrays.setAll(texts, i -> i % length < length / 2 ? 1 : 2);
        return new Batch(inputIds, texts, tokenTypes, targets, rows, batchSize, length, tokens, lossTerms);
    }

    /// Whether a row holds several texts that do not attend to each other.
    public boolean isPacked() {
        return Arrays.stream(attentionMask).anyMatch(text -> text > 1);
    }

    /// (B, T) the position of each token in its text, counted from 0.
    public int[] positions() {
        int[] at = new int[attentionMask.length];
        for (int i = 0; i < at.length; i++) {
            at[i] = i % length > 0 && attentionMask[i] == attentionMask[i - 1] ? at[i - 1] + 1 : 0;
        }
        return at;
    }

    /// The same batch, treated as if one of its ids were padding, so that the mask is used.
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
        int[] numbered = targets.texts();
        return new Batch(
                inputIds,
                numbered == null ? attentionMask : numbered,
                tokenTypes,
                targets.values(),
                rows,
                texts.size(),
                length,
                tokens,
                targets.lossTerms());
    }

    /// A length rounded up to a multiple, but at most the maximum that the model can process.
    static int padded(int length, int padToMultipleOf, int maxLength) {
        return Math.min(Math.ceilDiv(length, padToMultipleOf) * padToMultipleOf, maxLength);
    }
}
