/// The options that commands share and that need no model: files of options, rows, and where the results go.
@NullMarked
package dev.loran.peft.cli.options;

import org.jspecify.annotations.NullMarked;
