package dev.loran.engine;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Consumer;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A shape over a [Buffer], with a place in the graph of operations. Tensors are row-major and contiguous; [#reshape]
/// and leading slices are views, which share memory and cost nothing.
///
/// A tensor holds one reference to its buffer until it is closed, either by you or by the [Scope] it was made in. A
/// leaf on which [#requiresGrad(boolean)] was called collects its gradient in [#grad].
///
/// Operations that take options are in [dev.loran.engine.functional.Functional].
public final class Tensor implements AutoCloseable {
    private Shape shape;
    private Buffer buffer;
    private final @Nullable Node node;
    private boolean leafRequiresGrad;
    private @Nullable Tensor grad;
    private @Nullable Scope scope;
    private boolean closed;

    private Tensor(Shape shape, Buffer buffer, @Nullable Node node) {
        if (buffer.size() != shape.size()) {
            throw new ShapeException(
                    "tensor: shape " + shape + " needs " + shape.size() + " elements, the buffer has " + buffer.size());
        }
        this.shape = shape;
        this.buffer = buffer;
        this.node = node;
    }

    // ---- creation

    /// Returns a tensor that takes over one reference to `buffer` and belongs to no scope.
    public static Tensor own(Shape shape, Buffer buffer) {
        return new Tensor(shape, buffer, null);
    }

    static Tensor result(Shape shape, Buffer buffer, @Nullable Node node) {
        Tensor t = new Tensor(shape, buffer, node);
        Scope.register(t);
        return t;
    }

    /// Returns a tensor with uninitialized memory.
    public static Tensor empty(Backend backend, DType dtype, int... dims) {
        Shape shape = Shape.of(dims);
        return result(shape, backend.allocate(dtype, shape.size()), null);
    }

    /// Returns a tensor in which every element is `value`.
    public static Tensor full(Backend backend, DType dtype, double value, int... dims) {
        Tensor t = empty(backend, dtype, dims);
        backend.fill(t.buffer, value);
        return t;
    }

    public static Tensor zeros(Backend backend, DType dtype, int... dims) {
        return full(backend, dtype, 0, dims);
    }

    /// Returns a tensor holding `values`, row-major, rounded to `dtype`.
    public static Tensor of(Backend backend, DType dtype, double[] values, int... dims) {
        Shape shape = Shape.of(dims);
        checkCount(values.length, shape);
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment s = arena.allocate(shape.size() * dtype.bytes(), 8);
            for (int i = 0; i < values.length; i++) {
                HostBuffer.set(s, dtype, i, values[i]);
            }
            return copyOf(backend, dtype, s, shape);
        }
    }

    /// Returns an F32 tensor holding `values`, row-major.
    public static Tensor of(Backend backend, float[] values, int... dims) {
        Shape shape = Shape.of(dims);
        checkCount(values.length, shape);
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment s = arena.allocate(values.length * 4L, 8);
            MemorySegment.copy(values, 0, s, ValueLayout.JAVA_FLOAT, 0, values.length);
            return copyOf(backend, DType.F32, s, shape);
        }
    }

    /// Returns an I32 tensor holding `values`, row-major: ids, labels or masks.
    public static Tensor ofInts(Backend backend, int[] values, int... dims) {
        Shape shape = Shape.of(dims);
        checkCount(values.length, shape);
        return result(shape, backend.ofInts(values), null);
    }

    /// Independent draws from N(0, std²).
    public static Tensor randn(Backend backend, DType dtype, RandomGenerator random, double std, int... dims) {
        double[] values = new double[Math.toIntExact(Shape.of(dims).size())];
        for (int i = 0; i < values.length; i++) {
            values[i] = random.nextGaussian() * std;
        }
        return of(backend, dtype, values, dims);
    }

    /// Independent draws from U(−bound, bound).
    public static Tensor uniform(Backend backend, DType dtype, RandomGenerator random, double bound, int... dims) {
        double[] values = new double[Math.toIntExact(Shape.of(dims).size())];
        for (int i = 0; i < values.length; i++) {
            values[i] = (2 * random.nextDouble() - 1) * bound;
        }
        return of(backend, dtype, values, dims);
    }

    private static Tensor copyOf(Backend backend, DType dtype, MemorySegment values, Shape shape) {
        Tensor t = result(shape, backend.allocate(dtype, shape.size()), null);
        backend.write(t.buffer, values);
        return t;
    }

    private static void checkCount(int values, Shape shape) {
        if (values != shape.size()) {
            throw new ShapeException("tensor: " + values + " values do not fill shape " + shape);
        }
    }

    // ---- properties

    public Shape shape() {
        return shape;
    }

    public DType dtype() {
        return buffer.dtype();
    }

    public Buffer buffer() {
        return buffer;
    }

    /// The elements as kernels take them: a matrix whose columns are the last dimension and whose rows are all the
    /// others.
    public Matrix matrix() {
        return new Matrix(buffer, shape.rows(), shape.cols());
    }

    public Backend backend() {
        return buffer.backend();
    }

    /// A counter incremented by every write to the elements, through this tensor or a view of the same memory. An
    /// operation that saved an older version refuses to run its backward.
    public int version() {
        return buffer.version();
    }

    /// True for a leaf that was asked to collect a gradient, and for every recorded result.
    public boolean requiresGrad() {
        return leafRequiresGrad || node != null;
    }

    /// Sets whether this leaf collects a gradient. A leaf that does is row-major: the effect of [#prepare] is undone.
    ///
    /// @throws IllegalStateException if it is the result of a recorded operation
    /// @throws DTypeException if the dtype is not floating
    public Tensor requiresGrad(boolean value) {
        if (node != null) {
            throw new IllegalStateException("requiresGrad: tensor " + shape + " is no leaf; detach() it first");
        }
        if (value && !dtype().isFloating()) {
            throw new DTypeException("requiresGrad: dtype " + dtype() + " carries no gradient");
        }
        leafRequiresGrad = value;
        if (value) {
            restore();
        } else {
            zeroGrad();
        }
        return this;
    }

    /// The gradient collected so far, with the same shape and dtype; null before the first backward and after
    /// [#zeroGrad].
    public @Nullable Tensor grad() {
        return grad;
    }

    /// Drops the gradient.
    public void zeroGrad() {
        if (grad != null) {
            grad.close();
            grad = null;
        }
    }

    void setGrad(Tensor gradient) {
        grad = gradient;
    }

    @Nullable
    Node node() {
        return node;
    }

    // ---- lifetime

    void enter(Scope s) {
        scope = s;
    }

    boolean leave(Scope s) {
        boolean member = scope == s;
        if (member) {
            scope = null;
        }
        return member;
    }

    /// Takes this tensor out of the scope it was made in; the caller must then close it.
    public Tensor detachFromScope() {
        scope = null;
        Scope.detached(this);
        return this;
    }

    /// Releases this tensor's reference, its gradient, and whatever only its graph kept alive. A second call does
    /// nothing.
    @Override
    public void close() {
        if (!closed) {
            closed = true;
            zeroGrad();
            buffer.release();
            if (node != null) {
                Node.drop(node);
            }
        }
    }

    public boolean isClosed() {
        return closed;
    }

    /// Returns a tensor over the same memory that is cut off from the graph.
    public Tensor detach() {
        return result(shape, buffer.retain(), null);
    }

    // ---- reading and writing

    /// Returns the only element of a one-element tensor. Waits for the backend.
    public double item() {
        if (shape.size() != 1) {
            throw new ShapeException("item: tensor has shape " + shape + ", needs one element");
        }
        return toDoubles()[0];
    }

    /// Returns all elements, row-major, widened to double. Waits for the backend.
    public double[] toDoubles() {
        double[] values = new double[Math.toIntExact(shape.size())];
        withElements(s -> {
            for (int i = 0; i < values.length; i++) {
                values[i] = HostBuffer.get(s, dtype(), i);
            }
        });
        return values;
    }

    /// Returns all elements, row-major, as floats. Waits for the backend.
    public float[] toFloats() {
        float[] values = new float[Math.toIntExact(shape.size())];
        withElements(s -> {
            if (dtype() == DType.F32) {
                MemorySegment.copy(s, ValueLayout.JAVA_FLOAT, 0, values, 0, values.length);
            } else {
                for (int i = 0; i < values.length; i++) {
                    values[i] = (float) HostBuffer.get(s, dtype(), i);
                }
            }
        });
        return values;
    }

    /// Returns all elements of an I32 tensor.
    public int[] toInts() {
        if (dtype() != DType.I32) {
            throw new DTypeException("toInts: dtype is " + dtype() + ", needs I32");
        }
        int[] values = new int[Math.toIntExact(shape.size())];
        withElements(s -> MemorySegment.copy(s, ValueLayout.JAVA_INT, 0, values, 0, values.length));
        return values;
    }

    /// Hands `reader` a host copy of the elements, row-major in this dtype, which is valid only during the call.
    public void withElements(Consumer<MemorySegment> reader) {
        try (Arena arena = Arena.ofConfined();
                Scratch scratch = new Scratch(backend())) {
            MemorySegment s = arena.allocate(shape.size() * dtype().bytes(), 64);
            boolean rowMajor = buffer.isRowMajor();
            backend().read(s, rowMajor ? buffer : scratch.hold(backend().restore(buffer, shape.rows(), shape.cols())));
            reader.accept(s);
        }
    }

    /// Overwrites the elements of this leaf with those of `source`, which has the same shape and is converted to this
    /// dtype. A prepared weight becomes row-major again.
    public Tensor copyFrom(Tensor source) {
        if (node != null) {
            throw new IllegalStateException("copyFrom: tensor " + shape + " is the result of an operation");
        }
        Checks.readable("copyFrom", "source", source);
        if (!source.shape.equals(shape)) {
            throw new ShapeException("copyFrom: source is " + source.shape + " but the tensor is " + shape);
        }
        if (source.backend() != backend()) {
            throw new BackendException("copyFrom: source lives on "
                    + source.backend().name() + ", the tensor on " + backend().name() + "; move it first");
        }
        restore();
        backend().cast(buffer, source.buffer);
        markWritten();
        return this;
    }

    /// Records that the buffer was written by other means, such as an optimizer: operations that saved the old elements
    /// can no longer run their backward.
    public void markWritten() {
        buffer.markWritten();
    }

    /// Gives this leaf a new shape and new memory, taking over one reference to `newBuffer`, and drops its gradient.
    /// This is for weights that shrink or are replaced; anyone who keeps moments or statistics for the tensor must
    /// update them at the same time.
    public void assign(Shape newShape, Buffer newBuffer) {
        if (node != null) {
            throw new IllegalStateException("assign: tensor " + shape + " is the result of an operation");
        }
        if (newBuffer.size() != newShape.size()) {
            throw new ShapeException("assign: shape " + newShape + " does not fit a buffer of " + newBuffer.size());
        }
        zeroGrad();
        shape = newShape;
        swap(newBuffer);
        markWritten();
    }

    /// Lets the backend pack this frozen weight (out, in) for its linear operations; the row-major copy is released.
    /// Does nothing if the tensor is already packed or requires a gradient. The elements, and therefore the version, do
    /// not change.
    public void prepare() {
        if (buffer.isRowMajor() && !requiresGrad()) {
            swap(backend().prepare(buffer, shape.rows(), shape.cols()));
        }
    }

    /// Undoes [#prepare], bit for bit.
    public void restore() {
        if (!buffer.isRowMajor()) {
            swap(backend().restore(buffer, shape.rows(), shape.cols()));
        }
    }

    private void swap(Buffer next) {
        next.replaces(buffer);
        buffer.release();
        buffer = next;
    }

    // ---- differentiation

    /// Adds d(this)/d(leaf) to the gradient of every leaf that this scalar depends on.
    ///
    /// @throws ShapeException if this has more than one element
    /// @throws IllegalStateException if nothing was recorded, or backward has already run on this graph
    public void backward() {
        if (shape.size() != 1) {
            throw new ShapeException("backward: loss must be a scalar, got " + shape + "; call mean() or sum() first");
        }
        Buffer one = backend().allocate(dtype(), 1);
        backend().fill(one, 1);
        try (Tensor seed = own(shape, one)) {
            Autograd.backward(this, seed);
        }
    }

    /// As [#backward()], but starts from `gradient` (of this shape) instead of 1.
    public void backward(Tensor gradient) {
        if (!gradient.shape.equals(shape)) {
            throw new ShapeException("backward: gradient is " + gradient.shape + " but the tensor is " + shape);
        }
        Checks.operand("backward", "gradient", gradient, "the tensor", this);
        Autograd.backward(this, gradient);
    }

    // ---- operations

    /// this + other, broadcast.
    public Tensor add(Tensor other) {
        return AddOp.forward(this, other, 1);
    }

    /// this − other, broadcast.
    public Tensor sub(Tensor other) {
        return AddOp.forward(this, other, -1);
    }

    /// this ∘ other, broadcast.
    public Tensor mul(Tensor other) {
        return MulOp.forward(this, other);
    }

    /// this / other, broadcast.
    public Tensor div(Tensor other) {
        return DivOp.forward(this, other);
    }

    /// factor · this.
    public Tensor scale(double factor) {
        return ScaleOp.forward(this, factor);
    }

    /// Matrix product over the last two dimensions; the leading dimensions must be equal, or `other` must be a matrix.
    public Tensor matmul(Tensor other) {
        return MatMulOp.forward(this, other, false, false);
    }

    /// The same elements in another shape, as a view; one dimension may be −1.
    public Tensor reshape(int... dims) {
        return ReshapeOp.forward(this, dims);
    }

    /// Dimension i of the result is dimension `perm[i]` of this. Copies.
    public Tensor permute(int... perm) {
        return PermuteOp.forward(this, perm);
    }

    /// Exchanges two dimensions. Copies.
    public Tensor transpose(int a, int b) {
        int[] perm = new int[shape.rank()];
        for (int i = 0; i < perm.length; i++) {
            perm[i] = i;
        }
        int first = shape.axis("transpose", a);
        int second = shape.axis("transpose", b);
        perm[first] = second;
        perm[second] = first;
        return permute(perm);
    }

    /// Elements `from` (inclusive) to `to` (exclusive) of dimension `axis`; a view if all dimensions before it are 1.
    public Tensor slice(int axis, int from, int to) {
        return SliceOp.forward(this, axis, from, to);
    }

    /// Sum of all elements: a scalar.
    public Tensor sum() {
        return SumOp.ofAll(this, 1);
    }

    /// Mean of all elements: a scalar.
    public Tensor mean() {
        return SumOp.ofAll(this, 1.0 / shape.size());
    }

    /// Sum over dimension `axis`, which is removed.
    public Tensor sum(int axis) {
        return SumOp.forward(this, axis, 1);
    }

    /// Mean over dimension `axis`, which is removed.
    public Tensor mean(int axis) {
        return SumOp.forward(this, axis, 1.0 / shape.dim(shape.axis("mean", axis)));
    }

    @Override
    public String toString() {
        return "Tensor" + shape + " " + dtype() + " on " + backend().name() + (requiresGrad() ? ", requires grad" : "");
    }
}
