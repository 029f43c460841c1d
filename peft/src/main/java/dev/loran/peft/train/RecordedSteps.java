package dev.loran.peft.train;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Backend.Replay;
import dev.loran.peft.data.Batch;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// Whole training steps as recorded by the backend, one for each batch shape. The first step of a shape runs normally,
/// which allocates everything that is allocated once; the second is recorded; from then on it is replayed. The least
/// recently used shapes are evicted in favor of new ones.
final class RecordedSteps implements AutoCloseable {
    private static final int SHAPES = 16;

    /// What the work of a step depends on.
    private record Key(
            int texts, int length, List<List<Integer>> targets, boolean padded, boolean typed, boolean packed) {
        static Key of(Batch b) {
            boolean padded = b.tokens() != b.inputIds().length;
            List<List<Integer>> targets = b.targets().stream()
                    .map(t -> Arrays.stream(t.dims()).boxed().toList())
                    .toList();
            return new Key(b.batchSize(), b.length(), targets, padded, b.tokenTypes() != null, b.isPacked());
        }
    }

    private static final class Recorded {
        final Learner.Inputs inputs;

        @Nullable
        Replay replay;

        Recorded(Learner.Inputs inputs) {
            this.inputs = inputs;
        }

        void drop() {
            if (replay != null) {
                replay.close();
                replay = null;
            }
        }
    }

    private final Learner learner;
    private final Backend backend;
    private final LinkedHashMap<Key, Recorded> all = new LinkedHashMap<>(SHAPES, 0.75f, true);

    RecordedSteps(Learner learner, Backend backend) {
        this.learner = learner;
        this.backend = backend;
    }

    /// Takes one step on `batch`.
    ///
    /// @param work the whole step, given the source of its loss
    void step(Batch batch, Consumer<Supplier<Tensor>> work) {
        Key key = Key.of(batch);
        Recorded r = all.get(key);
        if (r == null) {
            first(key, batch, work);
            return;
        }
        r.inputs.write(batch);
        if (r.replay == null) {
            r.replay = backend.capture(() -> work.accept(r.inputs::loss));
        }
        if (!r.replay.run()) {
            // Something that the recording uses has changed: the next step is recorded again.
            r.drop();
            work.accept(r.inputs::loss);
        }
    }

    private void first(Key key, Batch batch, Consumer<Supplier<Tensor>> work) {
        Learner.Inputs inputs = learner.inputs(batch);
        if (inputs == null) {
            work.accept(() -> learner.loss(batch));
            return;
        }
        if (all.size() == SHAPES) {
            close(all.pollFirstEntry().getValue());
        }
        all.put(key, new Recorded(inputs));
        work.accept(inputs::loss);
    }

    @Override
    public void close() {
        all.values().forEach(RecordedSteps::close);
        all.clear();
    }

    private static void close(Recorded r) {
        r.drop();
        r.inputs.close();
    }
}
