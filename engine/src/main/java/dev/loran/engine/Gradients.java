package dev.loran.engine;

import java.util.PriorityQueue;
import org.jspecify.annotations.Nullable;

/// Where [Op#backward] puts gradients. Each tensor that requires one has a slot; the first contribution is written,
/// later
/// ones are added.
public final class Gradients {
    private final PriorityQueue<Node> queue;

    Gradients(PriorityQueue<Node> queue) {
        this.queue = queue;
    }

    /// A slot's memory, to be written by the caller: overwritten when `accumulate` is false, added to when true.
    public record Target(Buffer buffer, boolean accumulate) {}

    /// Whether `input` takes part in differentiation; if not, nothing may be computed for it.
    public boolean wants(Tensor input) {
        return input.requiresGrad();
    }

    /// The slot of `input`, which must be wanted. The caller fills all of it at once, before asking for another slot of
    /// the
    /// same tensor.
    public Target into(Tensor input) {
        Tensor grad = slot(input);
        if (grad == null) {
            Buffer fresh = input.backend().allocate(input.dtype(), input.shape().size());
            setSlot(input, Tensor.own(input.shape(), fresh));
            return new Target(fresh, false);
        }
        if (!grad.buffer().isUnique()) {
            // Shared with another slot by `pass`: take a copy before adding.
            Buffer copy = input.backend().allocate(input.dtype(), input.shape().size());
            input.backend().axpby(copy, grad.buffer(), 1, 0);
            grad.close();
            setSlot(input, Tensor.own(input.shape(), copy));
            return new Target(copy, true);
        }
        return new Target(grad.buffer(), true);
    }

    /// Adds `gradient` (the size of `input`) to the slot of `input`; the first one is shared, not copied. The caller
    /// keeps
    /// its own count.
    public void pass(Tensor input, Tensor gradient) {
        if (slot(input) == null) {
            setSlot(input, Tensor.own(input.shape(), gradient.buffer().retain()));
        } else {
            Target t = into(input);
            input.backend().axpby(t.buffer(), gradient.buffer(), 1, 1);
        }
    }

    private static @Nullable Tensor slot(Tensor input) {
        Node node = input.node();
        return node == null ? input.grad() : node.grad;
    }

    private void setSlot(Tensor input, Tensor grad) {
        Node node = input.node();
        if (node == null) {
            input.setGrad(grad);
        } else {
            if (node.grad == null) {
                queue.add(node);
            }
            node.grad = grad;
        }
    }
}
