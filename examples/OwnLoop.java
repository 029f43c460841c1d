import dev.loran.engine.backend.Backend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;

/// A training loop of your own: it decides which batch comes next, what is printed, and when to end. Arguments: an
/// encoder's folder; rows, `{"text": "…", "label": "…"}`; the number of steps.
public class OwnLoop {
    public static void main(String[] args) {
        Path folder = Path.of(args[0]);
        int steps = Integer.parseInt(args[2]);
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42)) {
            Examples rows =
                    Examples.read(Path.of(args[1]), new ClassifyTask(), tokenizer, Examples.Options.of(96), null);
            // AdaLoRA allocates ranks between a fifth of the steps and a fifth before the end.
            peft.addAdapter("default", AdaLoraConfig.defaults().withSchedule(steps / 5, steps / 5, 1));
            // The learning rate follows a schedule, so the trainer must know how many steps will follow.
            TrainerConfig config = TrainerConfig.defaults()
                    .withSteps(steps)
                    .withRate(TrainerConfig.Rate.of(3e-3));
            try (TaskModel classifier = TaskModel.of(peft, TaskCard.classify(rows.labels(), 96), 42);
                    Trainer trainer = new Trainer(classifier, config)) {
                DataLoader loader = new DataLoader(rows, DataLoader.Options.training(16, 42));
                for (int epoch = 0; trainer.step() < steps; epoch++) {
                    for (Batch batch : loader.epoch(epoch)) {
                        StepResult step = trainer.trainStep(batch); // forward, backward, clipping, optimizer
                        if (step.step() % 10 == 0) {
                            System.out.printf("step %d: loss %.4f, gradients %.3f, rate %.1e%n",
                                    step.step(), step.loss(), step.gradNorm(), step.learningRate());
                        }
                        if (trainer.step() == steps) {
                            break;
                        }
                    }
                }
                System.out.println(Evaluation.of(classifier, rows, 32));
                System.out.println("ranks " + classifier.ranks());
            }
        }
    }
}
