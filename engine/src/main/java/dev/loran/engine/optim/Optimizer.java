package dev.loran.engine.optim;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.ShapeException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// Updates parameters from their gradients, and keeps moments by parameter name. A custom optimizer supplies the names
/// of its moments and one method, [#update].
///
/// A step consists of [#advance], then [#step]. As in torch, every parameter counts its own steps: if a parameter has
/// no gradient, or is not passed at all, its value, its moments and its count do not change.
///
/// Not thread-safe.
public abstract class Optimizer implements AutoCloseable {
    private static final String STEP = "step";

    private final String op;
    private final Backend backend;
    private final DType dtype;
    private final List<ParameterGroup> groups;
    private final List<Tensor> rates = new ArrayList<>();
    private final List<String> momentNames;
    private final Map<String, State> states = new LinkedHashMap<>();
    private final List<Count> counts = new ArrayList<>();
    private int step;
    private boolean advanced;

    /// The state of one parameter: its moments (of the parameter's shape) and the number of steps it missed.
    private static final class State {
        final int group;
        final List<Tensor> moments;
        int missed;

        /// Whether it took the last step, and is thus expected to take the next one.
        boolean live = true;

        boolean stepped;

        State(int group, List<Tensor> moments, int missed) {
            this.group = group;
            this.moments = moments;
            this.missed = missed;
        }
    }

    /// The step number shared by all parameters that missed the same number of steps (nearly always all of them). It is
    /// kept so that [#advance] can write it before it is known which parameters have gradients.
    private static final class Count {
        final int missed;
        final Tensor t;
        boolean used;

        Count(int missed, Tensor t) {
            this.missed = missed;
            this.t = t;
        }
    }

    /// Parameters of one group that missed the same number of steps.
    private static final class Together {
        final int group;
        final int missed;
        final List<Buffer> p = new ArrayList<>();
        final List<Buffer> g = new ArrayList<>();
        final List<List<Buffer>> moments = new ArrayList<>();

        Together(State first, int moments) {
            this.group = first.group;
            this.missed = first.missed;
            for (int i = 0; i < moments; i++) {
                this.moments.add(new ArrayList<>());
            }
        }

        void add(Tensor parameter, Tensor grad, State s) {
            p.add(parameter.buffer());
            g.add(grad.buffer());
            for (int i = 0; i < moments.size(); i++) {
                moments.get(i).add(s.moments.get(i).buffer());
            }
            parameter.markWritten();
        }
    }

    /// @param op prefix of the error messages
    /// @param dtype dtype of parameters, gradients and moments: F32 or F64
    /// @param weightDecay for parameters that are in no group
    /// @param groups a parameter belongs to the first group that accepts its name
    /// @param momentNames keys of a parameter's moments in [#state], as torch names them
    protected Optimizer(
            String op,
            Backend backend,
            DType dtype,
            double weightDecay,
            List<ParameterGroup> groups,
            List<String> momentNames) {
        if (dtype != DType.F32 && dtype != DType.F64) {
            throw new DTypeException(op + ": cannot train parameters of " + dtype + "; keep them in F32");
        }
        this.op = op;
        this.backend = backend;
        this.dtype = dtype;
        this.momentNames = momentNames;
        this.groups = new ArrayList<>(groups);
        this.groups.add(new ParameterGroup(_ -> true, 1, weightDecay));
        for (int i = 0; i < this.groups.size(); i++) {
            rates.add(Tensor.own(Shape.of(), backend.allocate(dtype, 1)));
        }
    }

    static void checkAtLeastZero(String op, String argument, double value) {
        if (!(value >= 0 && value < Double.POSITIVE_INFINITY)) {
            throw new IllegalArgumentException(op + ": " + argument + " must be at least 0, got " + value);
        }
    }

    /// Takes one step for parameters that share learning rate, step number and weight decay; p and moments are updated
    /// in place.
    ///
    /// @param p the parameters; the gradients and each list of moments are in the same order
    /// @param g gradients, to be multiplied by `gradScale` (1); null means 1
    /// @param moments in the order of their names, zeros before the first step
    /// @param lr (1): the learning rate, including the group's factor
    /// @param t (1) I32: the number of this step, counted from 1
    protected abstract void update(
            List<Buffer> p,
            List<Buffer> g,
            List<List<Buffer>> moments,
            Buffer lr,
            Buffer t,
            @Nullable Buffer gradScale,
            double weightDecay);

    // ---- stepping

    /// Begins the next step: counts it, and writes the values that change from step to step (the learning rate and the
    /// step numbers) into the buffers that [#step] reads. If no call of [#step] follows, as when a captured step is
    /// replayed, the parameters of the last call count as stepped.
    public void advance(double learningRate) {
        checkAtLeastZero(op, "learningRate", learningRate);
        step++;
        advanced = true;
        for (int i = 0; i < rates.size(); i++) {
            backend.fill(rates.get(i).buffer(), learningRate * groups.get(i).lrFactor());
        }
        for (State s : states.values()) {
            s.missed += s.live ? 0 : 1;
        }
        for (Count c : counts) {
            backend.fill(c.t.buffer(), step - c.missed);
        }
    }

    /// Takes back the last step, in which nothing was changed because the gradient scale was NaN
    /// ([dev.loran.engine.backend.OptimizerKernels#adamW]); the next step gets the same number.
    public void retreat() {
        step--;
        advanced = false;
        for (State s : states.values()) {
            s.missed -= s.live ? 0 : 1;
        }
    }

    /// As [#step(Map, Buffer)], with unscaled gradients.
    public void step(Map<String, Tensor> parameters) {
        step(parameters, null);
    }

    /// Updates every parameter that has a gradient; the gradients are kept. Moments are created, as zeros, at a
    /// parameter's first step.
    ///
    /// @param gradScale (1): factor applied to gradients where they are read ([GradClip#scale])
    /// @throws IllegalStateException if [#advance] has not been called for this step
    /// @throws ShapeException if a parameter has another shape than its moments
    public void step(Map<String, Tensor> parameters, @Nullable Buffer gradScale) {
        if (!advanced) {
            throw new IllegalStateException(op + ": call advance(learningRate) before each step");
        }
        advanced = false;
        for (Count c : counts) {
            c.used = false;
        }
        for (State s : states.values()) {
            s.stepped = false;
        }
        Map<List<Integer>, Together> all = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor> e : parameters.entrySet()) {
            Tensor p = e.getValue();
            Tensor grad = p.grad();
            if (grad != null) {
                State s = state(e.getKey(), p);
                s.missed -= s.live ? 0 : 1;
                s.live = true;
                s.stepped = true;
                all.computeIfAbsent(List.of(s.group, s.missed), k -> new Together(s, momentNames.size()))
                        .add(p, grad, s);
            }
        }
        for (Together same : all.values()) {
            Count count = count(same.missed);
            count.used = true;
            update(
                    same.p,
                    same.g,
                    same.moments,
                    rates.get(same.group).buffer(),
                    count.t.buffer(),
                    gradScale,
                    groups.get(same.group).weightDecay());
        }
        for (State s : states.values()) {
            if (s.live && !s.stepped) {
                s.live = false;
                s.missed++;
            }
        }
        for (Iterator<Count> i = counts.iterator(); i.hasNext(); ) {
            Count c = i.next();
            if (!c.used) {
                c.t.close();
                i.remove();
            }
        }
    }

    private State state(String name, Tensor p) {
        if (p.dtype() != dtype || p.backend() != backend) {
            throw new DTypeException(op + ": parameter " + name + " is " + p.dtype() + " on "
                    + p.backend().name() + ", the optimizer was made for " + dtype + " on " + backend.name());
        }
        State s = states.get(name);
        if (s == null) {
            List<Tensor> moments = new ArrayList<>();
            for (int i = 0; i < momentNames.size(); i++) {
                Tensor m =
                        Tensor.own(p.shape(), backend.allocate(dtype, p.shape().size()));
                backend.fill(m.buffer(), 0);
                moments.add(m);
            }
            s = new State(group(name), moments, step - 1);
            states.put(name, s);
        }
        checkShape(name, p, s);
        return s;
    }

    private void checkShape(String name, Tensor p, State s) {
        if (!s.moments.isEmpty() && !s.moments.getFirst().shape().equals(p.shape())) {
            throw new ShapeException(op + ": parameter " + name + " is " + p.shape() + " but its moments are "
                    + s.moments.getFirst().shape() + "; change both by resize");
        }
    }

    private int group(String name) {
        int i = 0;
        while (!groups.get(i).members().test(name)) {
            i++;
        }
        return i;
    }

    private Count count(int missed) {
        for (Count c : counts) {
            if (c.missed == missed) {
                return c;
            }
        }
        Count fresh = new Count(missed, Tensor.own(Shape.of(), backend.allocate(DType.I32, 1)));
        backend.fill(fresh.t.buffer(), step - missed);
        counts.add(fresh);
        return fresh;
    }

    /// Drops the gradients of `parameters`.
    public void zeroGrad(Map<String, Tensor> parameters) {
        for (Tensor p : parameters.values()) {
            p.zeroGrad();
        }
    }

    // ---- state by name

    /// Everything needed to resume: for each parameter that has taken a step, `NAME.step` (scalar, I32) and its
    /// moments, such as `NAME.exp_avg`. Moments are views of the live ones. The tensors belong to the open scope, or to
    /// the caller if there is none.
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        states.forEach((name, s) -> {
            // The parameter's first step was taken back.
            if (step == s.missed) {
                return;
            }
            all.put(name + "." + STEP, Tensor.ofInts(backend, new int[] {step - s.missed}));
            for (int i = 0; i < s.moments.size(); i++) {
                all.put(name + "." + momentNames.get(i), s.moments.get(i).detach());
            }
        });
        return all;
    }

    /// Replaces all state by a copy of `state`, which has the form returned by [#state] (floating-point types are
    /// converted). Group settings are not part of it.
    ///
    /// @throws IllegalArgumentException naming the entry that is missing or unknown; the optimizer is then unchanged
    public void load(Map<String, Tensor> state) {
        Map<String, Integer> steps = new LinkedHashMap<>();
        state.forEach((key, t) -> {
            if (key.endsWith("." + STEP)) {
                String name = key.substring(0, key.length() - STEP.length() - 1);
                int n = (int) t.item();
                if (n < 1) {
                    throw new IllegalArgumentException(
                            op + ": state entry " + key + " is " + n + ", needs a step number from 1");
                }
                steps.put(name, n);
                checkMoments(name, state);
            }
        });
        for (String key : state.keySet()) {
            int dot = key.lastIndexOf('.');
            String kind = key.substring(dot + 1);
            if (dot < 0
                    || !steps.containsKey(key.substring(0, dot))
                    || !kind.equals(STEP) && !momentNames.contains(kind)) {
                throw new IllegalArgumentException(op + ": state entry " + key + " is unknown (a parameter has " + STEP
                        + " and " + momentNames + ")");
            }
        }
        clear();
        step = steps.values().stream().mapToInt(n -> n).max().orElse(0);
        steps.forEach((name, n) -> {
            List<Tensor> moments = new ArrayList<>();
            for (String kind : momentNames) {
                moments.add(ownCopy(Objects.requireNonNull(state.get(name + "." + kind))));
            }
            states.put(name, new State(group(name), moments, step - n));
        });
    }

    private void checkMoments(String name, Map<String, Tensor> state) {
        Shape shape = null;
        for (String kind : momentNames) {
            Tensor m = state.get(name + "." + kind);
            if (m == null) {
                throw new IllegalArgumentException(op + ": state of " + name + " lacks " + kind);
            }
            if (!m.dtype().isFloating() || m.backend() != backend) {
                throw new DTypeException(op + ": state entry " + name + "." + kind + " is " + m.dtype() + " on "
                        + m.backend().name() + ", needs a floating type on " + backend.name());
            }
            if (shape != null && !shape.equals(m.shape())) {
                throw new ShapeException(op + ": state entry " + name + "." + kind + " is " + m.shape()
                        + " but the moment before it is " + shape);
            }
            shape = m.shape();
        }
    }

    private Tensor ownCopy(Tensor source) {
        Tensor copy = Tensor.own(
                source.shape(), backend.allocate(dtype, source.shape().size()));
        backend.cast(copy.buffer(), source.buffer());
        return copy;
    }

    /// Discards the moments and the step count of parameter `name`, for when it is removed or starts over.
    public void forget(String name) {
        State s = states.remove(name);
        if (s != null) {
            s.moments.forEach(Tensor::close);
        }
    }

    /// Keeps only the elements at `keep` (in that order) along dimension `axis` of `parameter`, known as `name`, and of
    /// its moments. This is the only way for a parameter to change its shape. Its gradient is dropped.
    ///
    /// @param axis from 0, or negative from the end
    /// @throws ShapeException if an index does not exist, or the parameter does not fit its moments
    public void resize(String name, Tensor parameter, int axis, int... keep) {
        Shape shape = parameter.shape();
        int a = shape.axis(axis);
        for (int k : keep) {
            if (k < 0 || k >= shape.dim(a)) {
                throw new ShapeException(op + ": resize of " + name + " keeps index " + k + " of dimension " + a
                        + ", which does not exist in " + shape);
            }
        }
        State s = states.get(name);
        if (s != null) {
            checkShape(name, parameter, s);
        }
        Shape smaller = shape.withDim(a, keep.length);
        Buffer ids = backend.ofInts(keep);
        parameter.assign(smaller, select(parameter.buffer(), shape, a, ids));
        if (s != null) {
            for (Tensor m : s.moments) {
                m.assign(smaller, select(m.buffer(), shape, a, ids));
            }
        }
        ids.release();
    }

    /// Selects elements `ids` along dimension `axis` of x: moves that dimension to the front, gathers rows, and moves
    /// it back.
    private Buffer select(Buffer x, Shape shape, int axis, Buffer ids) {
        int outer = Math.toIntExact(shape.product(0, axis));
        int dim = shape.dim(axis);
        int inner = Math.toIntExact(shape.product(axis + 1, shape.rank()));
        int n = Math.toIntExact(ids.size());
        int[] swap = {1, 0, 2};
        Buffer rows = backend.allocate(x.dtype(), x.size());
        backend.permute(rows, x, new int[] {outer, dim, inner}, swap);
        Buffer kept = backend.allocate(x.dtype(), (long) n * outer * inner);
        backend.gatherRows(kept, rows, ids, n, outer * inner);
        rows.release();
        Buffer result = backend.allocate(x.dtype(), kept.size());
        backend.permute(result, kept, new int[] {n, outer, inner}, swap);
        kept.release();
        return result;
    }

    private void clear() {
        List.copyOf(states.keySet()).forEach(this::forget);
        counts.forEach(c -> c.t.close());
        counts.clear();
        step = 0;
        advanced = false;
    }

    /// Releases all buffers.
    @Override
    public void close() {
        clear();
        rates.forEach(Tensor::close);
    }
}
