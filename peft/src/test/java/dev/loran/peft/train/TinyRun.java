package dev.loran.peft.train;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicInteger;

/// A finished run of one step, and code that reads its checkpoint.
public final class TinyRun {
    private static final Examples ROWS = Tiny.examples(4, 1);
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withSteps(1).withBatch(4, 1).withCheckpoints(new TrainerConfig.Checkpoints(1, 1));

    private TinyRun() {}

    /// Trains in `folder`, which must not exist, and returns the folder of the checkpoint.
    public static Path train(Path folder, Backend backend) {
        toTheEnd(RunFolder.create(folder), backend);
        return RunFolder.resume(folder).checkpoints().resolve("step-1");
    }

    /// Resumes the run after computing the checksums of its checkpoint anew.
    ///
    /// @throws InputException if the checkpoint was skipped
    public static void resume(Path folder, Backend backend) throws IOException {
        RunFolder run = RunFolder.resume(folder);
        Path checkpoint = run.checkpoints().resolve("step-1");
        Files.delete(checkpoint.resolve(Checksums.FILE));
        Checksums.write(checkpoint);
        if (toTheEnd(run, backend) != 1) {
            throw new InputException("passed over");
        }
    }

    /// Trains to the end and returns the step at which it started.
    private static int toTheEnd(RunFolder run, Backend backend) {
        AtomicInteger begun = new AtomicInteger();
        try (Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
            TaskCard card = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
            try (TaskModel learner = TaskModel.of(peft, card, 11);
                    Trainer trainer = new Trainer(learner, CONFIG)) {
                trainer.train(ROWS, null, run, new TrainingListener() {
                    @Override
                    public void begun(int step, int totalSteps) {
                        begun.set(step);
                    }
                });
            }
        }
        return begun.get();
    }
}
