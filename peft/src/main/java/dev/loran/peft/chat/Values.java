package dev.loran.peft.chat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.chat.TemplateException.Problem;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.AbstractList;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/// The values of a template, and Python's operators on them. A value is a [None], [Undefined], Boolean, Long, Double,
/// String, List ([Tuple] for a tuple), Map, or a thing with attributes or a function, which a template can only use.
final class Values {
    private static final int MAX_DEPTH = 200;

    private Values() {}

    /// Python's `None`.
    enum None {
        NONE
    }

    /// What a name or an attribute has that does not exist.
    record Undefined(String name) {
        Problem problem() {
            return new Problem(name + " is undefined");
        }
    }

    /// Something with attributes only.
    interface Attributes {
        Object attribute(String name);
    }

    /// A function, a method or a macro.
    interface Function {
        Object call(Arguments arguments, Frame frame);
    }

    /// What `namespace()` makes.
    record Namespace(Map<String, Object> values) implements Attributes {
        @Override
        public Object attribute(String name) {
            Object value = values.get(name);
            return value == null ? new Undefined("the namespace's \"" + name + "\"") : value;
        }
    }

    /// A list that prints as a tuple.
    static final class Tuple extends AbstractList<Object> {
        private final List<Object> items;

        Tuple(List<Object> items) {
            this.items = List.copyOf(items);
        }

        static Tuple of(Object... items) {
            return new Tuple(List.of(items));
        }

        @Override
        public Object get(int index) {
            return items.get(index);
        }

        @Override
        public int size() {
            return items.size();
        }
    }

    // ---- conversion

    /// The value of JSON.
    static Object of(JsonNode json) {
        if (json.isObject()) {
            Map<Object, Object> map = new LinkedHashMap<>();
            json.properties().forEach(e -> map.put(e.getKey(), of(e.getValue())));
            return map;
        }
        if (json.isArray()) {
            List<Object> list = new ArrayList<>();
            json.forEach(item -> list.add(of(item)));
            return list;
        }
        if (json.isTextual()) {
            return json.textValue();
        }
        if (json.isBoolean()) {
            return json.booleanValue();
        }
        if (json.isIntegralNumber() && json.canConvertToLong()) {
            return json.longValue();
        }
        return json.isNumber() ? json.doubleValue() : None.NONE;
    }

    static boolean truth(Object value) {
        return switch (value) {
            case Boolean b -> b;
            case None n -> false;
            case Undefined u -> false;
            case Long n -> n != 0;
            case Double d -> d != 0;
            case String s -> !s.isEmpty();
            case List<?> list -> !list.isEmpty();
            case Map<?, ?> map -> !map.isEmpty();
            default -> true;
        };
    }

    /// Python's `str`.
    static String string(Object value) {
        return switch (value) {
            case String s -> s;
            case Undefined u -> "";
            default -> repr(value, 0);
        };
    }

    static String repr(Object value, int depth) {
        if (depth > MAX_DEPTH) {
            throw new Problem("a value is nested more than " + MAX_DEPTH + " times");
        }
        return switch (value) {
            case None n -> "None";
            case Undefined u -> "Undefined";
            case Boolean b -> b ? "True" : "False";
            case Double d -> floating(d);
            case String s -> Strings.repr(s);
            case List<?> list -> {
                StringBuilder all = new StringBuilder(list instanceof Tuple ? "(" : "[");
                for (Object item : list) {
                    all.append(all.length() > 1 ? ", " : "").append(repr(item, depth + 1));
                }
                yield all.append(list instanceof Tuple ? list.size() == 1 ? ",)" : ")" : "]")
                        .toString();
            }
            case Map<?, ?> map -> {
                StringBuilder all = new StringBuilder("{");
                map.forEach((k, v) -> all.append(all.length() > 1 ? ", " : "")
                        .append(repr(k, depth + 1))
                        .append(": ")
                        .append(repr(v, depth + 1)));
                yield all.append("}").toString();
            }
            case Attributes a -> "<object>";
            case Function f -> "<function>";
            default -> value.toString();
        };
    }

    /// A double as Python's `repr` has it.
    static String floating(double value) {
        if (Double.isNaN(value)) {
            return "nan";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "inf" : "-inf";
        }
        if (value == 0) {
            return 1 / value < 0 ? "-0.0" : "0.0";
        }
        BigDecimal exact = new BigDecimal(Double.toString(value)).stripTrailingZeros();
        int exponent = exact.precision() - exact.scale() - 1;
        if (exponent >= -4 && exponent < 16) {
            String plain = exact.toPlainString();
            return plain.contains(".") ? plain : plain + ".0";
        }
        String digits = exact.unscaledValue().abs().toString();
        return (value < 0 ? "-" : "")
                + digits.charAt(0)
                + (digits.length() > 1 ? "." + digits.substring(1) : "")
                + "e"
                + (exponent < 0 ? "-" : "+")
                + (Math.abs(exponent) < 10 ? "0" : "")
                + Math.abs(exponent);
    }

    /// The items of what can be iterated over: characters, items, or keys.
    static List<Object> items(Object value) {
        return switch (value) {
            case List<?> list -> new ArrayList<>(list);
            case Map<?, ?> map -> new ArrayList<>(map.keySet());
            case String s ->
                new ArrayList<>(s.codePoints().mapToObj(Character::toString).toList());
            case Undefined u -> List.of();
            default -> throw new Problem(kind(value) + " cannot be iterated over");
        };
    }

    static int length(Object value) {
        return switch (value) {
            case List<?> list -> list.size();
            case Map<?, ?> map -> map.size();
            case String s -> s.codePointCount(0, s.length());
            case Undefined u -> 0;
            default -> throw new Problem(kind(value) + " has no length");
        };
    }

    /// What kind of value it is, for messages.
    static String kind(Object value) {
        return switch (value) {
            case None n -> "none";
            case Undefined u -> u.name() + ", which is undefined,";
            case Boolean b -> "a boolean";
            case Long n -> "an integer";
            case Double d -> "a float";
            case String s -> "a string";
            case List<?> l -> "a list";
            case Map<?, ?> m -> "a dictionary";
            default -> "an object";
        };
    }

    static int integer(Object value) {
        if (number(value) instanceof Long n && n == n.intValue()) {
            return n.intValue();
        }
        throw new Problem(kind(value) + " where an integer is needed");
    }

    /// A boolean as a number; other values as they are.
    static Object number(Object value) {
        return value instanceof Boolean b ? (Object) (b ? 1L : 0L) : value;
    }

    private static boolean isNumber(Object value) {
        return value instanceof Long || value instanceof Double;
    }

    // ---- comparison

    static boolean equal(Object a, Object b) {
        Object x = number(a);
        Object y = number(b);
        if (isNumber(x) && isNumber(y)) {
            return x instanceof Long && y instanceof Long ? x.equals(y) : doubled(x) == doubled(y);
        }
        if (x instanceof Undefined && y instanceof Undefined) {
            return true;
        }
        if (x instanceof List<?> one && y instanceof List<?> other) {
            if (one.size() != other.size() || one instanceof Tuple != other instanceof Tuple) {
                return false;
            }
            Iterator<?> others = other.iterator();
            return one.stream().allMatch(item -> equal(item, others.next()));
        }
        if (x instanceof Map<?, ?> one && y instanceof Map<?, ?> other) {
            return one.size() == other.size()
                    && one.entrySet().stream()
                            .allMatch(e -> other.containsKey(e.getKey()) && equal(e.getValue(), other.get(e.getKey())));
        }
        return x.equals(y);
    }

    /// Negative, 0 or positive.
    static int compare(Object a, Object b) {
        Object x = number(a);
        Object y = number(b);
        if (x instanceof Long one && y instanceof Long other) {
            return Long.compare(one, other);
        }
        if (isNumber(x) && isNumber(y)) {
            return Double.compare(doubled(x), doubled(y));
        }
        if (x instanceof String one && y instanceof String other) {
            return Arrays.compare(one.codePoints().toArray(), other.codePoints().toArray());
        }
        if (x instanceof List<?> one && y instanceof List<?> other) {
            for (int i = 0; i < Math.min(one.size(), other.size()); i++) {
                if (!equal(one.get(i), other.get(i))) {
                    return compare(one.get(i), other.get(i));
                }
            }
            return Integer.compare(one.size(), other.size());
        }
        throw new Problem(kind(a) + " and " + kind(b) + " cannot be compared");
    }

    static boolean contains(Object all, Object item) {
        return switch (all) {
            case String s when item instanceof String part -> s.contains(part);
            case String s -> throw new Problem("\"in\" a string needs a string, not " + kind(item));
            case Map<?, ?> map -> map.containsKey(item);
            default -> items(all).stream().anyMatch(each -> equal(each, item));
        };
    }

    static double doubled(Object value) {
        if (number(value) instanceof Number n) {
            return n.doubleValue();
        }
        throw new Problem(kind(value) + " where a number is needed");
    }

    // ---- arithmetic

    static Object binary(String operator, Object a, Object b, Frame frame) {
        Object x = number(a);
        Object y = number(b);
        try {
            if (x instanceof Long one && y instanceof Long other) {
                return integers(operator, one, other);
            }
        } catch (ArithmeticException e) {
            throw new Problem("the result of " + operator + " is not within 64 bits");
        }
        if (isNumber(x) && isNumber(y)) {
            return floats(operator, doubled(x), doubled(y));
        }
        if (operator.equals("+") && x instanceof String one && y instanceof String other) {
            return frame.made(one + other);
        }
        if (operator.equals("+") && x instanceof List<?> one && y instanceof List<?> other) {
            List<Object> both = new ArrayList<>(one);
            both.addAll(other);
            return frame.made(x instanceof Tuple ? new Tuple(both) : both);
        }
        if (operator.equals("*") && y instanceof Long times) {
            return repeated(x, times, frame);
        }
        if (operator.equals("*") && x instanceof Long times) {
            return repeated(y, times, frame);
        }
        if (operator.equals("%") && x instanceof String format) {
            return frame.made(Strings.format(format, y instanceof Tuple all ? all : List.of(b)));
        }
        throw a instanceof Undefined u
                ? u.problem()
                : b instanceof Undefined v
                        ? v.problem()
                        : new Problem("\"" + operator + "\" of " + kind(a) + " and " + kind(b));
    }

    private static Object integers(String operator, long a, long b) {
        boolean divides = operator.equals("/") || operator.equals("//") || operator.equals("%");
        if (b == 0 && divides) {
            throw new Problem("a division by 0");
        }
        return switch (operator) {
            case "+" -> Math.addExact(a, b);
            case "-" -> Math.subtractExact(a, b);
            case "*" -> Math.multiplyExact(a, b);
            case "/" -> (double) a / b;
            case "//" -> Math.floorDiv(a, b);
            case "%" -> Math.floorMod(a, b);
            case "**" -> b < 0 ? (Object) Math.pow(a, b) : (Object) power(a, b);
            default -> throw new Problem("the operator " + operator + " is not known");
        };
    }

    private static long power(long a, long b) {
        if (Math.abs(a) > 1 && b > Long.SIZE) {
            throw new ArithmeticException();
        }
        return BigInteger.valueOf(a)
                .pow((int) (Math.abs(a) > 1 ? b : Math.min(b, 2 + b % 2)))
                .longValueExact();
    }

    private static double floats(String operator, double a, double b) {
        if (b == 0 && (operator.startsWith("/") || operator.equals("%"))) {
            throw new Problem("a division by 0");
        }
        return switch (operator) {
            case "+" -> a + b;
            case "-" -> a - b;
            case "*" -> a * b;
            case "/" -> a / b;
            case "//" -> Math.floor(a / b);
            case "%" -> a - b * Math.floor(a / b);
            case "**" -> Math.pow(a, b);
            default -> throw new Problem("the operator " + operator + " is not known");
        };
    }

    private static Object repeated(Object value, long times, Frame frame) {
        if (!(value instanceof String || value instanceof List<?>)) {
            throw new Problem("\"*\" of an integer and " + kind(value));
        }
        int count = (int) Math.clamp(times, 0L, Integer.MAX_VALUE);
        frame.spend((long) count * length(value));
        if (value instanceof String s) {
            return s.repeat(count);
        }
        List<Object> all = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            all.addAll((List<?>) value);
        }
        return value instanceof Tuple ? new Tuple(all) : all;
    }

    // ---- parts

    /// `value[key]`; a missing key falls back to an attribute, as in Jinja.
    static Object item(Object value, Object key) {
        if (value instanceof Map<?, ?> map && map.containsKey(key)) {
            return map.get(key);
        }
        if (number(key) instanceof Long index && (value instanceof List<?> || value instanceof String)) {
            int size = length(value);
            long place = index < 0 ? index + size : index;
            if (place < 0 || place >= size) {
                return new Undefined("the item " + index + " of " + kind(value) + " of " + size);
            }
            return value instanceof List<?> list
                    ? list.get((int) place)
                    : Strings.slice((String) value, (int) place, (int) place + 1);
        }
        return key instanceof String name ? missing(value, name) : unknown(value, string(key));
    }

    private static Object missing(Object value, String name) {
        return value instanceof Map<?, ?> ? Methods.of(value, name, unknown(value, name)) : attribute(value, name);
    }

    private static Undefined unknown(Object value, String name) {
        if (value instanceof Undefined u) {
            throw u.problem();
        }
        return new Undefined(kind(value) + "'s \"" + name + "\"");
    }

    /// `value.name`: a method, or else an item.
    static Object attribute(Object value, String name) {
        if (value instanceof Attributes object) {
            return object.attribute(name);
        }
        Undefined none = unknown(value, name);
        Object method = Methods.of(value, name, none);
        return method == none && value instanceof Map<?, ?> map && map.containsKey(name) ? map.get(name) : method;
    }

    /// `value[from:to:step]`; None for what is left out.
    static Object slice(Object value, Object from, Object to, Object step, Frame frame) {
        if (value instanceof Undefined u) {
            throw u.problem();
        }
        int by = step == None.NONE ? 1 : integer(step);
        if (by == 0) {
            throw new Problem("a slice has the step 0");
        }
        List<Object> all = items(value);
        int size = all.size();
        int start = bound(from, by > 0 ? 0 : size - 1, size, by);
        int end = bound(to, by > 0 ? size : -1, size, by);
        List<Object> part = new ArrayList<>();
        for (long i = start; by > 0 ? i < end : i > end; i += by) {
            part.add(all.get((int) i));
        }
        frame.spend(part.size());
        if (value instanceof String) {
            StringBuilder text = new StringBuilder();
            part.forEach(text::append);
            return text.toString();
        }
        return value instanceof Tuple ? new Tuple(part) : part;
    }

    private static int bound(Object given, int otherwise, int size, int by) {
        if (given == None.NONE) {
            return otherwise;
        }
        int place = integer(given);
        place = place < 0 ? place + size : place;
        return by > 0 ? Math.clamp(place, 0, size) : Math.clamp(place, -1, size - 1);
    }
}
