package dev.loran.peft.chat;

import dev.loran.peft.chat.Lexer.Kind;
import dev.loran.peft.chat.Lexer.Token;
import java.util.List;

/// A place among the tokens of a template.
class Cursor {
    final String name;
    final List<Token> tokens;
    int at;

    Cursor(String name, List<Token> tokens) {
        this.name = name;
        this.tokens = tokens;
    }

    Token peek() {
        return tokens.get(at);
    }

    Token next() {
        return tokens.get(at < tokens.size() - 1 ? at++ : at);
    }

    boolean isName(String word) {
        return peek().is(Kind.NAME, word);
    }

    boolean isOperator(String operator) {
        return peek().is(Kind.OPERATOR, operator);
    }

    boolean skipName(String word) {
        boolean found = isName(word);
        at += found ? 1 : 0;
        return found;
    }

    boolean skip(String operator) {
        boolean found = isOperator(operator);
        at += found ? 1 : 0;
        return found;
    }

    void expect(String operator) {
        if (!skip(operator)) {
            throw bad("\"" + operator + "\" is expected, found " + peek().shown());
        }
    }

    Token expect(Kind kind, String what) {
        if (peek().kind() != kind) {
            throw bad(what + " is expected, found " + peek().shown());
        }
        return next();
    }

    TemplateException bad(String problem) {
        return new TemplateException(name, peek().line(), problem);
    }
}
