package dev.loran.peft.tokenizer;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/// The special tokens around a single text, and around a pair of texts.
///
/// @param before those before a single text
/// @param after those after it
/// @param pair the parts of a pair, in order
record PostProcessor(int[] before, int[] after, List<Part> pair) {
    static final PostProcessor NONE =
            new PostProcessor(new int[0], new int[0], List.of(Part.text(0, 0), Part.text(1, 1)));

    /// A part of a pair: special tokens, or a text.
    ///
    /// @param ids the special tokens; none for a text
    /// @param text 0 for the first text, 1 for the second, -1 for special tokens
    /// @param type the type of all tokens in the part
    record Part(int[] ids, int text, int type) {
        static Part text(int which, int type) {
            return new Part(new int[0], which, type);
        }

        static Part special(int type, int... ids) {
            return new Part(ids, -1, type);
        }
    }

    /// @param end one more than the largest token id
    static PostProcessor read(Field field, int end) {
        return switch (field.type()) {
            case "Sequence" -> {
                PostProcessor adding = NONE;
                for (Field step : field.steps("processors")) {
                    PostProcessor one = read(step, end);
                    if (one != NONE && adding != NONE) {
                        throw step.problem("adds tokens a second time, which is not supported");
                    }
                    adding = one == NONE ? adding : one;
                }
                yield adding;
            }
            // It only adjusts the tokens' offsets in the text.
            case "ByteLevel" -> NONE;
            case "BertProcessing" -> {
                int cls = pair(field.at("cls"), end);
                int sep = pair(field.at("sep"), end);
                List<Part> pair = List.of(
                        Part.special(0, cls),
                        Part.text(0, 0),
                        Part.special(0, sep),
                        Part.text(1, 1),
                        Part.special(1, sep));
                yield new PostProcessor(new int[] {cls}, new int[] {sep}, pair);
            }
            case "RobertaProcessing" -> {
                int cls = pair(field.at("cls"), end);
                int sep = pair(field.at("sep"), end);
                List<Part> pair = List.of(
                        Part.special(0, cls),
                        Part.text(0, 0),
                        Part.special(0, sep, sep),
                        Part.text(1, 0),
                        Part.special(0, sep));
                yield new PostProcessor(new int[] {cls}, new int[] {sep}, pair);
            }
            case "TemplateProcessing" -> template(field, end);
            default ->
                throw field.at("type")
                        .unsupported("post-processors are Sequence, ByteLevel, BertProcessing, RobertaProcessing"
                                + " and TemplateProcessing");
        };
    }

    /// The id of a special token written as `["[CLS]", 101]`.
    private static int pair(Field field, int end) {
        List<Field> pair = field.list();
        if (pair.size() != 2) {
            throw field.problem("has " + pair.size() + " entries, not a token and its id");
        }
        pair.getFirst().text();
        return pair.get(1).number(end - 1);
    }

    private static PostProcessor template(Field field, int end) {
        Field special = field.at("special_tokens");
        List<Part> pair = field.optional("pair") == null ? NONE.pair : template(field.at("pair"), special, end);
        List<Part> single = template(field.at("single"), special, end);
        long texts = single.stream().filter(part -> part.text == 0).count();
        if (texts != 1) {
            throw field.at("single").problem("has the text " + texts + " times, not once");
        }
        int at = single.indexOf(
                single.stream().filter(part -> part.text == 0).findFirst().orElseThrow());
        return new PostProcessor(ids(single.subList(0, at)), ids(single.subList(at + 1, single.size())), pair);
    }

    private static List<Part> template(Field template, Field special, int end) {
        List<Part> parts = new ArrayList<>();
        for (Field piece : template.list()) {
            Field content = piece.only("an object with SpecialToken or Sequence");
            Field typeId = content.optional("type_id");
            int type = typeId == null ? 0 : typeId.number(Integer.MAX_VALUE);
            if (content.path().endsWith(".SpecialToken")) {
                parts.add(Part.special(type, special(content.at("id"), special, end)));
            } else if (content.path().endsWith(".Sequence")) {
                requireSequence(content.at("id"), template);
                parts.add(Part.text(content.at("id").text().equals("A") ? 0 : 1, type));
            } else {
                throw piece.problem("is neither SpecialToken nor Sequence");
            }
        }
        return parts;
    }

    private static void requireSequence(Field id, Field template) {
        boolean pair = template.path().endsWith(".pair");
        if (!id.text().equals("A") && !(pair && id.text().equals("B"))) {
            throw id.problem("is " + id.json() + (pair ? ", neither A nor B" : ", not A"));
        }
    }

    private static int[] special(Field id, Field specialTokens, int end) {
        Field token = specialTokens.at(id.text());
        if (token.json().isMissingNode()) {
            throw id.problem(Field.shown(id.json().toString()) + " is not among special_tokens");
        }
        int[] ids = token.at("ids").list().stream()
                .mapToInt(each -> each.number(end - 1))
                .toArray();
        if (ids.length != token.at("tokens").list().size()) {
            throw token.problem("has another number of ids than of tokens");
        }
        return ids;
    }

    /// The special tokens of some parts.
    static int[] ids(List<Part> parts) {
        return parts.stream().flatMapToInt(part -> Arrays.stream(part.ids)).toArray();
    }
}
