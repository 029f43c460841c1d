package dev.loran.peft.tokenizer;

import java.util.Arrays;

/// Strings with associated values, which finds those that start at a given position of another text.
///
/// Nodes are numbers, and the root is 0. Edges are stored in a hash table keyed by node and UTF-16 unit.
final class Trie {
    static final int NONE = -1;

    /// The maximum key length: bounds the steps of a walk from each position of a text.
    private static final int MAX_LENGTH = 1024;

    private long[] edges = new long[256];
    private int[] children = new int[256];
    private int[] values = new int[64];
    private int nodes = 1;

    Trie() {
        Arrays.fill(values, NONE);
    }

    /// Adds a string, replacing an earlier value.
    ///
    /// @param value 0 or more
    void put(String text, int value) {
        if (text.length() > MAX_LENGTH) {
            throw new TokenizerException("a token has " + text.length() + " characters ("
                    + Field.shown("\"" + text + "\"") + "); " + MAX_LENGTH + " are supported");
        }
        int node = 0;
        for (int i = 0; i < text.length(); i++) {
            node = childOrNew(node, text.charAt(i));
        }
        values[node] = value;
    }

    private int childOrNew(int node, char unit) {
        int slot = slot(node, unit);
        if (edges[slot] != 0) {
            return children[slot];
        }
        edges[slot] = edge(node, unit);
        children[slot] = nodes;
        if (nodes == values.length) {
            values = Arrays.copyOf(values, 2 * nodes);
            Arrays.fill(values, nodes, values.length, NONE);
        }
        int child = nodes++;
        if (2 * nodes > edges.length) {
            grow();
        }
        return child;
    }

    private void grow() {
        long[] oldEdges = edges;
        int[] oldChildren = children;
        edges = new long[2 * oldEdges.length];
        children = new int[edges.length];
        for (int i = 0; i < oldEdges.length; i++) {
            if (oldEdges[i] != 0) {
                int slot = slot((int) (oldEdges[i] >>> 16) - 1, (char) oldEdges[i]);
                edges[slot] = oldEdges[i];
                children[slot] = oldChildren[i];
            }
        }
    }

    /// The node reached from `node` by `unit`, or [#NONE].
    int child(int node, char unit) {
        int slot = slot(node, unit);
        return edges[slot] == 0 ? NONE : children[slot];
    }

    /// The node that `text` leads to, or [#NONE].
    int walk(String text) {
        int node = 0;
        for (int i = 0; i < text.length() && node != NONE; i++) {
            node = child(node, text.charAt(i));
        }
        return node;
    }

    /// The value of the string that ends at `node`, or [#NONE].
    int value(int node) {
        return values[node];
    }

    private static long edge(int node, char unit) {
        return (node + 1L) << 16 | unit;
    }

    private int slot(int node, char unit) {
        long edge = edge(node, unit);
        int mask = edges.length - 1;
        int slot = (int) (edge * 0x9E3779B97F4A7C15L >>> 32) & mask;
        while (edges[slot] != 0 && edges[slot] != edge) {
            slot = (slot + 1) & mask;
        }
        return slot;
    }
}
