/// The command line:
/// `loran quickstart | train | sweep | eval | predict | generate | compare | report | ui | merge | inspect |
/// targets | doctor`.
/// [dev.loran.peft.cli.Main] contains what all commands share: exit codes and the last line of JSON.
@NullMarked
package dev.loran.peft.cli;

import org.jspecify.annotations.NullMarked;
