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

/// Moves parameters against their gradients, and keeps moments by parameter name. An optimizer of one's own gives its
/// moments' names and one method, [#update].
///
/// A step is [#advance], then [#step]. Every parameter counts its own steps, as in torch: one without a gradient, or
/// not passed at all, is left alone with its moments and its count.
///
/// Not safe for several threads.
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

    /// What is known of one parameter: its moments (same shape as it) and how many of the steps it missed.
    private static final class State {
        final int group;
        final List<Tensor> moments;
        int missed;

        /// Whether it took the last step, and so is expected to take the next.
        boolean live = true;

        boolean stepped;

        State(int group, List<Tensor> moments, int missed) {
            this.group = group;
            this.moments = moments;
            this.missed = missed;
        }
    }

    /// The step number of all parameters that missed the same number of steps (nearly always: all of them), kept so
    /// that [#advance] alone can write it, before it is known who has a gradient.
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

    /// @param op opens the messages
    /// @param dtype of parameters, gradients and moments: F32, or F64
    /// @param weightDecay of parameters in no group
    /// @param groups the first that accepts a parameter's name counts
    /// @param momentNames the keys of a parameter's moments in [#state], in torch's words
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

    /// The step of parameters that share rate, step number and decay: p and moments are updated in place.
    ///
    /// @param p the parameters; one list of gradients and one a moment are in the same order
    /// @param g gradients, to be multiplied by `gradScale` (1), null for 1
    /// @param moments in the order of their names, zeros before the first step
    /// @param lr (1): the learning rate, the group's factor included
    /// @param t (1) I32: the number of this step, from 1
    protected abstract void update(
            List<Buffer> p,
            List<Buffer> g,
            List<List<Buffer>> moments,
            Buffer lr,
            Buffer t,
            @Nullable Buffer gradScale,
            double weightDecay);

    // ---- stepping

    /// Begins the next step: counts it, and puts what changes from step to step, the learning rate and the step
    /// numbers, into the buffers that [#step] reads. Where no call of [#step] follows, as when a captured one is
    /// replayed, the parameters of the last one count as stepped.
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

    /// Takes the last step back, of which nothing was done because its gradient scale was NaN
    /// ([dev.loran.engine.backend.OptimizerKernels#adamW]): its number counts for the next.
    public void retreat() {
        step--;
        advanced = false;
        for (State s : states.values()) {
            s.missed -= s.live ? 0 : 1;
        }
    }

    /// As [#step(Map, Buffer)], with gradients as they are.
    public void step(Map<String, Tensor> parameters) {
        step(parameters, null);
    }

    /// Moves every parameter that has a gradient; gradients stay. Moments are made, as zeros, at a parameter's first
    /// step.
    ///
    /// @param gradScale (1): gradients are multiplied by it where they are read ([GradClip#scale])
    /// @throws IllegalStateException without an [#advance] for this step
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

    /// Everything to go on from: for each parameter that took a step `NAME.step` (scalar, I32) and its moments,
    /// `NAME.exp_avg` for one. Moments are views of the live ones. The tensors belong to the open scope, or to the
    /// caller.
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        states.forEach((name, s) -> {
            // Its first step was taken back.
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

    /// Replaces all state by a copy of `state`, as [#state] gives it (floating types are converted). Group settings are
    /// not part of it.
    ///
    /// @throws IllegalArgumentException naming the entry that is missing or unknown; the optimizer is then as it was
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

    /// Forgets the moments and steps of parameter `name`, when it is gone or starts afresh.
    public void forget(String name) {
        State s = states.remove(name);
        if (s != null) {
            s.moments.forEach(Tensor::close);
        }
    }

    /// Keeps of `parameter`, known as `name`, only the elements at `keep` (in that order) of dimension `axis`, and the
    /// same of its moments: the one way for a parameter to change its shape. Its gradient is dropped.
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

    /// Elements `ids` of dimension `axis` of x: rows where that is the outermost, else rows after it was moved there.
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

    /// Gives all buffers back.
    @Override
    public void close() {
        clear();
        rates.forEach(Tensor::close);
    }
}
