package dev.loran.peft.chat;

import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.Function;
import dev.loran.peft.chat.Values.None;
import dev.loran.peft.chat.Values.Tuple;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.IntPredicate;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// The methods of strings, lists and dictionaries. Those that change a value are refused, as transformers does.
final class Methods {
    private static final List<String> CHANGING = List.of(
            "append",
            "extend",
            "insert",
            "remove",
            "sort",
            "reverse",
            "clear",
            "pop",
            "popitem",
            "setdefault",
            "update");

    private Methods() {}

    /// The method of a value.
    ///
    /// @param otherwise the result if it has no such method
    static Object of(Object value, String name, Object otherwise) {
        Function method = switch (value) {
            case String s -> ofString(s, name);
            case List<?> list -> ofList(list, name);
            case Map<?, ?> map -> ofMap(map, name);
            default -> null;
        };
        return method == null ? otherwise : method;
    }

    private static @Nullable Function refused(String name) {
        return !CHANGING.contains(name)
                ? null
                : (a, f) -> {
                    throw new Problem("the method " + name + " changes a value, which templates must not");
                };
    }

    private static @Nullable Function ofList(List<?> list, String name) {
        return switch (name) {
            case "index" ->
                (a, f) -> {
                    for (int i = 0; i < list.size(); i++) {
                        if (Values.equal(list.get(i), a.get(0, "value"))) {
                            return (long) i;
                        }
                    }
                    throw new Problem("index: the list does not have this value");
                };
            case "count" ->
                (a, f) -> list.stream()
                        .filter(item -> Values.equal(item, a.get(0, "value")))
                        .count();
            case "copy" -> (a, f) -> f.made(new ArrayList<Object>(list));
            default -> refused(name);
        };
    }

    private static @Nullable Function ofMap(Map<?, ?> map, String name) {
        return switch (name) {
            case "get" ->
                (a, f) -> {
                    Object value = map.get(a.get(0, "key"));
                    return value == null ? a.get(1, "default", None.NONE) : value;
                };
            case "keys" -> (a, f) -> f.made(new ArrayList<Object>(map.keySet()));
            case "values" -> (a, f) -> f.made(new ArrayList<Object>(map.values()));
            case "items" -> (a, f) -> f.made(pairs(map));
            case "copy" -> (a, f) -> map;
            default -> refused(name);
        };
    }

    static List<Object> pairs(Map<?, ?> map) {
        List<Object> pairs = new ArrayList<>();
        map.forEach((k, v) -> pairs.add(Tuple.of(k, v)));
        return pairs;
    }

    private static @Nullable Function ofString(String s, String name) {
        return switch (name) {
            case "strip" -> (a, f) -> Strings.strip(s, a.get(0, "chars", None.NONE), true, true);
            case "lstrip" -> (a, f) -> Strings.strip(s, a.get(0, "chars", None.NONE), true, false);
            case "rstrip" -> (a, f) -> Strings.strip(s, a.get(0, "chars", None.NONE), false, true);
            case "split", "rsplit" ->
                (a, f) -> f.made(Strings.split(
                        s, a.get(0, "sep", None.NONE), a.integer(1, "maxsplit", -1), name.equals("rsplit")));
            case "splitlines" -> (a, f) -> f.made(Strings.lines(s, a.flag(0, "keepends")));
            case "startswith" -> (a, f) -> any(a.get(0, "prefix"), s::startsWith);
            case "endswith" -> (a, f) -> any(a.get(0, "suffix"), s::endsWith);
            case "upper" -> (a, f) -> s.toUpperCase(Locale.ROOT);
            case "lower", "casefold" -> (a, f) -> s.toLowerCase(Locale.ROOT);
            case "title" -> (a, f) -> Strings.title(s);
            case "capitalize" -> (a, f) -> Strings.capitalize(s);
            case "replace" -> (a, f) -> replaced(s, a, f);
            case "join" -> (a, f) -> joined(s, Values.items(a.get(0, "iterable")), f);
            case "removeprefix" ->
                (a, f) -> s.startsWith(a.string(0, "prefix"))
                        ? s.substring(a.string(0, "prefix").length())
                        : s;
            case "removesuffix" ->
                (a, f) -> s.endsWith(a.string(0, "suffix"))
                        ? s.substring(0, s.length() - a.string(0, "suffix").length())
                        : s;
            case "zfill" ->
                (a, f) -> Strings.format(
                        "%0" + Math.clamp(a.integer(0, "width", 0), 0, 999) + "d", List.of(Filters.integer(s, 0L)));
            default -> found(s, name);
        };
    }

    private static @Nullable Function found(String s, String name) {
        return switch (name) {
            case "find" -> (a, f) -> place(s, s.indexOf(a.string(0, "sub")));
            case "rfind" -> (a, f) -> place(s, s.lastIndexOf(a.string(0, "sub")));
            case "index" ->
                (a, f) -> {
                    long at = place(s, s.indexOf(a.string(0, "sub")));
                    if (at < 0) {
                        throw new Problem("index: the string does not have this part");
                    }
                    return at;
                };
            case "count" ->
                (a, f) -> a.string(0, "sub").isEmpty()
                        ? (long) Values.length(s) + 1
                        : (long) Strings.split(s, a.string(0, "sub"), -1, false).size() - 1;
            case "partition", "rpartition" ->
                (a, f) -> {
                    String by = a.string(0, "sep");
                    boolean last = name.startsWith("r");
                    int at = last ? s.lastIndexOf(by) : s.indexOf(by);
                    if (at < 0) {
                        return last ? Tuple.of("", "", s) : Tuple.of(s, "", "");
                    }
                    return Tuple.of(s.substring(0, at), by, s.substring(at + by.length()));
                };
            case "isdigit", "isdecimal", "isnumeric" -> test(s, Character::isDigit);
            case "isalpha" -> test(s, Character::isLetter);
            case "isalnum" -> test(s, Character::isLetterOrDigit);
            case "isspace" -> test(s, Strings::isSpace);
            case "isupper" -> (a, f) -> Filters.isCase(s, true);
            case "islower" -> (a, f) -> Filters.isCase(s, false);
            case "format", "format_map", "encode", "translate", "center", "ljust", "rjust", "expandtabs", "swapcase" ->
                (a, f) -> {
                    throw new Problem("the method " + name + " of strings is not supported");
                };
            default -> null;
        };
    }

    private static Function test(String s, IntPredicate of) {
        return (a, f) -> !s.isEmpty() && s.codePoints().allMatch(of);
    }

    private static long place(String s, int at) {
        return at < 0 ? -1 : s.codePointCount(0, at);
    }

    private static boolean any(Object ends, Predicate<String> of) {
        return ends instanceof Tuple all
                ? all.stream().anyMatch(end -> of.test(Strings.requireString(end)))
                : of.test(Strings.requireString(ends));
    }

    static String joined(String by, List<Object> items, Frame frame) {
        StringBuilder all = new StringBuilder();
        for (int i = 0; i < items.size(); i++) {
            String item = Values.string(items.get(i));
            frame.spend(by.length() + item.length());
            all.append(i == 0 ? "" : by).append(item);
        }
        return all.toString();
    }

    static String replaced(String s, Arguments a, Frame frame) {
        String old = a.string(0, "old");
        String with = a.string(1, "new");
        int most = a.integer(2, "count", -1);
        if (old.isEmpty()) {
            throw new Problem("replace: the text to replace is empty");
        }
        return joined(with, Strings.split(s, old, most, false), frame);
    }
}
