package dev.loran.peft.chat;

import dev.loran.peft.chat.Lexer.Kind;
import dev.loran.peft.chat.Lexer.Token;
import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.Function;
import dev.loran.peft.chat.Values.None;
import dev.loran.peft.chat.Values.Tuple;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// Reads expressions. Precedence, from the loosest: `x if y else z`, `or`, `and`, `not`, comparisons, `+ -`, `~`,
/// `* / // %`, `**`, signs, filters and tests, parts and calls.
final class Expressions extends Cursor {
    private static final int MAX_DEPTH = 100;
    private static final Set<String> COMPARISONS = Set.of("==", "!=", "<", "<=", ">", ">=");
    private static final Set<String> NO_ARGUMENT = Set.of("else", "or", "and", "is", "if", "in", "not", "recursive");

    /// An expression, ready to be computed.
    interface Expression {
        Object value(Frame frame);
    }

    private int depth;

    Expressions(String name, List<Token> tokens) {
        super(name, tokens);
    }

    /// The expression with its line added to problems.
    private Expression placed(int line, Expression e) {
        return frame -> {
            frame.spend(1);
            try {
                return e.value(frame);
            } catch (Problem p) {
                throw new TemplateException(name, line, String.valueOf(p.getMessage()));
            }
        };
    }

    // ---- expressions

    /// An expression, or several with commas between: a tuple.
    ///
    /// @param conditional whether `x if y` is a part of it
    Expression tuple(boolean conditional) {
        Expression first = conditional ? expression() : or();
        if (!isOperator(",")) {
            return first;
        }
        List<Expression> all = new ArrayList<>(List.of(first));
        while (skip(",")) {
            if (isEnd()) {
                break;
            }
            all.add(conditional ? expression() : or());
        }
        return frame -> new Tuple(values(all, frame));
    }

    private boolean isEnd() {
        Kind kind = peek().kind();
        return kind == Kind.PRINT_END || kind == Kind.BLOCK_END || isOperator(")") || isName("in") || isOperator("=");
    }

    private static List<Object> values(List<Expression> all, Frame frame) {
        List<Object> values = new ArrayList<>(all.size());
        all.forEach(e -> values.add(e.value(frame)));
        return values;
    }

    Expression expression() {
        if (++depth > MAX_DEPTH) {
            throw bad("an expression is nested more than " + MAX_DEPTH + " times");
        }
        Expression value = or();
        while (skipName("if")) {
            Expression then = value;
            Expression test = or();
            Expression otherwise = skipName("else") ? expression() : f -> new Values.Undefined("an if without else");
            value = f -> Values.truth(test.value(f)) ? then.value(f) : otherwise.value(f);
        }
        depth--;
        return value;
    }

    private Expression or() {
        Expression left = and();
        while (skipName("or")) {
            Expression a = left;
            Expression b = and();
            left = f -> {
                Object value = a.value(f);
                return Values.truth(value) ? value : b.value(f);
            };
        }
        return left;
    }

    private Expression and() {
        Expression left = not();
        while (skipName("and")) {
            Expression a = left;
            Expression b = not();
            left = f -> {
                Object value = a.value(f);
                return Values.truth(value) ? b.value(f) : value;
            };
        }
        return left;
    }

    private Expression not() {
        int negations = 0;
        while (skipName("not")) {
            negations++;
        }
        Expression value = comparison();
        boolean negated = negations % 2 == 1;
        return negations == 0 ? value : f -> Values.truth(value.value(f)) != negated;
    }

    private record Comparison(String operator, Expression right) {
        boolean holds(Object a, Object b) {
            return switch (operator) {
                case "==" -> Values.equal(a, b);
                case "!=" -> !Values.equal(a, b);
                case "<" -> Values.compare(a, b) < 0;
                case "<=" -> Values.compare(a, b) <= 0;
                case ">" -> Values.compare(a, b) > 0;
                case ">=" -> Values.compare(a, b) >= 0;
                default -> Values.contains(b, a) == operator.equals("in");
            };
        }
    }

    private Expression comparison() {
        int line = peek().line();
        Expression first = sum();
        List<Comparison> all = new ArrayList<>();
        for (String operator = comparing(); operator != null; operator = comparing()) {
            all.add(new Comparison(operator, sum()));
        }
        return all.isEmpty()
                ? first
                : placed(line, f -> {
                    Object left = first.value(f);
                    for (Comparison c : all) {
                        Object right = c.right.value(f);
                        if (!c.holds(left, right)) {
                            return false;
                        }
                        left = right;
                    }
                    return true;
                });
    }

    /// The operator of a comparison, skipped; null for none.
    private @Nullable String comparing() {
        if (peek().kind() == Kind.OPERATOR && COMPARISONS.contains(peek().text())) {
            return next().text();
        }
        if (isName("not") && tokens.get(at + 1).is(Kind.NAME, "in")) {
            at += 2;
            return "not in";
        }
        return skipName("in") ? "in" : null;
    }

    private Expression sum() {
        return chain(Set.of("+", "-"), this::concatenation);
    }

    private Expression concatenation() {
        int line = peek().line();
        List<Expression> all = new ArrayList<>(List.of(product()));
        while (skip("~")) {
            all.add(product());
        }
        return all.size() == 1 ? all.getFirst() : placed(line, f -> Methods.joined("", values(all, f), f));
    }

    private Expression product() {
        return chain(Set.of("*", "/", "//", "%"), () -> chain(Set.of("**"), () -> signed(true)));
    }

    private Expression chain(Set<String> operators, Supplier<Expression> operand) {
        int line = peek().line();
        Expression left = operand.get();
        while (peek().kind() == Kind.OPERATOR && operators.contains(peek().text())) {
            String operator = next().text();
            Expression a = left;
            Expression b = operand.get();
            left = placed(line, f -> Values.binary(operator, a.value(f), b.value(f), f));
        }
        return left;
    }

    private Expression signed(boolean filtered) {
        int line = peek().line();
        if (++depth > MAX_DEPTH) {
            throw bad("an expression is nested more than " + MAX_DEPTH + " times");
        }
        Expression value;
        if (skip("-")) {
            Expression of = signed(false);
            value = placed(
                    line,
                    f -> Values.number(of.value(f)) instanceof Double d
                            ? (Object) (-d)
                            : Values.binary("-", 0L, of.value(f), f));
        } else if (skip("+")) {
            Expression of = signed(false);
            value = placed(line, f -> Values.binary("+", 0L, of.value(f), f));
        } else {
            value = parts(primary());
        }
        depth--;
        return filtered ? filters(value) : value;
    }

    private Expression filters(Expression of) {
        Expression value = of;
        while (true) {
            int line = peek().line();
            if (isOperator("|")) {
                value = filter(value);
            } else if (skipName("is")) {
                value = test(value, line);
            } else if (isOperator("(")) {
                value = call(value, "the call", line);
            } else {
                return value;
            }
        }
    }

    /// Any number of filters, from `|` on.
    Expression filter(Expression of) {
        Expression value = of;
        while (skip("|")) {
            value = filterNamed(value);
        }
        return value;
    }

    /// One filter, from its name on.
    Expression filterNamed(Expression of) {
        Token token = expect(Kind.NAME, "a filter");
        Function filter = found(Filters.FILTERS, "filter", token);
        Actual rest = isOperator("(") ? arguments(token.text()) : new Actual(token.text(), List.of(), Map.of());
        return placed(token.line(), f -> filter.call(Filters.with(of.value(f), rest.values(f)), f));
    }

    private Function found(Map<String, Function> all, String what, Token token) {
        try {
            return Filters.named(all, what, token.text());
        } catch (Problem e) {
            throw new TemplateException(name, token.line(), String.valueOf(e.getMessage()));
        }
    }

    private Expression test(Expression of, int line) {
        boolean negated = skipName("not");
        Token token = expect(Kind.NAME, "a test");
        Function test = found(Filters.TESTS, "test", token);
        Actual rest = new Actual(token.text(), List.of(), Map.of());
        Kind kind = peek().kind();
        boolean takes = kind == Kind.STRING
                || kind == Kind.INTEGER
                || kind == Kind.FLOAT
                || isOperator("[")
                || isOperator("{")
                || kind == Kind.NAME && !NO_ARGUMENT.contains(peek().text());
        if (isOperator("(")) {
            rest = arguments(token.text());
        } else if (takes) {
            rest = new Actual(token.text(), List.of(parts(primary())), Map.of());
        }
        Actual given = rest;
        return placed(line, f -> Values.truth(test.call(Filters.with(of.value(f), given.values(f)), f)) != negated);
    }

    // ---- parts and calls

    private Expression parts(Expression of) {
        Expression value = of;
        while (true) {
            int line = peek().line();
            if (skip(".")) {
                Expression from = value;
                Token part = next();
                if (part.kind() == Kind.INTEGER) {
                    long index = Long.parseLong(part.text());
                    value = placed(line, f -> Values.item(from.value(f), index));
                } else if (part.kind() == Kind.NAME) {
                    value = placed(line, f -> Values.attribute(from.value(f), part.text()));
                } else {
                    at--;
                    throw bad("a name is expected behind the dot, found " + part.shown());
                }
            } else if (skip("[")) {
                value = placed(line, subscript(value));
                expect("]");
            } else if (isOperator("(")) {
                value = call(value, tokens.get(at - 1).text(), line);
            } else {
                return value;
            }
        }
    }

    private Expression subscript(Expression of) {
        Expression none = f -> None.NONE;
        Expression from = isOperator(":") ? none : expression();
        if (!skip(":")) {
            return f -> Values.item(of.value(f), from.value(f));
        }
        Expression to = isOperator(":") || isOperator("]") ? none : expression();
        Expression step = skip(":") && !isOperator("]") ? expression() : none;
        return f -> Values.slice(of.value(f), from.value(f), to.value(f), step.value(f), f);
    }

    private Expression call(Expression of, String called, int line) {
        Actual given = arguments(called);
        return placed(line, f -> {
            Object value = of.value(f);
            if (value instanceof Function function) {
                return function.call(given.values(f), f);
            }
            throw new Problem(
                    called + " is called, but is " + Values.kind(value).replace(",", ""));
        });
    }

    /// Arguments as they are written.
    record Actual(String of, List<Expression> positional, Map<String, Expression> named) {
        Arguments values(Frame frame) {
            Map<String, Object> values = new LinkedHashMap<>();
            named.forEach((key, e) -> values.put(key, e.value(frame)));
            return new Arguments(of, Expressions.values(positional, frame), values);
        }
    }

    Actual arguments(String of) {
        expect("(");
        List<Expression> positional = new ArrayList<>();
        Map<String, Expression> named = new LinkedHashMap<>();
        while (!skip(")")) {
            if (isOperator("*") || isOperator("**")) {
                throw bad("\"" + peek().text() + "\" before an argument is not supported");
            }
            if (peek().kind() == Kind.NAME && tokens.get(at + 1).is(Kind.OPERATOR, "=")) {
                String key = next().text();
                next();
                named.put(key, expression());
            } else {
                positional.add(expression());
            }
            if (!isOperator(")")) {
                expect(",");
            }
        }
        return new Actual(of, positional, named);
    }

    // ---- the smallest expressions

    private Expression primary() {
        Token token = next();
        return switch (token.kind()) {
            case STRING -> {
                StringBuilder text = new StringBuilder(token.text());
                while (peek().kind() == Kind.STRING) {
                    text.append(next().text());
                }
                String all = text.toString();
                yield f -> all;
            }
            case INTEGER -> {
                long value = integer(token);
                yield f -> value;
            }
            case FLOAT -> {
                double value = Double.parseDouble(token.text());
                yield f -> value;
            }
            case NAME -> word(token);
            case OPERATOR -> grouped(token);
            default -> throw unexpected(token);
        };
    }

    private long integer(Token token) {
        try {
            return Long.parseLong(token.text());
        } catch (NumberFormatException e) {
            throw new TemplateException(name, token.line(), "the integer is not within 64 bits");
        }
    }

    private TemplateException unexpected(Token token) {
        return new TemplateException(name, token.line(), "an expression is expected, found " + token.shown());
    }

    private static Expression word(Token token) {
        return switch (token.text()) {
            case "true", "True" -> f -> true;
            case "false", "False" -> f -> false;
            case "none", "None" -> f -> None.NONE;
            default -> f -> f.get(token.text());
        };
    }

    private Expression grouped(Token token) {
        return switch (token.text()) {
            case "(" -> {
                if (skip(")")) {
                    yield f -> new Tuple(List.of());
                }
                Expression inside = tuple(true);
                expect(")");
                yield inside;
            }
            case "[" -> {
                List<Expression> items = new ArrayList<>();
                while (!skip("]")) {
                    items.add(expression());
                    if (!isOperator("]")) {
                        expect(",");
                    }
                }
                yield f -> values(items, f);
            }
            case "{" -> dictionary();
            default -> throw unexpected(token);
        };
    }

    private Expression dictionary() {
        List<Expression> keys = new ArrayList<>();
        List<Expression> values = new ArrayList<>();
        while (!skip("}")) {
            keys.add(expression());
            expect(":");
            values.add(expression());
            if (!isOperator("}")) {
                expect(",");
            }
        }
        return f -> {
            Map<Object, Object> map = new LinkedHashMap<>();
            for (int i = 0; i < keys.size(); i++) {
                map.put(keys.get(i).value(f), values.get(i).value(f));
            }
            return map;
        };
    }
}
