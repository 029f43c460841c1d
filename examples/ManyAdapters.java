import dev.loran.engine.backend.Backend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Predictor;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/// Serves several classifiers over one model in memory, each with its own classes, from many threads at once.
/// Arguments: the model's folder; a text; the folders of the adapters.
public class ManyAdapters {
    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        String text = args[1];
        List<TaskModel> classifiers = new ArrayList<>();
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42)) {
            // Before any thread reads: adding an adapter needs the model for itself.
            for (int i = 2; i < args.length; i++) {
                classifiers.add(TaskModel.load(peft, "adapter" + i, Path.of(args[i])));
            }
            try (ExecutorService threads = Executors.newFixedThreadPool(8)) {
                List<Future<Predictor.Answer>> answers = new ArrayList<>();
                for (int request = 0; request < 32; request++) {
                    TaskModel classifier = classifiers.get(request % classifiers.size());
                    answers.add(threads.submit(
                            () -> Predictor.answers(classifier, tokenizer, List.of(text), 1).getFirst()));
                }
                for (int i = 0; i < classifiers.size(); i++) {
                    System.out.println(args[i + 2] + ": " + answers.get(i).get().label());
                }
                for (int i = 0; i < answers.size(); i++) {
                    answers.get(i).get(); // throws what its thread threw
                }
                System.out.println(answers.size() + " answers");
            } finally {
                classifiers.forEach(TaskModel::close);
            }
        }
    }
}
