/// What the command line shows and hears: messages, results, the progress of training, and signals.
@NullMarked
package dev.loran.peft.cli.console;

import org.jspecify.annotations.NullMarked;
