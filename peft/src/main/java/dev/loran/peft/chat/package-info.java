/// Chats as text: the templates of Hugging Face's models.
///
/// Reading order: [Chat] (messages), [ChatFormat] (a template with what it needs, built in or a model's own),
/// [Template] (what it is made of: [Lexer], [Expressions], [Frame], [Values], [Strings], [Methods], [Filters]).
@NullMarked
package dev.loran.peft.chat;

import org.jspecify.annotations.NullMarked;
