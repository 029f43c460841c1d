package dev.loran.peft.chat;

import dev.loran.peft.chat.Expressions.Expression;
import dev.loran.peft.chat.Lexer.Kind;
import dev.loran.peft.chat.Lexer.Token;
import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.Attributes;
import dev.loran.peft.chat.Values.Function;
import dev.loran.peft.chat.Values.Namespace;
import dev.loran.peft.chat.Values.Undefined;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// A Jinja template in the dialect of Hugging Face's chat templates: what transformers renders, with `trim_blocks`,
/// `lstrip_blocks`, loop controls, `{% generation %}`, and Python's values and methods. A template sees the variables
/// that it is given and nothing else, changes none of them, and may do a limited amount of work, so that one from
/// anywhere may be rendered. What is not supported is refused when it is read.
final class Template {
    private static final int MAX_DEPTH = 100;
    private static final int MAX_SOURCE = 1 << 20;

    private final String name;
    private final Expressions code;
    private final Statement root;
    private boolean generates;
    private int depth;
    private int loops;

    /// A part of the rendered text, in chars.
    record Span(int from, int to) {}

    /// @param generated the parts within `{% generation %}`
    record Rendered(String text, List<Span> generated) {}

    private enum Flow {
        NEXT,
        BREAK,
        CONTINUE
    }

    private interface Statement {
        Flow run(Frame frame);
    }

    /// Reads a template.
    ///
    /// @param name for messages
    /// @throws TemplateException with the line, if it is not one
    Template(String name, String source) {
        if (source.length() > MAX_SOURCE) {
            throw new TemplateException(name, 1, "longer than " + MAX_SOURCE + " characters");
        }
        this.name = name;
        this.code = new Expressions(name, new Lexer(name, source).tokens());
        this.root = body(Set.of());
    }

    /// Whether it marks what a model generates.
    boolean generates() {
        return generates;
    }

    /// @throws TemplateException if it fails, or refuses the variables
    Rendered render(Map<String, Object> variables, LocalDateTime now) {
        Frame.Run run = new Frame.Run(name, now);
        Frame globals = new Frame(run);
        variables.forEach(globals::set);
        try {
            root.run(globals);
        } catch (Problem e) {
            throw new TemplateException(name + ": " + e.getMessage());
        }
        return new Rendered(run.text.toString(), List.copyOf(run.generated));
    }

    // ---- statements

    /// Everything up to one of the `ends`, which is not skipped, or to the end.
    private Statement body(Set<String> ends) {
        if (++depth > MAX_DEPTH) {
            throw code.bad("blocks are nested more than " + MAX_DEPTH + " times");
        }
        List<Statement> all = new ArrayList<>();
        while (true) {
            Token token = code.peek();
            if (token.kind() == Kind.END) {
                if (!ends.isEmpty()) {
                    throw code.bad("a block does not end: "
                            + String.join(" or ", ends.stream().sorted().toList()) + " is missing");
                }
                break;
            }
            code.next();
            if (token.kind() == Kind.DATA) {
                all.add(f -> {
                    f.print(token.text());
                    return Flow.NEXT;
                });
            } else if (token.kind() == Kind.PRINT) {
                Expression value = code.tuple(true);
                code.expect(Kind.PRINT_END, "\"}}\"");
                all.add(simple(token.line(), f -> f.print(Values.string(value.value(f)))));
            } else {
                Token word = code.peek();
                if (word.kind() == Kind.NAME && ends.contains(word.text())) {
                    break;
                }
                code.expect(Kind.NAME, "the name of a block");
                all.add(statement(word));
            }
        }
        depth--;
        return f -> {
            for (Statement each : all) {
                Flow flow = each.run(f);
                if (flow != Flow.NEXT) {
                    return flow;
                }
            }
            return Flow.NEXT;
        };
    }

    private interface Action {
        void run(Frame frame);
    }

    private Statement simple(int line, Action action) {
        return f -> {
            f.spend(1);
            try {
                action.run(f);
            } catch (Problem e) {
                throw new TemplateException(name, line, String.valueOf(e.getMessage()));
            }
            return Flow.NEXT;
        };
    }

    private Statement statement(Token word) {
        int line = word.line();
        return switch (word.text()) {
            case "for" -> loop(line);
            case "if" -> condition();
            case "set" -> assignment(line);
            case "macro" -> macro(line);
            case "call" -> callBlock(line);
            case "filter" -> {
                Statement[] body = new Statement[1];
                Expression filtered =
                        code.filter(code.filterNamed(f -> f.captured((inner, out) -> body[0].run(inner))));
                body[0] = block("endfilter");
                yield simple(line, f -> f.print(Values.string(filtered.value(f))));
            }
            case "generation" -> generation(line);
            case "with" -> with();
            case "break", "continue" -> {
                if (loops == 0) {
                    throw code.bad(word.text() + " outside of a loop");
                }
                endOfTag();
                yield f -> word.text().equals("break") ? Flow.BREAK : Flow.CONTINUE;
            }
            default -> throw new TemplateException(name, line, "the block \"" + word.text() + "\" is not supported");
        };
    }

    private void endOfTag() {
        code.expect(Kind.BLOCK_END, "\"%}\"");
    }

    /// The rest of a tag, and the block up to its end.
    private Statement block(String end) {
        endOfTag();
        Statement body = body(Set.of(end));
        code.next();
        endOfTag();
        return body;
    }

    private Statement condition() {
        List<Expression> tests = new ArrayList<>();
        List<Statement> bodies = new ArrayList<>();
        Set<String> ends = Set.of("elif", "else", "endif");
        String word = "elif";
        while (!word.equals("endif")) {
            Expression always = f -> true;
            tests.add(word.equals("elif") ? code.tuple(true) : always);
            endOfTag();
            bodies.add(body(word.equals("elif") ? ends : Set.of("endif")));
            word = code.next().text();
        }
        endOfTag();
        return f -> {
            f.spend(1);
            for (int i = 0; i < bodies.size(); i++) {
                if (Values.truth(tests.get(i).value(f))) {
                    return bodies.get(i).run(f);
                }
            }
            return Flow.NEXT;
        };
    }

    // ---- variables

    /// Where a value goes.
    private interface Target {
        void set(Frame frame, Object value);
    }

    private Target target() {
        List<Target> all = new ArrayList<>();
        boolean several = false;
        boolean open = code.skip("(");
        do {
            Token variable = code.expect(Kind.NAME, "a variable");
            if (code.skip(".")) {
                String part = code.expect(Kind.NAME, "a name").text();
                all.add((f, value) -> {
                    if (!(f.get(variable.text()) instanceof Namespace space)) {
                        throw new Problem(variable.text() + " is no namespace; only its attributes can be set");
                    }
                    space.values().put(part, value);
                });
            } else {
                all.add((f, value) -> f.set(variable.text(), value));
            }
            several |= code.isOperator(",");
        } while (code.skip(",") && code.peek().kind() == Kind.NAME && !code.isName("in"));
        if (open) {
            code.expect(")");
        }
        return several ? (f, value) -> unpack(all, f, value) : all.getFirst();
    }

    private static void unpack(List<Target> all, Frame f, Object value) {
        List<Object> items = Values.items(value);
        if (items.size() != all.size()) {
            throw new Problem(items.size() + " values for " + all.size() + " variables");
        }
        for (int i = 0; i < all.size(); i++) {
            all.get(i).set(f, items.get(i));
        }
    }

    private Statement assignment(int line) {
        Target target = target();
        if (code.skip("=")) {
            Expression value = code.tuple(true);
            endOfTag();
            return simple(line, f -> target.set(f, value.value(f)));
        }
        Statement[] body = new Statement[1];
        Expression text = code.filter(f -> f.captured((inner, out) -> body[0].run(inner)));
        body[0] = block("endset");
        return simple(line, f -> target.set(f, text.value(f)));
    }

    private Statement with() {
        List<Target> targets = new ArrayList<>();
        List<Expression> values = new ArrayList<>();
        while (code.peek().kind() == Kind.NAME) {
            String variable = code.next().text();
            targets.add((f, value) -> f.set(variable, value));
            code.expect("=");
            values.add(code.expression());
            code.skip(",");
        }
        Statement body = block("endwith");
        return f -> {
            Frame inner = f.inner();
            for (int i = 0; i < targets.size(); i++) {
                targets.get(i).set(inner, values.get(i).value(f));
            }
            return body.run(inner);
        };
    }

    // ---- loops

    /// The variable `loop`.
    private record Loop(int index0, List<Object> items, int depth0) implements Attributes {
        @Override
        public Object attribute(String attribute) {
            int length = items.size();
            return switch (attribute) {
                case "index" -> index0 + 1L;
                case "index0" -> (long) index0;
                case "revindex" -> (long) length - index0;
                case "revindex0" -> length - index0 - 1L;
                case "first" -> index0 == 0;
                case "last" -> index0 == length - 1;
                case "length" -> (long) length;
                case "depth" -> depth0 + 1L;
                case "depth0" -> (long) depth0;
                case "previtem" -> index0 == 0 ? new Undefined("loop.previtem") : items.get(index0 - 1);
                case "nextitem" -> index0 == length - 1 ? new Undefined("loop.nextitem") : items.get(index0 + 1);
                case "cycle" ->
                    (Function)
                            (a, f) -> a.positional().get(index0 % a.positional().size());
                default -> throw new Problem("loop." + attribute + " is not supported");
            };
        }
    }

    private Statement loop(int line) {
        Target target = target();
        if (!code.skipName("in")) {
            throw code.bad("\"in\" is expected, found " + code.peek().shown());
        }
        Expression over = code.tuple(false);
        Expression test = code.skipName("if") ? code.expression() : null;
        if (code.isName("recursive")) {
            throw code.bad("recursive loops are not supported");
        }
        endOfTag();
        loops++;
        Statement body = body(Set.of("else", "endfor"));
        loops--;
        Statement otherwise = code.next().text().equals("else") ? block("endfor") : null;
        if (otherwise == null) {
            endOfTag();
        }
        return f -> {
            List<Object> items = items(line, target, over, test, f);
            for (int i = 0; i < items.size(); i++) {
                f.spend(1);
                Frame inner = f.inner();
                assign(line, target, inner, items.get(i));
                inner.set("loop", new Loop(i, items, 0));
                if (body.run(inner) == Flow.BREAK) {
                    break;
                }
            }
            return items.isEmpty() && otherwise != null ? otherwise.run(f.inner()) : Flow.NEXT;
        };
    }

    private List<Object> items(int line, Target target, Expression over, @Nullable Expression test, Frame f) {
        List<Object> all;
        try {
            all = f.made(Values.items(over.value(f)));
        } catch (Problem e) {
            throw new TemplateException(name, line, String.valueOf(e.getMessage()));
        }
        if (test == null) {
            return all;
        }
        List<Object> some = new ArrayList<>();
        for (Object item : all) {
            Frame inner = f.inner();
            assign(line, target, inner, item);
            if (Values.truth(test.value(inner))) {
                some.add(item);
            }
        }
        return some;
    }

    private void assign(int line, Target target, Frame f, Object value) {
        try {
            target.set(f, value);
        } catch (Problem e) {
            throw new TemplateException(name, line, String.valueOf(e.getMessage()));
        }
    }

    // ---- macros

    /// The parameters of a macro, with the defaults of the last ones.
    private Map<String, Expression> parameters() {
        Map<String, Expression> all = new LinkedHashMap<>();
        code.expect("(");
        while (!code.skip(")")) {
            String parameter = code.expect(Kind.NAME, "a parameter").text();
            all.put(parameter, code.skip("=") ? code.expression() : f -> new Undefined("the parameter " + parameter));
            if (!code.isOperator(")")) {
                code.expect(",");
            }
        }
        return all;
    }

    private Function macro(Map<String, Expression> parameters, Statement body, Frame where) {
        List<Map.Entry<String, Expression>> all = List.copyOf(parameters.entrySet());
        String[] known =
                Stream.concat(parameters.keySet().stream(), Stream.of("caller")).toArray(String[]::new);
        return (a, f) -> {
            a.most(all.size(), known);
            return where.captured((inner, out) -> {
                for (int i = 0; i < all.size(); i++) {
                    String parameter = all.get(i).getKey();
                    Object given = a.get(i, parameter, Flow.NEXT);
                    inner.set(
                            parameter,
                            given == Flow.NEXT ? all.get(i).getValue().value(inner) : given);
                }
                Object caller = a.named().get("caller");
                if (caller != null) {
                    inner.set("caller", caller);
                }
                body.run(inner);
            });
        };
    }

    private Statement macro(int line) {
        String macro = code.expect(Kind.NAME, "the name of a macro").text();
        Map<String, Expression> parameters = parameters();
        int outer = loops;
        loops = 0;
        Statement body = block("endmacro");
        loops = outer;
        return simple(line, f -> f.set(macro, macro(parameters, body, f)));
    }

    private Statement callBlock(int line) {
        Map<String, Expression> parameters = code.isOperator("(") ? parameters() : Map.of();
        Token called = code.expect(Kind.NAME, "the name of a macro");
        Expressions.Actual given = code.arguments(called.text());
        Statement body = block("endcall");
        return simple(line, f -> {
            if (!(f.get(called.text()) instanceof Function function)) {
                throw new Problem(called.text() + " is no macro");
            }
            Arguments values = given.values(f);
            Map<String, Object> named = new HashMap<>(values.named());
            named.put("caller", macro(parameters, body, f));
            f.print(Values.string(function.call(new Arguments(values.of(), values.positional(), named), f)));
        });
    }

    private Statement generation(int line) {
        generates = true;
        Statement body = block("endgeneration");
        return simple(line, f -> {
            if (f.run.out != f.run.text) {
                throw new Problem("a block generation within a macro or a block set");
            }
            int from = f.run.text.length();
            String text = f.captured((inner, out) -> body.run(inner));
            f.print(text);
            f.run.generated.add(new Span(from, from + text.length()));
        });
    }
}
