package dev.loran.engine.testing;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ReferenceBackend;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Function;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// One operation with arguments of one size, described once for tests, benchmarks and the support table.
///
/// ```java
/// static OpCase swiglu(int n, int c) {
///     return OpCase.of("swiglu", n + "x" + c, Shape.of(n, c), in -> Swiglu.forward(in.get("x"), in.get("gate")))
///             .with(Input.trainable("x", n, c), Input.trainable("gate", n, c))
///             .composed(in -> in.get("x").mul(Functional.silu(in.get("gate"))))
///             .flops(5L * n * c, 9L * n * c);
/// }
///
/// swiglu(7, 33).checkReference();
/// swiglu(7, 33).check(new MyBackend());
/// Run run = swiglu(1024, 2048).on(new MyBackend(), DType.F32);   // run.step() is what a benchmark times
/// ```
///
/// An optional argument is present in one case and absent in another; the function looks it up with [Arguments#find].
///
/// @param op the operation, such as `loraLinear`
/// @param variant what distinguishes this case from others of the same operation: sizes, options
/// @param result shape of the result
/// @param function the operation; reads nothing but its arguments
/// @param composed for a fused operation, the same function composed of other operations; or null
/// @param inputs the arguments, with unique names
/// @param flops floating-point operations of one forward pass
/// @param backwardFlops floating-point operations of one backward pass to all trainable inputs
/// @param tolerances bounds that differ from the table in [Tolerance]
/// @param unsupported what a backend cannot do, each with its reason
public record OpCase(
        String op,
        String variant,
        Shape result,
        Function<Arguments, Tensor> function,
        @Nullable Function<Arguments, Tensor> composed,
        List<Input> inputs,
        long flops,
        long backwardFlops,
        Map<DType, Tolerance> tolerances,
        List<Unsupported> unsupported) {

    private static final List<DType> FLOATING = List.of(DType.F64, DType.F32, DType.BF16, DType.F16);

    public OpCase {
        inputs = List.copyOf(inputs);
        tolerances = Map.copyOf(tolerances);
        unsupported = List.copyOf(unsupported);
        if (inputs.stream().map(Input::name).distinct().count() < inputs.size()) {
            throw new IllegalArgumentException(op + " (" + variant + "): two inputs have the same name");
        }
    }

    // ---- describing

    /// Returns a case with no inputs and no cost.
    public static OpCase of(String op, String variant, Shape result, Function<Arguments, Tensor> function) {
        return new OpCase(op, variant, result, function, null, List.of(), 0, 0, Map.of(), List.of());
    }

    /// Returns this case with `more` inputs appended.
    public OpCase with(Input... more) {
        List<Input> all = new ArrayList<>(inputs);
        all.addAll(List.of(more));
        return new OpCase(op, variant, result, function, composed, all, flops, backwardFlops, tolerances, unsupported);
    }

    /// Returns this case with the same function composed of other operations.
    public OpCase composed(Function<Arguments, Tensor> form) {
        return new OpCase(op, variant, result, function, form, inputs, flops, backwardFlops, tolerances, unsupported);
    }

    /// Returns this case with its cost.
    public OpCase flops(long forward, long backward) {
        return new OpCase(op, variant, result, function, composed, inputs, forward, backward, tolerances, unsupported);
    }

    /// Returns this case with a different bound for `dtype`.
    public OpCase tolerance(DType dtype, double bound) {
        Map<DType, Tolerance> map = new LinkedHashMap<>(tolerances);
        map.put(dtype, new Tolerance(bound));
        return new OpCase(op, variant, result, function, composed, inputs, flops, backwardFlops, map, unsupported);
    }

    /// Returns this case, marked as rejected for `dtype` by the backend named `backend`; [#check] then expects the
    /// rejection.
    public OpCase unsupported(String backend, DType dtype, String reason) {
        List<Unsupported> list = new ArrayList<>(unsupported);
        list.add(new Unsupported(backend, dtype, reason));
        return new OpCase(op, variant, result, function, composed, inputs, flops, backwardFlops, tolerances, list);
    }

    /// A combination that is rejected by the argument checks.
    public record Unsupported(String backend, DType dtype, String reason) {}

    /// The role of an argument.
    public enum Role {
        /// Of the case's dtype, requires a gradient.
        TRAINABLE,
        /// Of the case's dtype, requires no gradient.
        CONSTANT,
        /// A frozen weight (out, in) in the form that the backend multiplies fastest ([Backend#prepare]).
        PREPARED,
        /// I32, whatever the case's dtype.
        INTEGER
    }

    /// Draws one element; `index` is its row-major position.
    public interface Draw {
        double element(RandomGenerator random, int index);
    }

    /// One argument.
    public record Input(String name, Shape shape, Role role, Draw draw) {
        private static final Draw GAUSSIAN = (random, i) -> random.nextGaussian();

        /// A trainable input with elements from N(0, 1).
        public static Input trainable(String name, int... dims) {
            return new Input(name, Shape.of(dims), Role.TRAINABLE, GAUSSIAN);
        }

        /// A constant input with elements from N(0, 1).
        public static Input constant(String name, int... dims) {
            return new Input(name, Shape.of(dims), Role.CONSTANT, GAUSSIAN);
        }

        /// A frozen, packed weight with elements from N(0, 1 / in).
        public static Input prepared(String name, int out, int in) {
            return new Input(name, Shape.of(out, in), Role.PREPARED, GAUSSIAN).scaled(1 / Math.sqrt(in));
        }

        /// Integers from `low` (inclusive) to `high` (exclusive).
        public static Input integers(String name, int low, int high, int... dims) {
            return new Input(name, Shape.of(dims), Role.INTEGER, (random, i) -> random.nextInt(low, high));
        }

        /// Returns this input with elements from U(low, high).
        public Input between(double low, double high) {
            return drawn((random, i) -> random.nextDouble(low, high));
        }

        /// Returns this input with elements `factor` times as large.
        public Input scaled(double factor) {
            return drawn((random, i) -> factor * draw.element(random, i));
        }

        /// Returns this input with other elements.
        public Input drawn(Draw other) {
            return new Input(name, shape, role, other);
        }
    }

    /// The arguments by name.
    public interface Arguments {
        /// Returns the argument, or null if the case has none of this name.
        @Nullable
        Tensor find(String name);

        /// @throws IllegalArgumentException if the case has no argument of this name
        default Tensor get(String name) {
            Tensor t = find(name);
            if (t == null) {
                throw new IllegalArgumentException("opCase: the case has no input named " + name);
            }
            return t;
        }
    }

    // ---- cost

    /// Bytes that one forward pass must move: each input is read, and the result written, once.
    public long bytes(DType dtype) {
        long bytes = result.size() * dtype.bytes();
        for (Input i : inputs) {
            bytes += i.shape.size() * (i.role == Role.INTEGER ? DType.I32 : dtype).bytes();
        }
        return bytes;
    }

    /// Bytes that one backward pass must move: inputs and the result's gradient are read, and the inputs' gradients
    /// written, once.
    public long backwardBytes(DType dtype) {
        long bytes = bytes(dtype);
        for (Input i : inputs) {
            bytes += i.role == Role.TRAINABLE ? i.shape.size() * dtype.bytes() : 0;
        }
        return bytes;
    }

    /// The bound for results and gradients in `dtype`.
    public Tolerance tolerance(DType dtype) {
        Tolerance special = tolerances.get(dtype);
        return special == null ? Tolerance.of(dtype) : special;
    }

    /// Why `backend` rejects `dtype` for this case; null if it does not.
    public @Nullable String refusal(Backend backend, DType dtype) {
        if (!backend.supports(dtype)) {
            return backend.name() + " computes no " + dtype;
        }
        for (Unsupported u : unsupported) {
            if (u.backend.equals(backend.name()) && u.dtype == dtype) {
                return u.reason;
            }
        }
        return null;
    }

    /// Such as `loraLinear (bias, 7x33 to 5)`.
    @Override
    public String toString() {
        return op + " (" + variant + ")";
    }

    // ---- running

    /// Creates the arguments in the memory of `backend`, always with the same random elements. The result belongs to no
    /// scope and must be closed.
    public Run on(Backend backend, DType dtype) {
        return new Run(this, function, backend, dtype, dtype, null);
    }

    /// A case with its arguments in one backend's memory.
    public static final class Run implements Arguments, AutoCloseable {
        private final OpCase opCase;
        private final Function<Arguments, Tensor> function;
        private final Map<String, Tensor> arguments = new LinkedHashMap<>();
        private final Tensor gradOut;

        /// Elements are rounded to `rounding` before they become `dtype`; `only` is the single input that requires a
        /// gradient, or null for all that are trainable.
        Run(
                OpCase opCase,
                Function<Arguments, Tensor> function,
                Backend backend,
                DType dtype,
                DType rounding,
                @Nullable Input only) {
            this.opCase = opCase;
            this.function = function;
            Random random = new Random(opCase.toString().hashCode());
            for (Input i : opCase.inputs) {
                Tensor t =
                        tensor(backend, i.role == Role.INTEGER ? DType.I32 : dtype, rounding, i.shape, random, i.draw);
                t.requiresGrad(i.role == Role.TRAINABLE && (only == null || only.equals(i)));
                if (i.role == Role.PREPARED) {
                    t.prepare();
                }
                arguments.put(i.name, t);
            }
            gradOut = tensor(backend, dtype, rounding, opCase.result, random, Input.GAUSSIAN);
        }

        private static Tensor tensor(
                Backend backend, DType dtype, DType rounding, Shape shape, Random random, Draw draw) {
            double[] values = new double[Math.toIntExact(shape.size())];
            byte[] bytes = new byte[8];
            for (int i = 0; i < values.length; i++) {
                values[i] = draw.element(random, i);
                if (dtype.isFloating()) {
                    HostBuffer.set(MemorySegment.ofArray(bytes), rounding, 0, values[i]);
                    values[i] = HostBuffer.get(MemorySegment.ofArray(bytes), rounding, 0);
                }
            }
            return Tensor.of(backend, dtype, values, shape.dims()).detachFromScope();
        }

        /// The argument tensors by name, in the order of the case.
        public Map<String, Tensor> arguments() {
            return Collections.unmodifiableMap(arguments);
        }

        @Override
        public @Nullable Tensor find(String name) {
            return arguments.get(name);
        }

        /// Runs one forward pass. The result belongs to the current scope, or to the caller if there is none.
        ///
        /// @throws AssertionError if the result does not have the shape that the case declares
        public Tensor forward() {
            try (Scope scope = Scope.open()) {
                Tensor y = function.apply(this);
                if (!y.shape().equals(opCase.result)) {
                    throw new AssertionError(opCase + ": result is " + y.shape() + ", the case says " + opCase.result);
                }
                return scope.keep(y);
            }
        }

        /// Runs one forward and one backward pass, adding to the gradients of the arguments. Returns the elements of
        /// the result.
        double[] accumulate() {
            try (Tensor y = forward()) {
                if (y.requiresGrad()) {
                    backward(y);
                }
                return y.toDoubles();
            }
        }

        /// Runs one forward and one backward pass and drops the gradients. This is what a benchmark times.
        public void step() {
            try (Tensor y = forward()) {
                backward(y);
            }
            arguments.values().forEach(Tensor::zeroGrad);
        }

        /// The result may be wider than the case's dtype: a loss is wider than its logits.
        private void backward(Tensor y) {
            if (y.dtype() == gradOut.dtype()) {
                y.backward(gradOut);
            } else {
                try (Tensor wide =
                        Tensor.empty(y.backend(), y.dtype(), y.shape().dims()).copyFrom(gradOut)) {
                    y.backward(wide);
                }
            }
        }

        @Override
        public void close() {
            arguments.values().forEach(Tensor::close);
            gradOut.close();
        }
    }

    // ---- checking

    /// Checks the operation itself, on [ReferenceBackend] in F64: every gradient against finite differences, the fused
    /// form against the composed one, that forward under `noGrad` keeps nothing but its result, and that no buffer is
    /// left at the end.
    ///
    /// @throws AssertionError saying what is wrong and by how much
    public void checkReference() {
        try (ReferenceBackend backend = new ReferenceBackend()) {
            try (Run run = on(backend, DType.F64)) {
                checkNothingKept(backend, run);
                if (inputs.stream().anyMatch(i -> i.role == Role.TRAINABLE)) {
                    GradCheck.check(toString(), run.arguments, run::forward);
                }
            }
            Function<Arguments, Tensor> other = composed;
            if (other != null) {
                try (Run fused = on(backend, DType.F64);
                        Run parts = new Run(this, other, backend, DType.F64, DType.F64, null)) {
                    compare(parts, fused, "composed form", tolerance(DType.F64));
                }
            }
            if (backend.liveBuffers() != 0) {
                throw new AssertionError(this + ": " + backend.liveBuffers() + " buffers were never released");
            }
        }
    }

    private void checkNothingKept(ReferenceBackend backend, Run run) {
        long before = backend.liveBytes();
        double[] recorded = run.accumulate();
        run.arguments.values().forEach(Tensor::zeroGrad);
        try (Autograd.Mode mode = Autograd.noGrad();
                Tensor y = run.forward()) {
            long kept = backend.liveBytes() - before;
            if (kept > y.buffer().bytes()) {
                throw new AssertionError(this + ": under noGrad forward keeps " + kept + " bytes, its result has "
                        + y.buffer().bytes());
            }
            new Tolerance(0).check(this + ": result under noGrad", recorded, y.toDoubles());
        }
    }

    /// Checks `backend` against the reference in every floating-point dtype that it supports: the result, and the
    /// gradients, both with all trainable inputs requiring one and with each alone, first overwritten and then
    /// accumulated. For BF16 and F16 the reference computes in F64 on rounded inputs. Memory is filled with NaN
    /// beforehand, and must all be released in the end. A combination listed as unsupported must be rejected.
    ///
    /// @throws AssertionError saying what differs, and where; or that nothing could be compared
    public void check(Backend backend) {
        boolean compared = false;
        for (DType dtype : FLOATING) {
            if (backend.supports(dtype)) {
                long before = backend.liveBytes();
                if (refusal(backend, dtype) == null) {
                    check(backend, dtype, null);
                    inputs.stream().filter(i -> i.role == Role.TRAINABLE).forEach(i -> check(backend, dtype, i));
                } else {
                    expectRefusal(backend, dtype);
                }
                if (backend.liveBytes() != before) {
                    throw new AssertionError(this + " on " + backend.name() + ", " + dtype + ": "
                            + (backend.liveBytes() - before) + " bytes were never released");
                }
                compared = true;
            }
        }
        if (!compared) {
            throw new AssertionError(this + ": " + backend.name() + " supports none of " + FLOATING);
        }
    }

    private void check(Backend backend, DType dtype, @Nullable Input only) {
        try (ReferenceBackend reference = new ReferenceBackend();
                Run expected = new Run(this, function, reference, DType.F64, dtype, only);
                Run actual = new Run(this, function, backend, dtype, dtype, only)) {
            dirty(backend, dtype);
            String where = backend.name() + ", " + dtype + (only == null ? "" : ", " + only.name + " alone trainable");
            compare(expected, actual, where, tolerance(dtype));
        }
    }

    private void compare(Run expected, Run actual, String where, Tolerance tolerance) {
        for (String pass : List.of("", " accumulated")) {
            String on = " on " + where;
            tolerance.check(this + on + ": result", expected.accumulate(), actual.accumulate());
            for (Input i : inputs) {
                Tensor e = expected.get(i.name).grad();
                Tensor a = actual.get(i.name).grad();
                if ((e == null) != (a == null)) {
                    throw new AssertionError(this + on + ": gradient of " + i.name + " is "
                            + (a == null ? "missing" : "there, though it requires none"));
                }
                if (e != null && a != null) {
                    tolerance.check(this + on + ": gradient of " + i.name + pass, e.toDoubles(), a.toDoubles());
                }
            }
        }
    }

    /// Leaves NaN in the memory that the backend will hand out next, so that an element that is read before it is
    /// written is detected.
    private void dirty(Backend backend, DType dtype) {
        List<Buffer> buffers = new ArrayList<>();
        for (int copies = 0; copies < 2; copies++) {
            buffers.add(backend.allocate(dtype, result.size()));
            for (Input i : inputs) {
                buffers.add(backend.allocate(dtype, i.shape.size()));
            }
        }
        buffers.forEach(b -> backend.fill(b, Double.NaN));
        buffers.forEach(Buffer::release);
    }

    private void expectRefusal(Backend backend, DType dtype) {
        try (Run run = on(backend, dtype)) {
            run.step();
        } catch (DTypeException refused) {
            return;
        }
        throw new AssertionError(this + " on " + backend.name() + ", " + dtype
                + " is listed as unsupported, but works: take it off the list");
    }
}
