package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import java.util.PriorityQueue;
import org.jspecify.annotations.Nullable;

/// Where [Op#backward] puts gradients. Each tensor that requires a gradient has a slot; the first contribution is
/// written, later ones are added.
public final class Gradients {
    /// Nodes that have a gradient and wait to be visited: consumers before producers, and first come, first served
    /// within a level. The order of additions, and thus their rounding, must not depend on what else is waiting;
    /// otherwise a checkpointed segment would give different bits.
    private final PriorityQueue<Node> queue =
            new PriorityQueue<>(Comparator.comparingInt((Node n) -> -n.level).thenComparingInt(n -> n.turn));

    private int turns;

    private final List<Tensor> leaves = new ArrayList<>();
    /// Inputs whose slots were handed to the current operation.
    private final List<Tensor> given = new ArrayList<>();

    private final List<Late> late = new ArrayList<>();

    /// A second contribution to an input that appears twice in one operation; it is added once the operation is done
    /// with both.
    private record Late(Tensor input, Buffer gradient) {}

    Gradients() {}

    /// The next node to visit; null at the end.
    @Nullable
    Node poll() {
        return queue.poll();
    }

    /// Whether `input` requires a gradient; if not, nothing may be computed for it.
    public boolean wants(Tensor input) {
        return input.requiresGrad();
    }

    /// The slot of `input`, which must be wanted. The caller writes all of it; the order in which several slots are
    /// written does not matter. Each call is one contribution.
    public Gradient into(Tensor input) {
        Tensor grad = slot(input);
        if (given.contains(input)) {
            Buffer apart = fresh(input);
            late.add(new Late(input, apart));
            return new Gradient(apart, false);
        }
        given.add(input);
        if (grad == null) {
            Buffer first = fresh(input);
            setSlot(input, Tensor.own(input.shape(), first));
            return new Gradient(first, false);
        }
        return new Gradient(unshared(input, grad), true);
    }

    /// [#into] if `input` is wanted, else null.
    public @Nullable Gradient intoIfWanted(Tensor input) {
        return wants(input) ? into(input) : null;
    }

    /// Adds `gradient` (row-major, the size of `input`) to the slot of `input`. The first contribution is shared, not
    /// copied, so `gradient` must not be written to afterwards. The caller keeps its own reference.
    public void pass(Tensor input, Buffer gradient) {
        Tensor grad = slot(input);
        if (grad == null) {
            setSlot(input, Tensor.own(input.shape(), gradient.retain()));
        } else if (given.contains(input)) {
            late.add(new Late(input, gradient.retain()));
        } else {
            input.backend().axpby(unshared(input, grad), gradient, 1, 1);
        }
    }

    /// Ends the current operation's use of its slots and adds the deferred contributions.
    void next() {
        given.clear();
        while (!late.isEmpty()) {
            Late l = late.getLast();
            pass(l.input, l.gradient);
            late.removeLast().gradient.release();
        }
    }

    /// Called at the end of the backward pass: gives each leaf its own copy of a gradient that is still shared.
    void settle() {
        for (Tensor leaf : List.copyOf(leaves)) {
            unshared(leaf, Objects.requireNonNull(leaf.grad()));
        }
    }

    /// Releases what nobody owns, even if the backward pass failed; a leaf that was closed keeps no gradient.
    void drop() {
        late.forEach(l -> l.gradient.release());
        queue.forEach(Node::dropGrad);
        leaves.stream().filter(Tensor::isClosed).forEach(Tensor::zeroGrad);
    }

    private static Buffer fresh(Tensor input) {
        return input.backend().allocate(input.dtype(), input.shape().size());
    }

    /// The memory of `grad` or, if it is shared with others through `pass`, of a copy that replaces it.
    private Buffer unshared(Tensor input, Tensor grad) {
        if (grad.buffer().isUnique()) {
            return grad.buffer();
        }
        try (Scratch scratch = new Scratch(input.backend())) {
            Buffer copy = scratch.like(grad.buffer());
            input.backend().axpby(copy, grad.buffer(), 1, 0);
            setSlot(input, Tensor.own(input.shape(), copy.retain()));
        }
        grad.close();
        return Objects.requireNonNull(slot(input)).buffer();
    }

    private static @Nullable Tensor slot(Tensor input) {
        Node node = input.node();
        return node == null ? input.grad() : node.grad;
    }

    private void setSlot(Tensor input, Tensor grad) {
        Node node = input.node();
        if (node == null) {
            input.setGrad(grad);
            leaves.add(input);
        } else {
            if (node.grad == null) {
                node.turn = turns++;
                queue.add(node);
            }
            node.grad = grad;
        }
    }
}
