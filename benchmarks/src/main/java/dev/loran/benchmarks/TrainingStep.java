package dev.loran.benchmarks;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Backend.Replay;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.GradClip;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.util.Arrays;
import java.util.Map;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/// Forward, backward, clipping and AdamW, repeated on the same random ids, as the trainer does it.
final class TrainingStep implements AutoCloseable {
    private final PeftModel peft;
    private final @Nullable Tuner tuner;
    private final Backend backend;
    private final Map<String, Tensor> parameters;
    private final AdamW adamW;
    private final GradClip clip;
    private final Tensor value;
    private final Tensor text;
    private final Tensor shown;
    private @Nullable Replay replay;
    private int number;

    /// @param tuner the method being trained; null to train the whole model
    TrainingStep(PeftModel peft, @Nullable Tuner tuner, int batch, int seq, int vocab) {
        this.peft = peft;
        this.tuner = tuner;
        backend = peft.model().backend();
        parameters = tuner == null ? peft.model().namedParameters() : tuner.parameters();
        int[] ids = new SplittableRandom(2).ints((long) batch * seq, 0, vocab).toArray();
        int[] mask = new int[ids.length];
        Arrays.fill(mask, 1);
        adamW = new AdamW(backend, DType.F32, AdamW.Config.of(0.01));
        clip = new GradClip(backend, DType.F32, 1);
        value = Tensor.full(backend, DType.F32, 0, 1);
        text = Tensor.ofInts(backend, ids, batch, seq);
        shown = Tensor.ofInts(backend, mask, batch, seq);
    }

    /// Runs one step to completion, and returns the loss before it.
    double run() {
        number++;
        // As in the trainer, if the backend can record work, a step like the previous one is replayed.
        boolean repeats = number > 1 && backend.captures() && (tuner == null || tuner.repeats(number));
        peft.microStep(number - 1);
        adamW.advance(1e-4);
        if (repeats && replay == null) {
            replay = backend.capture(this::step);
        }
        if (!repeats || replay == null || !replay.run()) {
            step();
        }
        return value.item();
    }

    private void step() {
        try (Scope scope = Scope.open()) {
            Tensor loss = peft.loss(text, shown, text);
            Tuner.trainingLoss(loss, tuner == null ? null : tuner.penalty()).backward();
            clip.norm(parameters.values());
            adamW.step(parameters, clip.scale());
            if (tuner != null) {
                tuner.afterStep(number, clip.scale(), adamW);
            }
            adamW.zeroGrad(parameters);
            loss.backend().axpby(value.buffer(), loss.buffer(), 1, 0);
        }
    }

    @Override
    public void close() {
        if (replay != null) {
            replay.close();
        }
        shown.close();
        text.close();
        value.close();
        clip.close();
        adamW.close();
    }
}
