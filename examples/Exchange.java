import dev.loran.engine.backend.Backend;
import dev.loran.kernels.Backends;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.MergeReport;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;

/// Exchanges adapters and models with Hugging Face's peft and transformers. Arguments: the model's folder; an adapter's
/// folder, Loran's or peft's; the folder for a copy of the adapter, and that for the merged model.
///
/// Python reads the first with `PeftModel.from_pretrained(model, folder)`, the second with
/// `AutoModel….from_pretrained(folder)`.
public class Exchange {
    public static void main(String[] args) {
        Path folder = Path.of(args[0]);
        try (Backend backend = Backends.best();
                Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 42)) {
            peft.loadAdapter("default", Path.of(args[1]));
            System.out.println("method " + peft.active().config().peftType());
            peft.savePretrained(Path.of(args[2]));

            MergeReport report = peft.mergeAdapter(); // fails for a method that cannot be merged, and changes nothing
            System.out.println(report.changes().size() + " weights changed");
            // From here on the model is a plain one; a tokenizer is a file to copy.
            HfModels.save(peft.mergeAndUnload(), Path.of(args[3]));
        }
    }
}
