package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Feed;
import dev.loran.peft.task.Head;
import dev.loran.peft.tuner.SharedRows;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// Lets several runs on threads of their own share their forward and backward passes. Only one of the threads runs at a
/// time. Each stops where it needs a pass; once all have stopped or ended, those that need the same pass as the one
/// that is furthest behind get it together. Runs that are equally far are thus always together, and one that is behind,
/// such as after resuming from an older checkpoint, catches up.
final class LockStep implements AutoCloseable {
    private enum Kind {
        LOSS,
        LOGITS,
        BACKWARD
    }

    /// Forward passes that ran together, and whose losses are differentiated together.
    private static final class Pass {
        final SharedRows rows;
        final int batchSize;

        Pass(SharedRows rows, int batchSize) {
            this.rows = rows;
            this.batchSize = batchSize;
        }
    }

    /// What a run waits for.
    private static final class Request {
        final int run;
        final int microStep;
        final Kind kind;
        final boolean training;
        final boolean recorded = Autograd.isRecording();
        final Batch batch;
        /// For a backward pass, the forward pass, and the gradient of its loss.
        final @Nullable Request forward;
        final @Nullable Tensor gradient;

        @Nullable
        Pass pass;

        @Nullable
        Tensor result;

        @Nullable
        Throwable problem;

        boolean done;

        Request(int run, Place place, Kind kind, Batch batch, @Nullable Request forward, @Nullable Tensor gradient) {
            this.run = run;
            this.microStep = place.microStep;
            this.training = place.training;
            this.kind = kind;
            this.batch = batch;
            this.forward = forward;
            this.gradient = gradient;
        }

        boolean isSame(Request other) {
            if (kind != other.kind || training != other.training || recorded != other.recorded) {
                return false;
            }
            if (forward != null && other.forward != null) {
                return forward.pass == other.forward.pass;
            }
            return Arrays.equals(batch.inputIds(), other.batch.inputIds())
                    && Arrays.equals(batch.attentionMask(), other.batch.attentionMask())
                    && Arrays.equals(batch.tokenTypes(), other.batch.tokenTypes())
                    && Arrays.equals(batch.rows(), other.batch.rows());
        }
    }

    /// Where a run is: the number of its forward passes in training, and its mode.
    private static final class Place {
        int microStep;
        boolean training;
    }

    private final Model model;
    private final List<Head> heads;
    private final Function<List<Integer>, SharedRows> rows;
    private final List<Place> places = new ArrayList<>();
    private final ReentrantLock baton = new ReentrantLock();
    private final Condition changed = baton.newCondition();
    private final List<Request> waiting = new ArrayList<>();
    /// The requests that are served next, by the thread of the first.
    private List<Request> chosen = List.of();
    /// Recorded losses that have not been differentiated.
    private final Set<Request> undone = new HashSet<>();
    private int running;

    /// @param heads of the runs
    /// @param rows the adapters of some runs together
    LockStep(Model model, List<Head> heads, Function<List<Integer>, SharedRows> rows) {
        this.model = model;
        this.heads = heads;
        this.rows = rows;
        this.running = heads.size();
        heads.forEach(h -> places.add(new Place()));
    }

    /// Runs `work`, the whole of a run, on this thread.
    void run(Runnable work) {
        baton.lock();
        try {
            work.run();
        } finally {
            running--;
            changed.signalAll();
            baton.unlock();
        }
    }

    void microStep(int run, int number) {
        places.get(run).microStep = number;
    }

    void train(int run, boolean mode) {
        places.get(run).training = mode;
    }

    // ---- passes

    /// The loss of a run for `batch`.
    ///
    /// @param leaf a scalar that requires a gradient, which it never gets: it makes the loss one that is recorded
    Tensor loss(int run, Batch batch, Tensor leaf) {
        Request r = new Request(run, places.get(run), Kind.LOSS, batch, null, null);
        Tensor loss = await(r);
        if (r.recorded) {
            // Its backward pass closes it.
            undone.add(r);
            return Autograd.record(
                    new SharedLossOp(this, r, leaf), loss.shape(), loss.buffer().retain());
        }
        try (loss) {
            return loss.detach();
        }
    }

    Tensor logits(int run, Batch batch) {
        try (Tensor logits = await(new Request(run, places.get(run), Kind.LOGITS, batch, null, null))) {
            return logits.detach();
        }
    }

    /// The loss of one run in a pass of several. Its backward pass is that of all of them.
    private record SharedLossOp(LockStep steps, Request forward, Tensor leaf) implements Op {
        @Override
        public List<Tensor> inputs() {
            return List.of(leaf);
        }

        @Override
        public List<Tensor> saved() {
            return List.of();
        }

        @Override
        public void backward(Tensor gradOut, Gradients gradients) {
            steps.backward(forward, gradOut);
        }
    }

    private void backward(Request forward, Tensor gradient) {
        await(new Request(forward.run, places.get(forward.run), Kind.BACKWARD, forward.batch, forward, gradient));
    }

    /// Waits until `own` has been served, which this thread may do itself.
    private Tensor await(Request own) {
        waiting.add(own);
        running--;
        while (!own.done) {
            if (running == 0 && chosen.isEmpty()) {
                choose();
                changed.signalAll();
            }
            if (!chosen.isEmpty() && chosen.getFirst() == own) {
                serve(chosen);
                waiting.removeAll(chosen);
                running += chosen.size();
                chosen = List.of();
                changed.signalAll();
            } else {
                changed.awaitUninterruptibly();
            }
        }
        switch (own.problem) {
            case null -> {}
            case Error e -> throw e;
            case RuntimeException e -> throw e;
            default -> throw new IllegalStateException(own.problem);
        }
        return Objects.requireNonNull(own.result);
    }

    private void choose() {
        waiting.sort(Comparator.comparingInt((Request r) -> r.microStep).thenComparingInt(r -> r.run));
        Request first = waiting.getFirst();
        chosen = waiting.stream().filter(first::isSame).toList();
    }

    private void serve(List<Request> group) {
        try (Guard.Use use = model.changing("train")) {
            Request first = group.getFirst();
            model.train(first.training);
            if (first.kind == Kind.BACKWARD) {
                differentiate(group);
            } else {
                compute(group);
            }
        } catch (RuntimeException | Error e) {
            group.forEach(r -> r.problem = e);
        } finally {
            group.forEach(r -> r.done = true);
        }
    }

    private void compute(List<Request> group) {
        Request first = group.getFirst();
        SharedRows together = rows.apply(group.stream().map(r -> r.run).toList());
        Pass pass = new Pass(together, first.batch.batchSize());
        try (Scope scope = Scope.open();
                Autograd.Mode mode = first.recorded ? Autograd.enableGrad() : Autograd.noGrad();
                Feed feed = new Feed(model, first.batch)) {
            List<Tensor> results = together.forward(feed.ids(), feed.mask(), feed.tokenTypes(), i -> {
                Head head = heads.get(group.get(i).run);
                return first.kind == Kind.LOSS ? head.loss(feed) : head.logits(feed);
            });
            for (int i = 0; i < group.size(); i++) {
                group.get(i).pass = pass;
                group.get(i).result = results.get(i).detachFromScope();
            }
        }
    }

    private void differentiate(List<Request> group) {
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.enableGrad()) {
            Tensor sum = null;
            for (Request r : group) {
                Tensor loss = Objects.requireNonNull(Objects.requireNonNull(r.forward).result);
                Tensor term = loss.mul(Objects.requireNonNull(r.gradient));
                sum = sum == null ? term : sum.add(term);
                r.result = loss;
            }
            Tensor root = Objects.requireNonNull(sum);
            Pass pass = Objects.requireNonNull(Objects.requireNonNull(group.getFirst().forward).pass);
            pass.rows.together(pass.batchSize, () -> {
                root.backward();
                return root;
            });
        } finally {
            for (Request r : group) {
                undone.remove(r.forward);
                Objects.requireNonNull(Objects.requireNonNull(r.forward).result).close();
            }
        }
    }

    /// Frees what runs that failed have left.
    @Override
    public void close() {
        undone.forEach(r -> Objects.requireNonNull(r.result).close());
        undone.clear();
    }
}
