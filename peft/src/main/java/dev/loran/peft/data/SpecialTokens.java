package dev.loran.peft.data;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.tokenizer.HfTokenizer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.OptionalInt;
import java.util.SequencedSet;
import org.jspecify.annotations.Nullable;

/// The tokens that mean something beside the text, as a model's files name them, looked for where transformers looks.
///
/// | token | files, the first that names it |
/// |---|---|
/// | what training puts after a text | what the caller says; the template; `eos_token` (1); `eos_token_id` (2) |
/// | what ends a generated text | all of these, and the others of `eos_token_id` |
///
/// 1. of `tokenizer_config.json`, of `special_tokens_map.json`
/// 2. one or a list, of `generation_config.json`, else of `config.json`
final class SpecialTokens {
    private final HfTokenizer tokenizer;
    private final List<JsonNode> named = new ArrayList<>();
    private final @Nullable String said;
    private final String name;
    private final SequencedSet<Integer> modelEnds = new LinkedHashSet<>();
    /// What the files name as an end and the vocabulary does not have.
    private final List<String> unknown = new ArrayList<>();

    /// @param tokenizer what `tokenizer.json` holds
    /// @param name what error messages call that
    /// @param tokenizerFolder where the two files are that name tokens; null for none
    /// @param modelFolder where the two are that name ids; null for none
    /// @param eosToken the end token, whatever the files say; null to let them say it
    /// @throws InputException if `eosToken` is no token, or a file is damaged
    SpecialTokens(
            HfTokenizer tokenizer,
            String name,
            @Nullable Path tokenizerFolder,
            @Nullable Path modelFolder,
            @Nullable String eosToken) {
        this.name = name;
        this.tokenizer = tokenizer;
        for (String names : List.of("tokenizer_config.json", "special_tokens_map.json")) {
            named.add(read(tokenizerFolder, names));
        }
        readEnds(modelFolder);
        if (eosToken != null && tokenizer.id(eosToken).isEmpty()) {
            throw new InputException("end token \"" + eosToken + "\" is no token of " + name);
        }
        this.said = eosToken;
    }

    private static JsonNode read(@Nullable Path folder, String file) {
        return folder != null && Files.isRegularFile(folder.resolve(file))
                ? JsonFile.read(folder.resolve(file))
                : JsonNodeFactory.instance.objectNode();
    }

    private void readEnds(@Nullable Path modelFolder) {
        for (String file : List.of("generation_config.json", "config.json")) {
            JsonNode ends = read(modelFolder, file).path("eos_token_id");
            for (JsonNode end : ends.isArray() ? ends : List.of(ends)) {
                if (end.isInt() && tokenizer.token(end.asInt()) != null) {
                    modelEnds.add(end.asInt());
                } else if (!end.isMissingNode() && !end.isNull()) {
                    unknown.add("eos_token_id " + end + " of " + file);
                }
            }
            if (!ends.isMissingNode() && !ends.isNull()) {
                return;
            }
        }
    }

    /// The padding token: the one that is named, or else one of the usual names.
    OptionalInt pad() {
        OptionalInt pad = named("pad_token");
        for (String usual : List.of("[PAD]", "<pad>")) {
            pad = pad.isEmpty() ? tokenizer.id(usual) : pad;
        }
        return pad;
    }

    /// The token that the caller or the tokenizer's files name as the end of a text.
    OptionalInt eos() {
        return said != null ? tokenizer.id(said) : named("eos_token");
    }

    /// What training puts after a text; empty for nothing.
    ///
    /// @param template what the tokenizer's template puts there
    int[] after(int[] template) {
        if (said == null && template.length > 0) {
            return template;
        }
        return eos().stream().boxed().findFirst().or(() -> modelEnds.stream().findFirst()).stream()
                .mapToInt(Integer::intValue)
                .toArray();
    }

    /// What ends a generated text.
    List<Integer> ends(int[] template) {
        SequencedSet<Integer> ends = new LinkedHashSet<>();
        int[] after = after(template);
        if (after.length > 0) {
            ends.add(after[0]);
        }
        eos().ifPresent(ends::add);
        ends.addAll(modelEnds);
        return List.copyOf(ends);
    }

    /// That nothing names an end, and what to do.
    InputException noEnd() {
        return new InputException(name + ": nothing says which token ends a text"
                + (unknown.isEmpty() ? "" : " (" + String.join(", ", unknown) + " is not in the vocabulary)")
                + ", so an answer would never end; name one by --eos-token TOKEN, or as eos_token in"
                + " tokenizer_config.json");
    }

    /// A string, or an object with `content`.
    private OptionalInt named(String key) {
        for (JsonNode names : named) {
            JsonNode token = names.path(key);
            OptionalInt id = tokenizer.id(token.path("content").asText(token.asText("")));
            if (id.isPresent()) {
                return id;
            }
        }
        return OptionalInt.empty();
    }
}
