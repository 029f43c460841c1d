package dev.loran.engine;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;

/// NumPy-style broadcasting for the element-wise operations: forward by strides, backward by sums over the stretched
/// dimensions.
final class Broadcast {
    private Broadcast() {}

    /// Checks that dtype and backend agree, and returns the common shape.
    static Shape check(String op, Tensor a, Tensor b) {
        Checks.operand(op, "a", a);
        Checks.operand(op, "b", b, "a", a);
        return Shape.broadcast(op, a.shape(), b.shape());
    }

    static void apply(BinaryFn fn, Buffer y, Buffer a, Shape aShape, Buffer b, Shape bShape, Shape shape) {
        if (aShape.equals(bShape)) {
            int[] n = {Math.toIntExact(shape.size())};
            y.backend().binary(fn, y, a, b, n, new int[] {1}, new int[] {1});
        } else {
            y.backend().binary(fn, y, a, b, shape.dims(), aShape.stridesIn(shape), bShape.stridesIn(shape));
        }
    }

    /// Adds factor · gradient of `shape`, summed over the dimensions in which `input` was stretched, to the slot of
    /// `input`.
    static void reduceInto(Gradients gradients, Tensor input, Buffer gradient, Shape shape, double factor) {
        if (factor == 1 && input.shape().equals(shape)) {
            gradients.pass(input, gradient);
            return;
        }
        try (Scratch scratch = new Scratch(input.backend())) {
            Buffer summed = reduce(scratch, gradient, shape, input.shape());
            Gradient t = gradients.into(input);
            input.backend().axpby(t.buffer(), summed, factor, t.accumulate() ? 1 : 0);
        }
    }

    /// Adds gradient ∘ other, both of `shape`, summed over the dimensions in which `input` was stretched, to the slot
    /// of `input`. Takes a single pass if those dimensions are adjacent.
    static void reduceProductInto(Gradients gradients, Tensor input, Buffer gradient, Buffer other, Shape shape) {
        Backend be = input.backend();
        int[] strides = input.shape().stridesIn(shape);
        int first = 0;
        while (first < strides.length && !stretched(strides, shape, first)) {
            first++;
        }
        int end = first;
        while (end < strides.length && (stretched(strides, shape, end) || shape.dim(end) == 1)) {
            end++;
        }
        if (end > first && input.shape().size() == shape.product(0, first) * shape.product(end, strides.length)) {
            int outer = Math.toIntExact(shape.product(0, first));
            int n = Math.toIntExact(shape.product(first, end));
            int inner = Math.toIntExact(shape.product(end, strides.length));
            be.activation().sumOfProducts(gradients.into(input), gradient, other, outer, n, inner);
            return;
        }
        try (Scratch scratch = new Scratch(be)) {
            Buffer product = scratch.like(gradient);
            apply(BinaryFn.MUL, product, gradient, shape, other, shape, shape);
            reduceInto(gradients, input, product, shape, 1);
        }
    }

    private static boolean stretched(int[] strides, Shape shape, int axis) {
        return strides[axis] == 0 && shape.dim(axis) != 1;
    }

    private static Buffer reduce(Scratch scratch, Buffer gradient, Shape shape, Shape to) {
        int[] strides = to.stridesIn(shape);
        Buffer current = gradient;
        // Runs of stretched dimensions are summed, innermost first; `inner` is the product of the kept dimensions
        // passed so far.
        long inner = 1;
        int axis = shape.rank() - 1;
        while (axis >= 0) {
            if (!stretched(strides, shape, axis)) {
                inner *= shape.dim(axis);
                axis--;
                continue;
            }
            int n = 1;
            while (axis >= 0 && strides[axis] == 0) {
                n *= shape.dim(axis);
                axis--;
            }
            long outer = shape.product(0, axis + 1);
            Buffer summed = scratch.allocate(gradient.dtype(), outer * inner);
            gradient.backend().sum(summed, current, Math.toIntExact(outer), n, Math.toIntExact(inner), false);
            current = summed;
        }
        return current;
    }
}
