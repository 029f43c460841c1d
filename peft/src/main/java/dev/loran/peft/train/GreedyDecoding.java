package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.model.Model;
import java.util.Arrays;
import java.util.OptionalInt;

/// Text from a causal model, the likeliest token each time. The whole text runs again for each token: for a look at some
/// answers, not for serving.
public final class GreedyDecoding {
    private GreedyDecoding() {}

    /// The ids that follow `prompt`: at most `maxNew`, up to the end token, which is left out.
    ///
    /// @param model in evaluation mode, with room for the prompt and `maxNew` more
    public static int[] continuation(Model model, int[] prompt, int maxNew, OptionalInt endToken) {
        int[] ids = Arrays.copyOf(prompt, prompt.length + maxNew);
        int length = prompt.length;
        try (Autograd.Mode mode = Autograd.noGrad()) {
            for (; length < ids.length; length++) {
                int next = likeliest(model, Arrays.copyOf(ids, length));
                if (endToken.isPresent() && next == endToken.getAsInt()) {
                    break;
                }
                ids[length] = next;
            }
        }
        return Arrays.copyOfRange(ids, prompt.length, length);
    }

    private static int likeliest(Model model, int[] ids) {
        try (Scope scope = Scope.open()) {
            Tensor logits = model.logits(Tensor.ofInts(model.backend(), ids, 1, ids.length), null);
            int positions = logits.shape().dim(1);
            float[] last = logits.slice(1, positions - 1, positions).toFloats();
            int best = 0;
            for (int i = 1; i < last.length; i++) {
                best = last[i] > last[best] ? i : best;
            }
            return best;
        }
    }
}
