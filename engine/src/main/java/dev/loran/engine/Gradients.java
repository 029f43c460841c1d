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

/// Where [Op#backward] puts gradients. Each tensor that requires one has a slot; the first contribution is written,
/// later ones are added.
public final class Gradients {
    /// Nodes that have a gradient and wait for the walk: consumers before producers, and within a level first come,
    /// first served. The order of additions, and so their rounding, must not depend on what else waits: a checkpointed
    /// segment would give other bits.
    private final PriorityQueue<Node> queue =
            new PriorityQueue<>(Comparator.comparingInt((Node n) -> -n.level).thenComparingInt(n -> n.turn));

    private int turns;

    private final List<Tensor> leaves = new ArrayList<>();
    /// Inputs that the operation now walked holds a slot of.
    private final List<Tensor> given = new ArrayList<>();

    private final List<Late> late = new ArrayList<>();

    /// A second slot of an input that an operation has twice: added when it is done with both.
    private record Late(Tensor input, Buffer gradient) {}

    Gradients() {}

    /// The next node to walk; null at the end.
    @Nullable
    Node poll() {
        return queue.poll();
    }

    /// Whether `input` takes part in differentiation; if not, nothing may be computed for it.
    public boolean wants(Tensor input) {
        return input.requiresGrad();
    }

    /// The slot of `input`, which must be wanted. The caller fills all of it, in any order with other slots; each call
    /// is one contribution.
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

    /// [#into] where `input` is wanted, else null.
    public @Nullable Gradient intoIfWanted(Tensor input) {
        return wants(input) ? into(input) : null;
    }

    /// Adds `gradient` (row-major, the size of `input`) to the slot of `input`; the first one is shared, not copied, so
    /// nobody may write to it afterwards. The caller keeps its own count.
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

    /// The operation is done with its slots.
    void next() {
        given.clear();
        while (!late.isEmpty()) {
            Late l = late.getLast();
            pass(l.input, l.gradient);
            late.removeLast().gradient.release();
        }
    }

    /// The walk is at its end: a leaf's gradient becomes the leaf's own, whoever shared it on the way.
    void settle() {
        for (Tensor leaf : List.copyOf(leaves)) {
            unshared(leaf, Objects.requireNonNull(leaf.grad()));
        }
    }

    /// Gives back what is nobody's, also when the walk failed; a leaf that was closed keeps no gradient.
    void drop() {
        late.forEach(l -> l.gradient.release());
        queue.forEach(Node::dropGrad);
        leaves.stream().filter(Tensor::isClosed).forEach(Tensor::zeroGrad);
    }

    private static Buffer fresh(Tensor input) {
        return input.backend().allocate(input.dtype(), input.shape().size());
    }

    /// The memory of `grad`, or of a copy in its place where others share it: those that `pass` gave it to.
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
