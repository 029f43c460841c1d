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

/// The tokens with a special meaning, as a model's files name them, found where transformers finds them.
///
/// | token | source: the first one that names it |
/// |---|---|
/// | the token that training appends to a text | the caller; the template; `eos_token` (1); `eos_token_id` (2) |
/// | the tokens that end a generated text | all of these, and the others of `eos_token_id` |
///
/// 1. in `tokenizer_config.json` or else `special_tokens_map.json`
/// 2. one or a list, in `generation_config.json` or else `config.json`
final class SpecialTokens {
    private final HfTokenizer tokenizer;
    private final List<JsonNode> named = new ArrayList<>();
    private final @Nullable String said;
    private final String name;
    private final SequencedSet<Integer> modelEnds = new LinkedHashSet<>();
    /// End tokens that the files name but the vocabulary does not have.
    private final List<String> unknown = new ArrayList<>();

    /// @param tokenizer the contents of `tokenizer.json`
    /// @param name the name of that file in error messages
    /// @param tokenizerFolder the folder of the two files that name tokens; null for none
    /// @param modelFolder the folder of the two files that name ids; null for none
    /// @param eosToken the end token, overriding the files; null to take it from them
    /// @throws InputException if `eosToken` is not a token, or a file is damaged
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
            throw new InputException("end token \"" + eosToken + "\" is no token of " + name
                    + "; name one of its vocabulary (--eos-token)");
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

    /// The padding token: the one that the files name, or else one with a usual name.
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

    /// The tokens that training appends to a text; empty for none.
    ///
    /// @param template what the tokenizer's template appends
    int[] after(int[] template) {
        if (said == null && template.length > 0) {
            return template;
        }
        return eos().stream().boxed().findFirst().or(() -> modelEnds.stream().findFirst()).stream()
                .mapToInt(Integer::intValue)
                .toArray();
    }

    /// The tokens that end a generated text.
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

    /// The error for a missing end token, with advice.
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
