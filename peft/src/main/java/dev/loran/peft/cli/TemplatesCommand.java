package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.chat.Chat;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.chat.TemplateException;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ChatTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.RunFolder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/// `loran templates`.
@Command(
        name = "templates",
        description = {
            "Shows how a model's chat template writes a chat, and which parts of it training learns: green on a "
                    + "terminal, between ⟦ and ⟧ elsewhere.",
            "It computes nothing: the folder may have no weights."
        },
        sortOptions = false,
        footer = {"", "Example: loran templates qwen-folder --file chats.jsonl --rows 3"})
final class TemplatesCommand implements Callable<Integer> {
    private static final String GREEN = "\033[32m";
    private static final String PLAIN = "\033[0m";

    private final Output output;
    private final ObjectNode result = JsonNodeFactory.instance.objectNode();

    @Parameters(paramLabel = "MODEL", description = "a folder with a tokenizer, or a run's adapter")
    private Path folder;

    @Option(
            names = "--file",
            paramLabel = "FILE",
            description = "chats to show, as for task chat (an example): " + DataOptions.FILES)
    private @Nullable Path file;

    @Option(names = "--rows", paramLabel = "N", description = "how many of them (${DEFAULT-VALUE})")
    private int rows = 1;

    @Mixin
    private DataOptions files;

    @Mixin
    private ModelOptions model;

    @Mixin
    private CommonOptions common;

    TemplatesCommand(Output output) {
        this.output = output;
    }

    static picocli.CommandLine.Model.CommandSpec spec(Output output) {
        return CommonOptions.adapt(
                picocli.CommandLine.Model.CommandSpec.forAnnotatedObject(new TemplatesCommand(output)),
                Map.of(),
                List.of(
                        "--model",
                        "--batch-size",
                        "--max-length",
                        "--dtype",
                        "--device",
                        "--threads",
                        "--seed",
                        "--eos-token"));
    }

    @Override
    public Integer call() {
        ChatFormat format = format();
        if (rows < 1) {
            throw new InputException("--rows " + rows + " must be at least 1");
        }
        if (file == null) {
            show(
                    format,
                    Chat.of("How do I tie my shoes?")
                            .with("assistant", "With a bow.")
                            .with("user", "Thank you!")
                            .with("assistant", "You are welcome."),
                    "an example");
            return done();
        }
        List<Chat> chats = new ArrayList<>();
        RowSource source = files.rows(file, Part.TRAIN, Part.VALIDATION);
        int[] seen = {0};
        source.only(source.name(), () -> row -> seen[0]++ < rows)
                .forEach(new ChatTask(), (row, line) -> chats.add(((Row.Chat) row).chat()));
        for (int i = 0; i < chats.size(); i++) {
            show(format, chats.get(i), "%s, row %d".formatted(source.name(), i + 1));
        }
        return done();
    }

    private int done() {
        if (common.json) {
            output.out().println(result);
        }
        return Main.DONE;
    }

    private ChatFormat format() {
        Path trained = Files.isDirectory(folder) ? RunFolder.adapter(folder) : folder;
        if (model.tokenizer() == null && TaskCard.isIn(trained)) {
            model.trainedFormat = TaskCard.read(trained).chat();
            if (model.trainedFormat != null && model.chatTemplate == null) {
                return model.trainedFormat;
            }
        }
        Path words = model.tokenizer() == null ? folder : model.tokenizer();
        try (Tokenizer tokenizer = Tokenizer.load(words)) {
            return ChatTask.format(tokenizer.withChatFormat(model.chatFormat(tokenizer, words)));
        }
    }

    private void show(ChatFormat format, Chat chat, String title) {
        ChatFormat.Rendered rendered;
        try {
            rendered = format.rendered(chat);
        } catch (TemplateException e) {
            throw new InputException(title + ": " + e.getMessage(), e);
        }
        ObjectNode row = result.withArray("rows").addObject().put("text", rendered.text());
        rendered.learned()
                .forEach(span ->
                        row.withArray("learned").addArray().add(span.from()).add(span.to()));
        output.say(title + ":");
        StringBuilder text = new StringBuilder();
        int done = 0;
        for (ChatFormat.Span span : rendered.learned()) {
            text.append(visible(rendered.text().substring(done, span.from())));
            text.append(output.terminal() ? GREEN : "⟦");
            text.append(visible(rendered.text().substring(span.from(), span.to())));
            text.append(output.terminal() ? PLAIN : "⟧");
            done = span.to();
        }
        output.out().println(text.append(visible(rendered.text().substring(done))));
    }

    /// Without what would move a terminal's cursor.
    private static String visible(String text) {
        return text.replaceAll("[\\p{Cntrl}&&[^\\n\\t]]", "?");
    }
}
