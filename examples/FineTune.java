///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25
//DEPS dev.loran:loran-peft:0.1.0-SNAPSHOT
//DEPS org.slf4j:slf4j-simple:2.0.20
//RUNTIME_OPTIONS --add-modules=jdk.incubator.vector --enable-native-access=ALL-UNNAMED -XX:-UseProfiledLoopPredicate

import dev.loran.engine.backend.Backend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.Predictor;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.List;

/// Fine-tunes a classifier, evaluates it, saves it, and uses it. Arguments: an encoder's folder; a file of rows,
/// `{"text": "…", "label": "…"}`, a tenth of which is held out; the folder for the adapter; a text to classify.
public class FineTune {
    public static void main(String[] args) {
        Path folder = Path.of(args[0]);
        RowSource rows = RowSource.file(Path.of(args[1]));
        Path out = Path.of(args[2]);
        String text = args[3];

        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42)) {
            Examples.Options reading = Examples.Options.of(96); // tokens a text, at most; longer ones are cut
            ClassifyTask task = new ClassifyTask();
            Examples train = Examples.read(rows.besides(0.1, 42), task, tokenizer, reading, null);
            Examples heldOut = Examples.read(rows.heldOut(0.1, 42), task, tokenizer, reading, train.labels());

            peft.addAdapter("default", LoraConfig.defaults().withRank(8, 16).withDropout(0.05));
            TrainerConfig config = TrainerConfig.defaults().withEpochs(3).withBatch(16, 1);
            try (TaskModel classifier = TaskModel.of(peft, TaskCard.classify(train.labels(), 96), 42);
                    Trainer trainer = new Trainer(classifier, config)) {
                System.out.printf("%d of %d parameters train%n",
                        classifier.parameterCount().trainableParameters(),
                        classifier.parameterCount().totalParameters());
                trainer.train(train, null, null, new Progress());
                System.out.println(Evaluation.of(classifier, heldOut, 32));
                classifier.save(out);
            }
        }

        // Another program would start here: the model as it was, and the adapter from its files.
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42);
                TaskModel classifier = TaskModel.load(peft, out)) {
            Predictor.Answer answer = Predictor.answers(classifier, tokenizer, List.of(text), 1).getFirst();
            System.out.printf("%s: %s (%.3f)%n", text, answer.label(), answer.probability());
        }
    }

    private static final class Progress implements TrainingListener {
        @Override
        public void step(StepResult step, int totalSteps, double seconds) {
            if (step.step() % 50 == 0) {
                System.out.printf("step %d of %d: loss %.4f%n", step.step(), totalSteps, step.loss());
            }
        }
    }
}
