import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.tokenizer.BpeTrainer;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Targets;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/// Fine-tunes a generator of titles and writes one. Arguments: a causal model's folder; a file of rows,
/// `{"source": "…", "target": "…"}`; the folder for the adapter; a text to entitle.
///
/// If there is no such folder, a small Llama with random weights is made there, with a vocabulary learned from the
/// rows. That shows every step, but such a model knows no language, and its titles are noise: for real ones, take a
/// pretrained model, or train one with `./loran pretrain`.
public class Titles {
    private static final int TOKENS = 256; // of a text and its title together, at most

    public static void main(String[] args) throws IOException {
        Path folder = Path.of(args[0]);
        RowSource rows = RowSource.file(Path.of(args[1]));
        if (!Files.exists(folder)) {
            makeModel(folder, rows);
        }
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder);
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42)) {
            GenerateTask task = new GenerateTask();
            Examples train = Examples.read(rows, task, tokenizer, Examples.Options.of(TOKENS), null);
            peft.addAdapter("default", LoraConfig.defaults().withRank(8, 16).withTargets(Targets.allLinear()));
            TrainerConfig config = TrainerConfig.defaults().withEpochs(2).withBatch(8, 1);
            try (TaskModel titles = TaskModel.of(peft, task.card(train, tokenizer, TOKENS), 42);
                    Trainer trainer = new Trainer(titles, config)) {
                System.out.println("loss " + trainer.train(train, null, null, new TrainingListener() {}).trainLoss());
                titles.save(Path.of(args[2]));
                titles.train(false);
            }
            int[] prompt = tokenizer.encodePrompt(args[3], TOKENS, train.answerRoom()).ids();
            // At most 60 characters: what a page of search results shows of a title.
            GenerationConfig greedy = GenerationConfig.greedy(24).withMaxChars(60);
            System.out.println("title: " + Generation.answers(model, tokenizer, new int[][] {prompt}, greedy)
                    .getFirst().text());
        }
    }

    private static void makeModel(Path folder, RowSource rows) throws IOException {
        BpeTrainer words = new BpeTrainer();
        rows.forEach(new GenerateTask(), (row, line) -> {
            Row.Generate pair = (Row.Generate) row;
            words.add(pair.source() + "\n" + pair.target());
        });
        Files.createDirectories(folder);
        Files.write(folder.resolve("tokenizer.json"), words.train(2048, List.of("<|endoftext|>")));
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"eos_token\": \"<|endoftext|>\"}");
        try (Backend backend = Backends.best();
                Tokenizer tokenizer = Tokenizer.load(folder)) {
            // 64 wide, 176 in the feed-forward network, 2 blocks, 4 heads.
            LlamaModel.Config sizes = LlamaModel.Config.of(tokenizer.vocabSize(), 64, 176, 2, 4, TOKENS);
            try (Model model = LlamaModel.random(sizes, backend, DType.F32, 42)) {
                HfModels.save(model, folder);
            }
        }
    }
}
