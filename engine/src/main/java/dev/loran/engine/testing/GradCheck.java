package dev.loran.engine.testing;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import java.util.Arrays;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.function.Supplier;

/// Compares backward with finite differences in one random direction. If J is the Jacobian of the function with respect
/// to one argument, and v and u are random, the two sides of
///
/// ```
/// <J · v, u> = <v, Jᵀ · u>
/// ```
///
/// are measured independently: the left side by central differences, (f(x + hv) − f(x − hv)) / 2h, the right side by
/// backward with u. This gives one number per argument at the cost of two forward passes, whatever the size; a wrong
/// element anywhere in the gradient shows up with probability 1.
/// anywhere in the gradient shows with probability 1.
///
/// ```java
/// GradCheck.check("swiglu", Map.of("x", x, "gate", gate), () -> x.mul(Functional.silu(gate)));
/// ```
public final class GradCheck {
    /// Balances the error of the differences themselves, h² · f‴, against rounding, 10⁻¹⁶ / h.
    private static final double STEP = 0x1p-17;

    private static final double BOUND = 1e-6;

    private GradCheck() {}

    /// Checks the gradient of every leaf in `leaves` that requires one.
    ///
    /// @param op named in the failure message
    /// @param leaves F64 tensors that the function reads, by name; those that do not require a gradient are skipped.
    ///     Their elements are changed temporarily and then restored; their gradients are dropped
    /// @param function computes the result afresh on each call from the current elements of the leaves; must be smooth
    ///     there
    /// @return the largest relative error found
    /// @throws AssertionError naming `op`, the leaf and both numbers, where they differ by more than 1e-6
    /// @throws IllegalArgumentException if no leaf requires a gradient
    public static double check(String op, Map<String, Tensor> leaves, Supplier<Tensor> function) {
        Random random = new Random(op.hashCode());
        double worst = -1;
        for (Map.Entry<String, Tensor> leaf : leaves.entrySet()) {
            Tensor x = leaf.getValue();
            if (x.requiresGrad()) {
                if (x.dtype() != DType.F64) {
                    throw new DTypeException("gradCheck " + op + ": " + leaf.getKey() + " is " + x.dtype()
                            + ", but differences need F64");
                }
                worst = Math.max(worst, check(op, leaf.getKey(), x, leaves, function, random));
            }
        }
        if (worst < 0) {
            throw new IllegalArgumentException("gradCheck " + op + ": none of " + leaves.keySet()
                    + " requires a gradient; call requiresGrad(true)");
        }
        return worst;
    }

    private static double check(
            String op, String name, Tensor x, Map<String, Tensor> leaves, Supplier<Tensor> function, Random random) {
        double[] v = direction(random, Math.toIntExact(x.shape().size()));
        double[] u;
        double[] gradient;
        try (Scope scope = Scope.open()) {
            Tensor y = function.get();
            u = gaussian(random, Math.toIntExact(y.shape().size()));
            leaves.values().forEach(Tensor::zeroGrad);
            y.backward(Tensor.of(y.backend(), y.dtype(), u, y.shape().dims()));
            gradient = x.grad() == null
                    ? new double[v.length]
                    : Objects.requireNonNull(x.grad()).toDoubles();
            leaves.values().forEach(Tensor::zeroGrad);
        }
        double backward = dot(v, gradient);
        double[] before = x.toDoubles();
        double[] up = at(x, before, v, STEP, function);
        double[] down = at(x, before, v, -STEP, function);
        write(x, before);
        double differences = (dot(up, u) - dot(down, u)) / (2 * STEP);
        // For random v, <v, gradient> is about as large as the gradient's norm, but may happen to be close to 0.
        double scale = Math.max(Math.abs(differences), Math.sqrt(dot(gradient, gradient)));
        double rounding = 8 * Math.ulp(absoluteDot(up, u)) / STEP;
        double off = Math.abs(differences - backward);
        if (!(off <= BOUND * scale + rounding)) {
            throw new AssertionError("gradCheck " + op + ": gradient of " + name + " " + x.shape()
                    + " is wrong: <v, Jᵀ·u> by backward is " + backward + " but <J·v, u> by differences is "
                    + differences + " (relative error " + off / scale + " > " + BOUND + ")");
        }
        return scale == 0 ? 0 : off / scale;
    }

    private static double[] at(Tensor x, double[] before, double[] v, double step, Supplier<Tensor> function) {
        double[] moved = new double[v.length];
        for (int i = 0; i < v.length; i++) {
            moved[i] = before[i] + step * v[i];
        }
        write(x, moved);
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return function.get().toDoubles();
        }
    }

    private static void write(Tensor x, double[] values) {
        try (Tensor t = Tensor.of(x.backend(), x.dtype(), values, x.shape().dims())) {
            x.copyFrom(t);
        }
    }

    /// Normal draws rounded to odd multiples of 2⁻⁷: never 0 and, like the step, short enough that a short element is
    /// still an F32 after it is moved.
    private static double[] direction(Random random, int n) {
        double[] values = gaussian(random, n);
        Arrays.setAll(values, i -> (Math.floor(values[i] * 64) + 0.5) / 64);
        return values;
    }

    private static double[] gaussian(Random random, int n) {
        double[] values = new double[n];
        for (int i = 0; i < n; i++) {
            values[i] = random.nextGaussian();
        }
        return values;
    }

    private static double dot(double[] a, double[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    private static double absoluteDot(double[] a, double[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += Math.abs(a[i] * b[i]);
        }
        return sum;
    }
}
