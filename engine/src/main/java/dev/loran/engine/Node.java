package dev.loran.engine;

import dev.loran.engine.backend.Buffer;
import java.util.ArrayDeque;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A recorded operation in the graph. It lives as long as something can reach it: the tensor it produced, while open,
/// or a later node. When nothing can, the memory it saved is released, so a graph whose backward never runs leaks
/// nothing.
final class Node {
    final Op op;
    /// One more than the highest level among the inputs: consumers always have a higher level than producers.
    final int level;
    /// Gradient of the output during the backward pass.
    @Nullable
    Tensor grad;
    /// Position in the backward pass's queue among nodes of the same level.
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

    /// Throws if a saved tensor has been written since it was saved.
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

    /// Releases what the operation saved.
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

    /// Removes one use. When the last one is gone, this node and everything that only it reached are released.
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
