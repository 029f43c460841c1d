package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import java.util.List;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// Reverse-mode differentiation: recording, and the backward pass.
public final class Autograd {
    private static final ThreadLocal<Integer> NO_GRAD_DEPTH = ThreadLocal.withInitial(() -> 0);

    /// Some Java runtimes are made without it.
    private static final boolean HAS_JFR =
            ModuleLayer.boot().findModule("jdk.jfr").isPresent();

    private static final ThreadLocal<@Nullable BiConsumer<Op, Tensor>> WATCHER = new ThreadLocal<>();

    private Autograd() {}

    /// Returned by [#noGrad] and [#enableGrad]; closing it restores the previous mode.
    public interface Mode extends AutoCloseable {
        @Override
        void close();
    }

    /// Turns recording off on this thread until closed.
    public static Mode noGrad() {
        return mode(NO_GRAD_DEPTH.get() + 1);
    }

    /// Turns recording back on inside a [#noGrad].
    public static Mode enableGrad() {
        return mode(0);
    }

    private static Mode mode(int depth) {
        int before = NO_GRAD_DEPTH.get();
        NO_GRAD_DEPTH.set(depth);
        return () -> NO_GRAD_DEPTH.set(before);
    }

    /// Whether operations are recorded on this thread now.
    public static boolean isRecording() {
        return NO_GRAD_DEPTH.get() == 0;
    }

    /// Passes every operation of this thread and its output to `watcher`, as soon as the output has been computed,
    /// until closed. Useful for finding where numbers go wrong.
    public static Mode watch(BiConsumer<Op, Tensor> watcher) {
        BiConsumer<Op, Tensor> before = WATCHER.get();
        WATCHER.set(watcher);
        return () -> {
            if (before == null) {
                WATCHER.remove();
            } else {
                WATCHER.set(before);
            }
        };
    }

    /// Wraps `output` in a tensor of `shape`, which takes over one reference to it. The operation is recorded if an
    /// input requires a gradient and recording is on.
    public static Tensor record(Op op, Shape shape, Buffer output) {
        boolean wanted = false;
        if (isRecording()) {
            for (Tensor input : op.inputs()) {
                wanted |= input.requiresGrad();
            }
        }
        return watched(op, Tensor.result(shape, output, wanted ? new Node(op) : null));
    }

    static Tensor recordAlways(Op op, Shape shape, Buffer output) {
        return watched(op, Tensor.result(shape, output, new Node(op)));
    }

    private static Tensor watched(Op op, Tensor output) {
        if (HAS_JFR) {
            OperationEvent.forward(op, output);
        }
        BiConsumer<Op, Tensor> watcher = WATCHER.get();
        if (watcher != null) {
            watcher.accept(op, output);
        }
        return output;
    }

    /// Runs `segment` on `x` and keeps only `x`; backward runs the segment again to recompute what it saved (Chen et
    /// al., "Training Deep Nets with Sublinear Memory Cost", 2016). Parameters (leaves) used inside get their gradients
    /// whether or not `x` requires one. `segment` must be a pure function of `x`, parameters and counters; dropout
    /// regenerates its mask from the counters.
    public static Tensor checkpoint(UnaryOperator<Tensor> segment, Tensor x) {
        return CheckpointOp.forward(in -> segment.apply(in.getFirst()), List.of(x));
    }

    /// As above with several inputs, which the segment must take from its argument; it must not use results of recorded
    /// operations in any other way.
    public static Tensor checkpoint(Function<List<Tensor>, Tensor> segment, List<Tensor> inputs) {
        return CheckpointOp.forward(segment, inputs);
    }

    /// Runs the backward pass from `root` with `seed` (of the same shape) as its gradient. Gradients of leaves are
    /// added to the ones they already have; saved memory is released as the pass proceeds.
    static void backward(Tensor root, Tensor seed) {
        Node first = root.node();
        if (!root.requiresGrad()) {
            throw new IllegalStateException("backward: tensor " + root.shape()
                    + " was not recorded; no input requires a gradient, or it was made under noGrad()");
        }
        if (first != null && first.isReleased()) {
            throw new IllegalStateException("backward: the graph behind this " + root.shape()
                    + " was walked already and what it saved is released; run forward again");
        }
        Gradients gradients = new Gradients();
        try (Mode mode = noGrad()) {
            gradients.pass(root, seed.buffer());
            for (Node node = gradients.poll(); node != null; node = gradients.poll()) {
                step(node, gradients);
            }
            gradients.settle();
        } finally {
            gradients.drop();
        }
    }

    private static void step(Node node, Gradients gradients) {
        if (node.isReleased()) {
            node.dropGrad();
            throw new IllegalStateException("backward: " + node.op.getClass().getSimpleName()
                    + " was walked already and what it saved is released; run forward again");
        }
        try (Tensor gradOut = Objects.requireNonNull(node.grad)) {
            node.grad = null;
            node.checkVersions();
            if (HAS_JFR) {
                OperationEvent.backward(node.op, gradOut, gradients);
            } else {
                node.op.backward(gradOut, gradients);
            }
            gradients.next();
        }
        node.release();
    }
}
