package dev.loran.peft.cli;

import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/// What is put before the texts that an encoder such as e5 embeds.
final class PrefixOptions {
    @Option(
            names = "--query-prefix",
            paramLabel = "TEXT",
            description = "embed: what stands before each anchor or query, such as \"query: \" (what the adapter was "
                    + "trained with, or the model's sentence-transformers files say)")
    @Nullable
    String query;

    @Option(
            names = "--passage-prefix",
            paramLabel = "TEXT",
            description = "embed: what stands before each positive, negative or passage, such as \"passage: \"")
    @Nullable
    String passage;

    /// The settings that were given.
    Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        if (query != null) {
            settings.put(EmbedTask.QUERY_PREFIX, query);
        }
        if (passage != null) {
            settings.put(EmbedTask.PASSAGE_PREFIX, passage);
        }
        return settings;
    }

    /// The task with the prefixes that were given; or else its own; or else those of the model's files.
    Task of(Task task, OpenModel open) {
        Map<String, String> given = settings();
        if (!given.isEmpty()) {
            return task.with(given);
        }
        return task instanceof EmbedTask embed && !embed.hasPrefixes()
                ? embed.with(SentencePooling.prefixes(open.folder()))
                : task;
    }

    /// The same for a card.
    ///
    /// @param trained whether it says how the model was trained; the model's files then say nothing
    TaskCard of(TaskCard card, boolean trained, OpenModel open) {
        return trained && settings().isEmpty() ? card : card.withTask(of(card.task(), open));
    }
}
