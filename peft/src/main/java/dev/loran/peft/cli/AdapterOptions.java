package dev.loran.peft.cli;

import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskCard;
import dev.loran.peft.tuner.AdapterFiles;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// What was trained, of commands that use it.
final class AdapterOptions {
    @Option(
            names = "--adapter",
            paramLabel = "DIR",
            description = "an adapter's folder, or a run's (its best adapter); without it the model as it is")
    @Nullable
    Path adapter;

    /// The folder with the adapter, or with the whole model where all of it was trained, which is then what `model` means. Texts end
    /// as they did in training, where nothing else was said.
    ///
    /// @return null where none was named
    @Nullable
    Path folder(ModelOptions model) {
        Path folder = adapter == null ? null : RunFolder.adapter(adapter);
        if (folder != null && !Files.isRegularFile(folder.resolve(AdapterFiles.CONFIG))) {
            model.model = folder.toString();
        }
        if (folder != null && model.eosToken == null && TaskCard.isIn(folder)) {
            model.eosToken = TaskCard.read(folder).eosToken();
        }
        return folder;
    }
}
