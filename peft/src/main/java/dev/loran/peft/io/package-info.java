/// Basics for input and output: [InputException] for user errors, with [Nearest] to guess what was meant; [JsonFile]
/// for files that contain one JSON object; [Drafts] for files and folders that are written atomically.
@NullMarked
package dev.loran.peft.io;

import org.jspecify.annotations.NullMarked;
