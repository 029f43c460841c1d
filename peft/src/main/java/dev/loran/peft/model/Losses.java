package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Linear;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The losses of a model's heads; each is a scalar.
public final class Losses {
    private Losses() {}

    /// The mean over all elements of −y · log σ(x) − (1 − y) · log σ(−x), for logits x and targets y, both (B, labels);
    /// torch's `BCEWithLogitsLoss`. It is computed as softplus(x) − x · y, where softplus(x) is the cross-entropy of
    /// the first of two classes with the logits 0 and x, which does not overflow.
    public static Tensor binaryCrossEntropy(Tensor logits, Tensor targets) {
        Shape s = logits.shape();
        requireShape("binaryCrossEntropy", s, targets);
        int n = Math.toIntExact(s.size());
        Tensor x = logits.reshape(n, 1);
        Tensor zero = Tensor.zeros(x.backend(), x.dtype(), n, 1);
        Tensor first = Tensor.full(x.backend(), DType.I32, 0, n);
        Tensor softplus =
                Functional.crossEntropy(Functional.concat(List.of(zero, x), 1), first, Functional.IGNORE_INDEX);
        return softplus.sub(logits.mul(Functional.cast(targets, x.dtype())).mean());
    }

    /// Σ wᵢⱼ · −log softmax(logits)ᵢⱼ. If w has one entry in each row, at its class, and they sum to 1, it is torch's
    /// `CrossEntropyLoss(weight)`: the weighted mean.
    ///
    /// @param logits (B, labels)
    /// @param weights (B, labels)
    public static Tensor weightedCrossEntropy(Tensor logits, Tensor weights) {
        requireShape("weightedCrossEntropy", logits.shape(), weights);
        int n = logits.shape().dim(0);
        Tensor largest = max(logits).reshape(n, 1);
        Tensor sums = Functional.unary(UnaryFn.EXP, logits.sub(largest)).sum(1).reshape(n, 1);
        Tensor logSums = largest.add(Functional.unary(UnaryFn.LOG, sums));
        return logSums.sub(logits).mul(Functional.cast(weights, logits.dtype())).sum();
    }

    /// The largest of each row of x (B, n): (B, 1).
    private static Tensor max(Tensor x) {
        Tensor rest = x;
        for (int n = x.shape().dim(1); n > 1; n = rest.shape().dim(1)) {
            int half = n / 2;
            Tensor low = rest.slice(1, 0, half);
            Tensor larger =
                    low.add(Functional.relu(rest.slice(1, half, 2 * half).sub(low)));
            rest = n % 2 == 0 ? larger : Functional.concat(List.of(larger, rest.slice(1, n - 1, n)), 1);
        }
        return rest;
    }

    /// The mean over all elements of −p · y · log σ(x) − (1 − y) · log σ(−x), for logits x and targets y, both (B,
    /// labels), and weights p of what applies: torch's `BCEWithLogitsLoss(pos_weight)`.
    ///
    /// @param factors 1 + (p − 1) · y, (B, labels)
    public static Tensor weightedBinaryCrossEntropy(Tensor logits, Tensor targets, Tensor factors) {
        requireShape("weightedBinaryCrossEntropy", logits.shape(), targets);
        requireShape("weightedBinaryCrossEntropy", logits.shape(), factors);
        // (1 − y) · x + factor · softplus(−x), and softplus(−x) = (|x| − x) / 2 + log(1 + exp(−|x|)), whose gradient at
        // 0 is right with that of |x| being 0 there.
        Tensor size = Functional.unary(UnaryFn.ABS, logits);
        Tensor small = Functional.unary(UnaryFn.EXP, size.scale(-1));
        Tensor one = Tensor.full(logits.backend(), logits.dtype(), 1, 1);
        Tensor softplus = size.sub(logits).scale(0.5).add(Functional.unary(UnaryFn.LOG, small.add(one)));
        Tensor left = logits.sub(logits.mul(Functional.cast(targets, logits.dtype())));
        return left.add(softplus.mul(Functional.cast(factors, logits.dtype()))).mean();
    }

    /// The mean over all elements of (x − y)², for outputs x (B, n) and numbers y (B, n), or (B) for n = 1.
    public static Tensor squaredError(Tensor outputs, Tensor numbers) {
        Shape s = outputs.shape();
        Tensor y = s.dim(1) == 1 && numbers.shape().rank() == 1 ? numbers.reshape(s.dims()) : numbers;
        requireShape("squaredError", s, y);
        Tensor error = outputs.sub(Functional.cast(y, outputs.dtype()));
        return error.mul(error).mean();
    }

    /// The loss of class scores as [Model#loss] describes it.
    ///
    /// @param logits (B, labels), or (B, P + T, labels) for classes of tokens
    /// @param config the model's config, which may name a `problem_type`
    static Tensor classes(Tensor logits, Tensor labels, boolean ofTokens, @Nullable ObjectNode config) {
        if (ofTokens) {
            int virtual = logits.shape().dim(1) - labels.shape().dim(1);
            Tensor all = virtual == 0
                    ? labels
                    : Functional.concat(List.of(ignored(labels, labels.shape().dim(0), virtual), labels), 1);
            return Functional.crossEntropy(logits, all, Functional.IGNORE_INDEX);
        }
        return switch (Problem.of(config, logits.shape().dim(1), labels)) {
            case SINGLE_LABEL -> Functional.crossEntropy(logits, labels, Functional.IGNORE_INDEX);
            case MULTI_LABEL -> binaryCrossEntropy(logits, labels);
            case REGRESSION -> squaredError(logits, labels);
        };
    }

    /// Mean cross-entropy of the next token: hidden (B, P + T, C), labels (B, T) aligned with the text. The logits of
    /// all positions never exist at once, unless the head has an adapter that does more than replace its weight.
    static Tensor nextToken(Model model, Tensor hidden, Tensor labels) {
        Linear head = model.requireHead();
        Shape s = hidden.shape();
        int virtual = s.dim(1) - labels.shape().dim(-1);
        if (labels.shape().rank() != 2 || labels.shape().dim(0) != s.dim(0) || virtual < 0) {
            throw new ShapeException("loss: labels are " + labels.shape() + " but the hidden states are " + s
                    + " as (B, P + T, C); needs (B, T)");
        }
        // Position j predicts the token at j + 1.
        Tensor last = ignored(labels, s.dim(0), 1);
        Tensor targets = Functional.concat(
                virtual == 0
                        ? List.of(labels.slice(1, 1, s.dim(1)), last)
                        : List.of(ignored(labels, s.dim(0), virtual - 1), labels, last),
                1);
        Adapter<? super Linear> adapter = head.adapter();
        Projection plain = adapter == null ? head.projection(hidden.dtype()) : adapter.projection(head, hidden.dtype());
        return plain != null && plain.bias() == null && plain.lora() == null
                ? Functional.linearCrossEntropy(
                        model.scaled(hidden), plain.weight(), targets, Functional.IGNORE_INDEX, model.logitCap())
                : Functional.crossEntropy(model.tokenLogits(hidden), targets, Functional.IGNORE_INDEX);
    }

    /// The mean cross-entropy of the next token in each text by itself, (B), for ids (B, T) and labels as in
    /// [Model#loss]; 0 for a text without any. The texts go through the head one after the other. If the head itself
    /// trains, it does so again in backward, so that what its gradient needs exists for one text at a time.
    ///
    /// @param mask (B, T) 1 for a token, 0 for padding; null if nothing is padded
    public static Tensor nextTokenOfEach(Model model, Tensor ids, @Nullable Tensor mask, Tensor labels) {
        try (Guard.Use use = model.useOfLoss();
                Scope scope = Scope.open()) {
            Linear head = model.requireHead();
            boolean trains = head.adapter() != null || head.weight().requiresGrad();
            Tensor hidden = model.hidden(ids, mask);
            List<Tensor> losses = new ArrayList<>();
            for (int i = 0; i < labels.shape().dim(0); i++) {
                List<Tensor> text = List.of(hidden.slice(0, i, i + 1), labels.slice(0, i, i + 1));
                Tensor loss = trains
                        ? Autograd.checkpoint(in -> nextToken(model, in.getFirst(), in.getLast()), text)
                        : nextToken(model, text.getFirst(), text.getLast());
                losses.add(loss.reshape(1));
            }
            return scope.keep(Functional.concat(losses, 0));
        }
    }

    private static Tensor ignored(Tensor like, int rows, int cols) {
        return Tensor.full(like.backend(), DType.I32, Functional.IGNORE_INDEX, rows, cols);
    }

    private static void requireShape(String what, Shape needed, Tensor found) {
        if (!found.shape().equals(needed)) {
            throw new ShapeException(what + ": targets are " + found.shape() + ", needs " + needed);
        }
    }
}
