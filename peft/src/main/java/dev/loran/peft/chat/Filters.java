package dev.loran.peft.chat;

import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.Function;
import dev.loran.peft.chat.Values.Namespace;
import dev.loran.peft.chat.Values.None;
import dev.loran.peft.chat.Values.Undefined;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// Jinja's filters and tests, each a function of the value and further arguments, and the functions that templates
/// know by name.
final class Filters {
    private static final int MOST_RANGE = 100_000;

    static final Map<String, Function> FILTERS = Map.copyOf(filters());
    static final Map<String, Function> TESTS = Map.copyOf(tests());
    static final Map<String, Object> GLOBALS = Map.of(
            "raise_exception",
            (Function) (a, f) -> {
                throw new Problem("the template refuses this chat: " + Values.string(a.get(0, "message")));
            },
            "strftime_now",
            (Function) (a, f) -> Strings.date(f.run.now, a.string(0, "format")),
            "range",
            (Function) Filters::range,
            "namespace",
            (Function) (a, f) -> new Namespace(new HashMap<>(map(a))),
            "dict",
            (Function) (a, f) -> map(a));

    private Filters() {}

    private static Map<String, Object> map(Arguments a) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (Object given : a.positional()) {
            if (!(given instanceof Map<?, ?> values)) {
                throw new Problem(a.of() + " of " + Values.kind(given));
            }
            values.forEach((k, v) -> map.put(Values.string(k), v));
        }
        map.putAll(a.named());
        return map;
    }

    private static Object range(Arguments a, Frame frame) {
        a.most(3);
        boolean alone = a.positional().size() == 1;
        long from = alone ? 0 : Values.integer(a.get(0, "start"));
        long to = Values.integer(a.get(alone ? 0 : 1, "stop"));
        long step = a.integer(2, "step", 1);
        if (step == 0) {
            throw new Problem("range has the step 0");
        }
        List<Object> all = new ArrayList<>();
        for (long i = from; step > 0 ? i < to : i > to; i += step) {
            if (all.size() == MOST_RANGE) {
                throw new Problem("range has more than " + MOST_RANGE + " items");
            }
            all.add(i);
        }
        return frame.made(all);
    }

    // ---- filters

    private static Map<String, Function> filters() {
        Map<String, Function> all = new HashMap<>();
        texts(all);
        lists(all);
        all.put("tojson", (a, f) -> f.made(json(a)));
        all.put(
                "default",
                (a, f) -> a.get(0, "") instanceof Undefined || a.flag(2, "boolean") && !Values.truth(a.get(0, ""))
                        ? a.get(1, "default_value", "")
                        : a.get(0, ""));
        all.put("d", all.get("default"));
        all.put("length", (a, f) -> (long) Values.length(a.get(0, "")));
        all.put("count", all.get("length"));
        all.put("int", (a, f) -> integer(a.get(0, ""), a.get(1, "default", 0L)));
        all.put("float", (a, f) -> floating(a.get(0, ""), a.get(1, "default", 0.0)));
        all.put(
                "abs",
                (a, f) -> Values.number(a.get(0, "")) instanceof Long n
                        ? (Object) Math.abs(n)
                        : Math.abs(Values.doubled(a.get(0, ""))));
        all.put("round", (a, f) -> rounded(a));
        all.put(
                "items",
                (a, f) -> a.get(0, "") instanceof Undefined ? List.of() : Methods.pairs(mapping(a.get(0, ""))));
        all.put("dictsort", (a, f) -> {
            List<Object> pairs = Methods.pairs(mapping(a.get(0, "")));
            pairs.sort((x, y) -> Values.compare(
                    folded(Values.item(x, 0L), a.flag(1, "case_sensitive")),
                    folded(Values.item(y, 0L), a.flag(1, "case_sensitive"))));
            return pairs;
        });
        all.put("attr", (a, f) -> Values.attribute(a.get(0, ""), a.string(1, "name")));
        return all;
    }

    private static Map<?, ?> mapping(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map;
        }
        throw new Problem(Values.kind(value) + " where a dictionary is needed");
    }

    private static void texts(Map<String, Function> all) {
        all.put("string", (a, f) -> Values.string(a.get(0, "")));
        all.put("safe", all.get("string"));
        all.put("trim", (a, f) -> Strings.strip(Values.string(a.get(0, "")), a.get(1, "chars", None.NONE), true, true));
        all.put("upper", (a, f) -> Values.string(a.get(0, "")).toUpperCase(Locale.ROOT));
        all.put("lower", (a, f) -> Values.string(a.get(0, "")).toLowerCase(Locale.ROOT));
        all.put("capitalize", (a, f) -> Strings.capitalize(Values.string(a.get(0, ""))));
        all.put("title", (a, f) -> {
            StringBuilder title = new StringBuilder();
            for (String word : Values.string(a.get(0, "")).split("(?<=[-\\s({\\[<])|(?=[-\\s({\\[<])")) {
                title.append(Strings.capitalize(word));
            }
            return title.toString();
        });
        all.put("replace", (a, f) -> {
            List<Object> rest = new ArrayList<>();
            a.rest().positional().forEach(each -> rest.add(Values.string(each)));
            if (rest.size() == 3) {
                rest.set(2, a.get(3, "count"));
            }
            return Methods.replaced(Values.string(a.get(0, "")), new Arguments("replace", rest, a.named()), f);
        });
        all.put(
                "join",
                (a, f) -> Methods.joined(
                        Values.string(a.get(1, "d", "")),
                        chosen(Values.items(a.get(0, "")), a.get(2, "attribute", None.NONE)),
                        f));
        all.put(
                "escape",
                (a, f) -> f.made(Values.string(a.get(0, ""))
                        .replace("&", "&amp;")
                        .replace("<", "&lt;")
                        .replace(">", "&gt;")
                        .replace("'", "&#39;")
                        .replace("\"", "&#34;")));
        all.put("e", all.get("escape"));
        all.put("indent", (a, f) -> f.made(indented(a)));
        all.put(
                "format",
                (a, f) -> f.made(Strings.format(a.string(0, ""), a.rest().positional())));
        all.put("wordcount", (a, f) -> (long)
                Strings.split(Values.string(a.get(0, "")), None.NONE, -1, false).size());
    }

    private static void lists(Map<String, Function> all) {
        all.put("list", (a, f) -> f.made(Values.items(a.get(0, ""))));
        all.put("first", (a, f) -> end(a.get(0, ""), true));
        all.put("last", (a, f) -> end(a.get(0, ""), false));
        all.put("reverse", (a, f) -> {
            List<Object> items = Values.items(a.get(0, ""));
            Collections.reverse(items);
            return a.get(0, "") instanceof String ? Methods.joined("", items, f) : items;
        });
        all.put("sort", (a, f) -> sorted(a));
        all.put("unique", (a, f) -> {
            List<Object> kept = new ArrayList<>();
            for (Object item : Values.items(a.get(0, ""))) {
                f.spend(kept.size());
                if (kept.stream().noneMatch(k -> Values.equal(folded(k, false), folded(item, false)))) {
                    kept.add(item);
                }
            }
            return kept;
        });
        all.put("sum", (a, f) -> {
            Object sum = a.get(2, "start", 0L);
            for (Object item : chosen(Values.items(a.get(0, "")), a.get(1, "attribute", None.NONE))) {
                sum = Values.binary("+", sum, item, f);
            }
            return sum;
        });
        all.put("min", (a, f) -> extreme(a, -1));
        all.put("max", (a, f) -> extreme(a, 1));
        all.put("map", (a, f) -> {
            List<Object> items = Values.items(a.get(0, ""));
            if (a.named().containsKey("attribute")) {
                return chosen(items, a.get(9, "attribute"), a.named().get("default"));
            }
            Function filter = named(FILTERS, "filter", a.string(1, "filter"));
            Arguments rest = a.rest().rest();
            return new ArrayList<>(
                    items.stream().map(item -> filter.call(with(item, rest), f)).toList());
        });
        all.put("select", (a, f) -> selected(a, false, true, f));
        all.put("reject", (a, f) -> selected(a, false, false, f));
        all.put("selectattr", (a, f) -> selected(a, true, true, f));
        all.put("rejectattr", (a, f) -> selected(a, true, false, f));
    }

    /// @throws Problem if there is no such filter or test
    static Function named(Map<String, Function> all, String what, String name) {
        Function found = all.get(name);
        if (found == null) {
            throw new Problem("the " + what + " \"" + name + "\" is not known");
        }
        return found;
    }

    static Arguments with(Object first, Arguments rest) {
        List<Object> all = new ArrayList<>();
        all.add(first);
        all.addAll(rest.positional());
        return new Arguments(rest.of(), all, rest.named());
    }

    private static List<Object> selected(Arguments a, boolean attribute, boolean keep, Frame frame) {
        Arguments test = attribute ? a.rest().rest() : a.rest();
        Function accepts = test.positional().isEmpty()
                ? (v, f) -> Values.truth(v.get(0, ""))
                : named(TESTS, "test", test.string(0, "test"));
        List<Object> kept = new ArrayList<>();
        for (Object item : Values.items(a.get(0, ""))) {
            Object tested = attribute ? path(item, a.get(1, "attribute")) : item;
            if (Values.truth(accepts.call(with(tested, test.rest()), frame)) == keep) {
                kept.add(item);
            }
        }
        return kept;
    }

    /// The attribute of each item; the items if the attribute is None.
    private static List<Object> chosen(List<Object> items, Object attribute) {
        return chosen(items, attribute, null);
    }

    private static List<Object> chosen(List<Object> items, Object attribute, @Nullable Object otherwise) {
        if (attribute == None.NONE) {
            return items;
        }
        List<Object> all = new ArrayList<>();
        for (Object item : items) {
            Object value = path(item, attribute);
            all.add(value instanceof Undefined && otherwise != null ? otherwise : value);
        }
        return all;
    }

    /// Items of items, separated by dots.
    private static Object path(Object item, Object attribute) {
        Object value = item;
        for (String part : Values.string(attribute).split("\\.")) {
            value = Values.item(value, part.matches("\\d{1,9}") ? (Object) Long.parseLong(part) : part);
        }
        return value;
    }

    private static Object end(Object value, boolean first) {
        List<Object> items = Values.items(value);
        return items.isEmpty()
                ? new Undefined("the " + (first ? "first" : "last") + " item of an empty list")
                : first ? items.getFirst() : items.getLast();
    }

    private static Object folded(Object value, boolean cased) {
        return value instanceof String s && !cased ? s.toLowerCase(Locale.ROOT) : value;
    }

    private static List<Object> sorted(Arguments a) {
        Object attribute = a.get(3, "attribute", None.NONE);
        boolean cased = a.flag(2, "case_sensitive");
        Comparator<Object> order = (x, y) -> Values.compare(
                folded(attribute == None.NONE ? x : path(x, attribute), cased),
                folded(attribute == None.NONE ? y : path(y, attribute), cased));
        List<Object> items = new ArrayList<>(Values.items(a.get(0, "")));
        items.sort(a.flag(1, "reverse") ? order.reversed() : order);
        return items;
    }

    private static Object extreme(Arguments a, int sign) {
        List<Object> items = Values.items(a.get(0, ""));
        Object best = items.isEmpty() ? new Undefined("the extreme of an empty list") : items.getFirst();
        for (Object item : items) {
            best = sign * Values.compare(folded(item, false), folded(best, false)) > 0 ? item : best;
        }
        return best;
    }

    static Object integer(Object value, Object otherwise) {
        return switch (Values.number(value)) {
            case Long n -> n;
            case Double d when !d.isNaN() && !d.isInfinite() -> d.longValue();
            case String s -> {
                try {
                    yield s.strip().matches("[+-]?\\d+")
                            ? Long.parseLong(s.strip())
                            : (long) Double.parseDouble(s.strip());
                } catch (NumberFormatException e) {
                    yield otherwise;
                }
            }
            default -> otherwise;
        };
    }

    private static Object floating(Object value, Object otherwise) {
        try {
            return value instanceof String s ? (Object) Double.parseDouble(s.strip()) : (Object) Values.doubled(value);
        } catch (NumberFormatException | Problem e) {
            return otherwise;
        }
    }

    private static Object rounded(Arguments a) {
        RoundingMode mode = switch (Values.string(a.get(2, "method", "common"))) {
            case "ceil" -> RoundingMode.CEILING;
            case "floor" -> RoundingMode.FLOOR;
            default -> RoundingMode.HALF_EVEN;
        };
        return new BigDecimal(Values.doubled(a.get(0, "")))
                .setScale(Math.clamp(a.integer(1, "precision", 0), -20, 20), mode)
                .doubleValue();
    }

    private static String indented(Arguments a) {
        Object width = a.get(1, "width", 4L);
        String by = width instanceof String s ? s : " ".repeat(Math.clamp(Values.integer(width), 0, 1000));
        boolean first = a.flag(2, "first");
        boolean blank = a.flag(3, "blank");
        StringBuilder all = new StringBuilder();
        String[] lines = Values.string(a.get(0, "")).split("\n", -1);
        for (int i = 0; i < lines.length; i++) {
            boolean indents = i == 0 ? first : blank || !lines[i].isEmpty();
            all.append(i == 0 ? "" : "\n").append(indents ? by : "").append(lines[i]);
        }
        return all.toString();
    }

    private static String json(Arguments a) {
        Object indent = a.get(2, "indent", None.NONE);
        if (a.positional().size() > 2
                || indent == None.NONE && a.positional().size() > 1 && !(a.get(1, "") instanceof Boolean)) {
            throw new Problem("tojson: give indent by its name");
        }
        Object separators = a.named().getOrDefault("separators", None.NONE);
        boolean flat = indent == None.NONE;
        return new Strings.Json(
                        a.flag(1, "ensure_ascii"),
                        flat
                                ? null
                                : indent instanceof String s
                                        ? s
                                        : " ".repeat(Math.clamp(Values.integer(indent), 0, 100)),
                        separators == None.NONE ? flat ? ", " : "," : Values.string(Values.item(separators, 0L)),
                        separators == None.NONE ? ": " : Values.string(Values.item(separators, 1L)),
                        Values.truth(a.named().getOrDefault("sort_keys", false)))
                .of(a.get(0, "value"));
    }

    // ---- tests

    private static Map<String, Function> tests() {
        Map<String, Function> all = new HashMap<>();
        kinds(all);
        all.put("odd", (a, f) -> Math.floorMod(Values.integer(a.get(0, "")), 2) == 1);
        all.put("even", (a, f) -> Math.floorMod(Values.integer(a.get(0, "")), 2) == 0);
        all.put("divisibleby", (a, f) -> Values.equal(Values.binary("%", a.get(0, ""), a.get(1, "num"), f), 0L));
        all.put("in", (a, f) -> Values.contains(a.get(1, "seq"), a.get(0, "")));
        all.put(
                "sameas",
                (a, f) -> a.get(0, "") == a.get(1, "other")
                        || a.get(0, "") instanceof Boolean b && b.equals(a.get(1, "other")));
        all.put("upper", (a, f) -> isCase(Values.string(a.get(0, "")), true));
        all.put("lower", (a, f) -> isCase(Values.string(a.get(0, "")), false));
        compare(all, (a, f) -> Values.equal(a.get(0, ""), a.get(1, "other")), "eq", "equalto", "==");
        compare(all, (a, f) -> !Values.equal(a.get(0, ""), a.get(1, "other")), "ne", "!=");
        compare(all, (a, f) -> Values.compare(a.get(0, ""), a.get(1, "other")) < 0, "lt", "lessthan", "<");
        compare(all, (a, f) -> Values.compare(a.get(0, ""), a.get(1, "other")) > 0, "gt", "greaterthan", ">");
        compare(all, (a, f) -> Values.compare(a.get(0, ""), a.get(1, "other")) <= 0, "le", "<=");
        compare(all, (a, f) -> Values.compare(a.get(0, ""), a.get(1, "other")) >= 0, "ge", ">=");
        return all;
    }

    private static void compare(Map<String, Function> all, Function test, String... names) {
        for (String name : names) {
            all.put(name, test);
        }
    }

    private static void kinds(Map<String, Function> all) {
        all.put("defined", (a, f) -> !(a.get(0, "") instanceof Undefined));
        all.put("undefined", (a, f) -> a.get(0, "") instanceof Undefined);
        all.put("none", (a, f) -> a.get(0, "") == None.NONE);
        all.put("true", (a, f) -> Boolean.TRUE.equals(a.get(0, "")));
        all.put("false", (a, f) -> Boolean.FALSE.equals(a.get(0, "")));
        all.put("boolean", (a, f) -> a.get(0, "") instanceof Boolean);
        all.put("string", (a, f) -> a.get(0, "") instanceof String);
        all.put("mapping", (a, f) -> a.get(0, "") instanceof Map);
        all.put("integer", (a, f) -> a.get(0, "") instanceof Long);
        all.put("float", (a, f) -> a.get(0, "") instanceof Double);
        all.put("number", (a, f) -> Values.number(a.get(0, "")) instanceof Number);
        all.put("sequence", (a, f) -> isSequence(a.get(0, "")));
        all.put("iterable", (a, f) -> isSequence(a.get(0, "")) || a.get(0, "") instanceof Undefined);
        all.put("callable", (a, f) -> a.get(0, "") instanceof Function);
        all.put("escaped", (a, f) -> false);
        all.put("filter", (a, f) -> FILTERS.containsKey(a.string(0, "")));
        all.put("test", (a, f) -> TESTS.containsKey(a.string(0, "")));
    }

    private static boolean isSequence(Object value) {
        return value instanceof List || value instanceof Map || value instanceof String;
    }

    static boolean isCase(String text, boolean upper) {
        return text.codePoints().anyMatch(upper ? Character::isUpperCase : Character::isLowerCase)
                && text.codePoints().noneMatch(upper ? Character::isLowerCase : Character::isUpperCase);
    }
}
