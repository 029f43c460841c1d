package dev.loran.peft.task;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;

/// The entities that the tags of a text's words mark: `B-TYPE` begins one, `I-TYPE` goes on with it, `O` is none; also
/// `E-TYPE`, which ends one, and `S-TYPE`, which is one. Tags that contradict each other are read as seqeval does in
/// its default mode, and conlleval before it: an `I-` or `E-` that follows nothing of its type begins an entity.
///
/// Where none of a model's tags has such a form, as for parts of speech, each word with a tag but `O` is an entity.
final class Entities {
    private Entities() {}

    /// @param from the first word
    /// @param to the last word
    record Entity(String type, int from, int to) {}

    /// Whether tags mark entities of several words.
    static boolean areChunks(List<String> names) {
        return names.stream().anyMatch(name -> name.matches("[BIES]-.+"));
    }

    /// The type of the entities that a tag marks; empty for `O`.
    static String type(String tag, boolean chunks) {
        if (tag.equals("O")) {
            return "";
        }
        return chunks && tag.matches("[BIES]-.+") ? tag.substring(2) : tag;
    }

    private static char place(String tag, boolean chunks) {
        return tag.equals("O") ? 'O' : chunks && tag.matches("[BIES]-.+") ? tag.charAt(0) : 'S';
    }

    /// The entities in a text, in order.
    ///
    /// @param tags one for each word
    /// @param chunks [#areChunks] of all tags
    static List<Entity> of(List<String> tags, boolean chunks) {
        List<Entity> entities = new ArrayList<>();
        char before = 'O';
        String type = "";
        int from = 0;
        for (int i = 0; i <= tags.size(); i++) {
            String tag = i < tags.size() ? tags.get(i) : "O";
            char place = place(tag, chunks);
            String next = type(tag, chunks);
            boolean same = next.equals(type);
            if (before != 'O' && (ends(before, place) || !same)) {
                entities.add(new Entity(type, from, i - 1));
            }
            if (place != 'O' && (begins(before, place) || !same)) {
                from = i;
            }
            before = place;
            type = next;
        }
        return entities;
    }

    private static boolean ends(char before, char place) {
        return before == 'E' || before == 'S' || place == 'B' || place == 'S' || place == 'O';
    }

    private static boolean begins(char before, char place) {
        return place == 'B' || place == 'S' || Set.of('O', 'E', 'S').contains(before);
    }
}
