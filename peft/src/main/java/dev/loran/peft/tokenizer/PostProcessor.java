package dev.loran.peft.tokenizer;

import java.util.ArrayList;
import java.util.List;

/// The special tokens that stand before and after a text.
record PostProcessor(int[] before, int[] after) {
    static final PostProcessor NONE = new PostProcessor(new int[0], new int[0]);

    /// @param end one more than the largest id that a token has
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
            // It moves the places of tokens in the text alone.
            case "ByteLevel" -> NONE;
            case "BertProcessing", "RobertaProcessing" ->
                new PostProcessor(new int[] {pair(field.at("cls"), end)}, new int[] {pair(field.at("sep"), end)});
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
        if (field.optional("pair") != null) {
            template(field.at("pair"), special, end);
        }
        List<int[]> parts = template(field.at("single"), special, end);
        if (parts.size() != 2) {
            throw field.at("single").problem("has the text " + (parts.size() - 1) + " times, not once");
        }
        return new PostProcessor(parts.getFirst(), parts.get(1));
    }

    /// The ids before, between and after the texts of a template.
    private static List<int[]> template(Field template, Field special, int end) {
        List<int[]> parts = new ArrayList<>();
        int[] part = new int[0];
        for (Field piece : template.list()) {
            Field content = piece.only("an object with SpecialToken or Sequence");
            if (content.path().endsWith(".SpecialToken")) {
                part = concat(part, special(content.at("id"), special, end));
            } else if (content.path().endsWith(".Sequence")) {
                requireSequence(content.at("id"), template);
                parts.add(part);
                part = new int[0];
            } else {
                throw piece.problem("is neither SpecialToken nor Sequence");
            }
        }
        parts.add(part);
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

    private static int[] concat(int[] a, int[] b) {
        int[] both = java.util.Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        return both;
    }
}
