package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import java.util.ArrayDeque;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A recorded operation in the graph. It lives as long as something can reach it: the open tensor it made, or a later
/// node. When nothing can, the memory it saved is given back, so that a graph nobody walks leaks nothing.
final class Node {
    final Op op;
    /// One more than the highest level among the inputs: consumers always have a higher level than producers.
    final int level;
    /// Gradient of the output while the walk runs.
    @Nullable
    Tensor grad;
    /// Place in the walk's queue among nodes of the same level.
    int turn;

    private int uses = 1;
    private boolean released;
    private final List<Tensor> saved;
    private final Buffer[] held;
    private final int[] versions;

    Node(Op op) {
        this.op = op;
        this.saved = op.saved();
        int level = 0;
        for (Tensor input : op.inputs()) {
            Node n = input.node();
            if (n != null) {
                level = Math.max(level, n.level + 1);
                n.uses++;
            }
        }
        this.level = level;
        held = new Buffer[saved.size()];
        versions = new int[saved.size()];
        for (int i = 0; i < held.length; i++) {
            held[i] = saved.get(i).buffer().retain();
            versions[i] = saved.get(i).version();
        }
    }

    boolean isReleased() {
        return released;
    }

    /// Fails if a saved tensor was written since.
    void checkVersions() {
        for (int i = 0; i < versions.length; i++) {
            Tensor t = saved.get(i);
            if (t.version() != versions[i]) {
                throw new IllegalStateException("backward: a tensor " + t.shape() + " saved by "
                        + op.getClass().getSimpleName() + " was written after the forward pass (version " + versions[i]
                        + ", now " + t.version() + "); run forward again after changing weights");
            }
        }
    }

    /// Gives back what the operation saved.
    void release() {
        if (!released) {
            released = true;
            for (Buffer b : held) {
                b.release();
            }
        }
    }

    void dropGrad() {
        if (grad != null) {
            grad.close();
            grad = null;
        }
    }

    /// One use less; with the last one this node, and what only it reached, is released.
    static void drop(Node first) {
        ArrayDeque<Node> todo = new ArrayDeque<>();
        todo.add(first);
        while (!todo.isEmpty()) {
            Node node = todo.poll();
            if (--node.uses == 0) {
                node.release();
                for (Tensor input : node.op.inputs()) {
                    Node n = input.node();
                    if (n != null) {
                        todo.add(n);
                    }
                }
            }
        }
    }
}
