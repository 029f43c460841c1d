package dev.loran.peft.train;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Examples;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;

/// A small run whose process is to be killed: `KilledRun METHOD FOLDER SAVE_STEPS STOP`. It prints `step N` after each
/// step, and after step STOP it waits until it is killed (with 0, it runs to the end).
public final class KilledRun {
    /// The rows make 4 steps per epoch, of two micro-batches each.
    static final TrainerConfig CONFIG = TrainerConfig.defaults()
            .withEpochs(3)
            .withBatch(4, 2)
            .withRate(new Rate(2e-2, 2, Schedule.LINEAR, 2))
            .withEvaluation(3, 0);

    private static final Examples ROWS = Tiny.examples(30, 1);
    private static final Examples HELD_OUT = Tiny.examples(10, 2);

    private KilledRun() {}

    public static void main(String[] args) {
        int stop = Integer.parseInt(args[3]);
        train(args[0], RunFolder.resume(Path.of(args[1])), Integer.parseInt(args[2]), new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                System.out.println("step " + result.step());
                if (result.step() == stop) {
                    waitForEver();
                }
            }
        });
        System.out.println("done");
    }

    /// Waits until standard input ends, which happens when this process or its parent ends.
    private static void waitForEver() {
        try {
            System.in.transferTo(System.out);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /// Trains to the end, resuming the run if it has begun.
    static TrainingReport train(String method, RunFolder folder, int saveSteps, TrainingListener listener) {
        return train(method, folder, CONFIG.withCheckpoints(new Checkpoints(saveSteps, 3)), listener);
    }

    static TrainingReport train(String method, RunFolder folder, TrainerConfig config, TrainingListener listener) {
        boolean isBert = !method.equals("prefix");
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = isBert ? Tiny.encoder(backend, DType.F32) : Tiny.causal(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", config(method));
            TaskCard card = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
            try (TaskModel learner = TaskModel.of(peft, card, 11);
                    Trainer trainer = new Trainer(learner, config)) {
                return trainer.train(ROWS, HELD_OUT, folder, listener);
            }
        }
    }

    private static PeftConfig config(String method) {
        LoraConfig lora = LoraConfig.defaults().withRank(4, 8).withDropout(0.2);
        AdaLoraConfig adalora = AdaLoraConfig.defaults()
                .withRanks(4, 2)
                .withSchedule(2, 5, 2)
                .withOrthRegWeight(0.1)
                .withLora(lora);
        return switch (method) {
            case "lora" -> lora;
            case "dora" -> lora.withDora(true);
            case "adalora" -> adalora;
            case "adalora-masked" -> adalora.withShrink(false);
            case "p-tuning" -> PromptEncoderConfig.of(3);
            case "prefix" -> PrefixTuningConfig.of(3);
            default -> throw new IllegalArgumentException(method);
        };
    }
}
